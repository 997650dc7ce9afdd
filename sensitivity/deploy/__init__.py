"""Leave the laboratory: one plan that feeds simulation, export and engine, and the proof that they agree."""

"""What a study looks like: tables, figures, pages. Reads records, never a model; what is advised is handed in."""

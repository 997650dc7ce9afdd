"""What is done to layers: number formats, observers, recipes, schemes."""

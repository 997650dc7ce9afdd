"""A study as tables: pandas, text, Markdown, LaTeX, reStructuredText, CSV."""

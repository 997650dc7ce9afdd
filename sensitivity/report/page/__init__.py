"""One self-contained interactive page for a study, a search, a verification or two studies side by side."""

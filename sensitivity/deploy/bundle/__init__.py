"""A deployment as a folder of files: what runs it, what it was made of, and a card for people."""

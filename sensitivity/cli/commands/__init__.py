"""One short file a command, each with a function ``register``."""

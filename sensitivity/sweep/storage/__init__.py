"""Where results are kept, so that a sweep can be stopped and resumed."""

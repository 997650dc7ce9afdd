"""What surrounds the networks of a family: preprocessing, raw outputs to predictions, labels; one file a family."""

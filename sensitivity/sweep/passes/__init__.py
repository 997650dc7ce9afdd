"""Run the model and its variants on one batch: here, in other processes, on a cluster."""

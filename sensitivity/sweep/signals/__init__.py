"""What is known of a layer without labels: measured or estimated."""

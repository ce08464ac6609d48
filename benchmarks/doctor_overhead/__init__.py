"""What it costs to be watched: the same training script with the doctor and without."""

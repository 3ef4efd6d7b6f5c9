"""What compression costs in accuracy and gains in time, measured on compiled artifacts."""

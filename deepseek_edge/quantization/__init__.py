"""Post-training quantization: a float graph and calibration data in, a Q/DQ graph out."""

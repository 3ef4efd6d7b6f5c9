"""The on-device runtime in C, and thin shells over it."""

"""Places where programs run: this machine, and emulated ARM64."""

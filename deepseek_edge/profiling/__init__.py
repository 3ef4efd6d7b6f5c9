"""Measuring programs on devices, and showing what was found."""

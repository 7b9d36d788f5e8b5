"""Plotting: figures that compute nothing."""

"""Data: samples from a seed, from packages and from the user's own tables."""

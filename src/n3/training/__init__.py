"""Training: one run, many runs in one program, and any model on any data."""

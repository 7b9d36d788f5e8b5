"""Information: what units say about the target, and the size that follows."""

"""Config: what an experiment is, as frozen data that validates itself; imports no JAX."""

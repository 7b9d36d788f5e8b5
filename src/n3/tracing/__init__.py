"""Tracing: any Equinox model as groups of channels that are kept or dropped together."""

"""Tracing: any Equinox model as groups of channels that are kept or dropped together."""

from n3.nn.groups import Group as Group
from n3.nn.groups import Structure as Structure
from n3.tracing.grow import Grown as Grown
from n3.tracing.grow import grow as grow
from n3.tracing.trace import find_structure as find_structure

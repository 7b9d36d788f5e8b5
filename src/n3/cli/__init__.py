"""Cli: the command `n3` and its verbs, with help that needs no JAX."""

from n3.cli.command import main as main
from n3.cli.command import run_command as run_command
from n3.cli.command import run_script as run_script

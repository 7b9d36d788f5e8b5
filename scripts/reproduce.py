"""Run one of the paper's experiments by its name, or all: `n3 reproduce`."""

from n3.cli import run_script

if __name__ == "__main__":
    run_script("reproduce")

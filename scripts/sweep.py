"""Sweep a grid of settings: few compilations, one labelled results.nc: `n3 sweep`."""

from n3.cli import run_script

if __name__ == "__main__":
    run_script("sweep")

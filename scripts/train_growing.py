"""Train growing networks and their controls side by side, over many seeds: `n3 train`."""

from n3.cli import run_script

if __name__ == "__main__":
    run_script("train")

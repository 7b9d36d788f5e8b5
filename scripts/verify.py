"""Verify run directories: every checksum again, and what is damaged: `n3 verify`."""

from n3.cli import run_script

if __name__ == "__main__":
    run_script("verify")

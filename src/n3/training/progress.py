"""Progress: how far an arm has come, for the person who waits."""

import sys
import time
from collections.abc import Callable

from tqdm import tqdm


class Progress:
    """A progress bar on a terminal; elsewhere a plain line at every fifth of the way."""

    def __init__(self, arm: str, steps: int, seeds: int, quiet: bool):
        self.steps, self.label, self.told = steps, f"{arm} x {seeds}", 0
        self.is_plain = not quiet and not sys.stderr.isatty()
        self.started = time.perf_counter()
        self.bar = tqdm(total=steps, desc=self.label, unit="step", disable=quiet or self.is_plain)

    def __enter__(self) -> Callable[[int], None]:
        return self.report

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def report(self, step: int) -> None:
        """Tell that the runs have come to a step."""
        self.bar.update(step - self.bar.n)
        if self.is_plain and 5 * step // self.steps > self.told:
            self.told = 5 * step // self.steps
            seconds = time.perf_counter() - self.started
            times = f"{seconds:.0f} s, {seconds * (self.steps - step) / step:.0f} s left"
            print(f"{self.label}: step {step}/{self.steps}, {times}", file=sys.stderr)

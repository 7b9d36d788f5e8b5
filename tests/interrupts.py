"""Interrupts: training that a signal ends after some checkpoints, as often as a test asks."""

import signal

from n3.training.checkpoint import Checkpoints, Interrupted


class Cuts:
    """Ends training after some checkpoints, as a signal would, and counts what is written."""

    def __init__(self, monkeypatch):
        self.left, self.written = 0, 0
        self.reached = Checkpoints.reached
        monkeypatch.setattr(Checkpoints, "reached", lambda own, *rest, **how: self(own, *rest, **how))

    def __call__(self, own, *rest, **how):
        self.left, self.written = self.left - 1, self.written + 1
        if self.left == 0:
            own._signals.append(signal.SIGTERM)
        self.reached(own, *rest, **how)


def cut_up(monkeypatch, train, every=3):
    """What training comes to that is ended again and again after as many checkpoints; and how often it was."""
    cuts, ended = Cuts(monkeypatch), 0
    while True:
        cuts.left = every
        try:
            return train(), ended
        except Interrupted:
            ended += 1

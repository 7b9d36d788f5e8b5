"""Training: one run, many runs in one program, and any model on any data."""

from n3.training.checkpoint import EVERY as EVERY
from n3.training.checkpoint import BusyError as BusyError
from n3.training.checkpoint import CheckpointError as CheckpointError
from n3.training.checkpoint import Checkpoints as Checkpoints
from n3.training.checkpoint import Interrupted as Interrupted
from n3.training.decisions import Decision as Decision
from n3.training.fit import fit as fit
from n3.training.history import History as History
from n3.training.history import SizingWarning as SizingWarning
from n3.training.placement import TERMS as TERMS
from n3.training.placement import Placement as Placement
from n3.training.placement import placement_of as placement_of
from n3.training.step import Hypers as Hypers
from n3.training.step import Problem as Problem
from n3.training.step import Recipe as Recipe
from n3.training.step import StepRecord as StepRecord
from n3.training.step import TrainState as TrainState
from n3.training.step import advance as advance
from n3.training.step import init as init
from n3.training.step import step as step
from n3.training.step import train as train
from n3.training.sweep import Swept as Swept
from n3.training.sweep import compiled_stages as compiled_stages
from n3.training.sweep import rows_of_stops as rows_of_stops
from n3.training.sweep import sweep as sweep

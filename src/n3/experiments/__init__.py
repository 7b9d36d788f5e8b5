"""Experiments: a study from its configuration to a run directory."""

from n3.experiments.arms import Pick as Pick
from n3.experiments.arms import PricePath as PricePath
from n3.experiments.arms import hypers_of as hypers_of
from n3.experiments.arms import pick_price as pick_price
from n3.experiments.arms import recipe_of as recipe_of
from n3.experiments.arms import stack as stack
from n3.experiments.arms import stops_of as stops_of
from n3.experiments.results import RunDirectory as RunDirectory
from n3.experiments.results import device_name as device_name
from n3.experiments.results import load as load
from n3.experiments.results import read as read
from n3.experiments.results import read_results as read_results
from n3.experiments.results import record_fits as record_fits
from n3.experiments.run import describe as describe
from n3.experiments.run import find_devices as find_devices
from n3.experiments.run import grid_of as grid_of
from n3.experiments.run import load_data as load_data
from n3.experiments.run import run as run
from n3.experiments.study import collect_study as collect_study
from n3.experiments.study import describe_study as describe_study
from n3.experiments.study import is_finished as is_finished
from n3.experiments.study import prepare_study as prepare_study
from n3.experiments.study import run_study as run_study
from n3.experiments.study import study_table as study_table
from n3.experiments.study import train_group as train_group
from n3.experiments.tensorboard import write_events as write_events

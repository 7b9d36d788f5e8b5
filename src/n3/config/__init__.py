"""Config: what an experiment is, as frozen data that validates itself; imports no JAX."""

from n3.config.experiment import ARMS as ARMS
from n3.config.experiment import METHODS as METHODS
from n3.config.experiment import PRESETS as PRESETS
from n3.config.experiment import Experiment as Experiment
from n3.config.experiment import InformationConfig as InformationConfig
from n3.config.experiment import NetworkConfig as NetworkConfig
from n3.config.experiment import RunConfig as RunConfig
from n3.config.experiment import StructureConfig as StructureConfig
from n3.config.experiment import TaskConfig as TaskConfig
from n3.config.experiment import TrainingConfig as TrainingConfig
from n3.config.grid import Axis as Axis
from n3.config.grid import Setting as Setting
from n3.config.grid import Study as Study
from n3.config.grid import parse_axis as parse_axis
from n3.config.grid import product as product
from n3.config.grid import setting_label as setting_label
from n3.config.release import DISTRIBUTION as DISTRIBUTION
from n3.config.release import install_advice as install_advice
from n3.config.release import release as release
from n3.config.validation import suggestion as suggestion

"""Data: samples from a seed, from packages and from the user's own tables."""

from n3.data.cells import DataError as DataError
from n3.data.dataset import DATASETS as DATASETS
from n3.data.dataset import Dataset as Dataset
from n3.data.dataset import held_out as held_out
from n3.data.dataset import load_dataset as load_dataset
from n3.data.dataset import load_task as load_task
from n3.data.dataset import register_dataset as register_dataset
from n3.data.encoding import Preprocessing as Preprocessing
from n3.data.encoding import TableEncoder as TableEncoder
from n3.data.frames import frame_of as frame_of
from n3.data.tables import read_rows as read_rows
from n3.data.tables import read_table as read_table

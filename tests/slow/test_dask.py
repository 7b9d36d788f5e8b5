"""Dask: a study whose groups a cluster's workers train, and one of whose workers is killed."""

import os
import signal

import pytest

from n3.config.grid import Axis, product
from n3.experiments.study import run_study
from trials import tiny

pytestmark = pytest.mark.slow

TIMED = ["compile_seconds", "run_seconds", "cpu_seconds"]
STUDY = product(tiny(arms=("static",)), [Axis("learning_rate", (1e-2, 1e-3)), Axis("steps", (6, 4))])


@pytest.fixture
def client():
    """A client of two workers on this machine, each a process of its own."""
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
    where = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(processes=True, **where) as cluster, cluster.get_client() as client:
        yield client


def kill_worker():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.filterwarnings("ignore")  # of the library's own event loops
def test_dask_workers_train_a_study_to_the_bit_also_where_one_is_killed(client, tmp_path):
    here = run_study(STUDY, tmp_path / "here", quiet=True)
    lost = client.submit(kill_worker, retries=0, workers=[next(iter(client.scheduler_info()["workers"]))])
    there = run_study(STUDY, tmp_path / "there", executor=client, quiet=True)
    assert there.drop_vars(TIMED).equals(here.drop_vars(TIMED))
    lost.cancel()

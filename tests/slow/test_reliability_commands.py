"""Reliability of commands as processes: killed at random, interrupted, without disk, streams or backend."""

import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import n3
from conftest import CACHE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SMALL = "--steps 6000 --seeds 0:4 --samples 128 --arms growing static --records 50"
GRID = "--steps 3000 --seeds 0:4 --samples 128 --arms static --grid learning_rate=1e-3,1e-2 steps=2000,3000"
TIMED = ["compile_seconds", "run_seconds", "cpu_seconds"]
FIT = """
import sys
import equinox as eqx, jax.numpy as jnp, jax.random as jr, numpy as np
import n3
from n3.surgery.export import to_bytes
x = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
model = n3.grow(eqx.nn.MLP(2, 1, 16, 1, key=jr.key(1)), example=x[0], key=jr.key(2))
how = {"steps": 6000, "key": jr.key(3), "checkpoint": sys.argv[1], "checkpoint_every": 0.1}
net, history = n3.fit(model, (x, np.sin(x[:, :1] * x[:, 1:])), **how)
print(to_bytes((net, history.train_loss, history.sizes)).hex()[-4000:])
"""


def words(script, *more):
    return [sys.executable, str(ROOT / "scripts" / script), *map(str, more)]


def process(command, **how):
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    environment |= {
        "JAX_COMPILATION_CACHE_DIR": str(CACHE),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    usual = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment | how.pop("env", {}), **usual | how)


def ended(command, **how):
    """A command's exit code, what it printed and what it complained of; never a traceback."""
    started = process(command, **how)
    out, err = started.communicate(timeout=300)
    assert "Traceback" not in (err or ""), err
    return started.returncode, out, err


def train(folder, name, *more):
    own = ("--out", folder, "--name", name, "--checkpoint-every", 0.1, *more)
    return words("train_growing.py", *SMALL.split(), *own)


def sweep(folder, name):
    return words("sweep.py", *GRID.split(), "--out", folder, "--name", name, "--checkpoint-every", 0.1)


def left(folder):
    """What a run or a sweep left: its numbers, and its networks to the bit."""
    results = n3.read_results(folder)
    models = {path.name: path.read_bytes() for path in sorted(folder.glob("models/*"))}
    return results.drop_vars(TIMED, errors="ignore"), models


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run, a sweep and a fit that nothing ended, and the seconds that each took."""
    folder, found = tmp_path_factory.mktemp("whole"), {}
    fit = [sys.executable, "-c", FIT, str(folder / "fit")]
    for name, command in {"train": train(folder, "train"), "sweep": sweep(folder, "sweep"), "fit": fit}.items():
        for _ in range(2):  # the second one finds its programs compiled, as the killed ones do
            if (folder / name).exists():
                (folder / name).rename(folder / f"first-{name}")
            began = time.perf_counter()
            code, out, err = ended(command)
            assert code == 0, err
            found[name] = out if name == "fit" else left(folder / name), time.perf_counter() - began
    return folder, found


@pytest.mark.parametrize("kind", ["train"] * 8 + ["sweep"] * 6 + ["fit"] * 6)
def test_killed_at_random_and_started_again(kind, whole, tmp_path, request):
    """kill -9 at one to three moments of the whole length, then the same command: equal to the bit."""
    seed = request.node.name
    drawn, (expected, seconds) = random.Random(seed), whole[1][kind]
    fit = [sys.executable, "-c", FIT, str(tmp_path / "own")]
    command = {"train": partial(train, tmp_path, "own"), "sweep": partial(sweep, tmp_path, "own")}.get(
        kind, lambda: fit
    )()
    for moment in [drawn.uniform(0.3, 1.0) * seconds for _ in range(drawn.randint(1, 3))]:
        print(f"{seed}: killed after {moment:.2f} s")
        started = process(command)
        try:
            started.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            started.kill()
            started.communicate()
    code, out, err = ended(command)
    assert code == 0, err
    if kind == "fit":
        assert out == expected
        return
    results, models = left(tmp_path / "own")
    assert results.equals(expected[0])
    assert models == expected[1]
    assert n3.verify(tmp_path / "own") == []
    assert not list((tmp_path / "own").rglob("*.part"))


def shared(folder, name, *more):
    """A sweep in four groups, in two minutes at most."""
    parts = ("--parts", 4, "--checkpoint-every", 0.1, *more)
    return words("sweep.py", *GRID.split(), "--out", folder, "--name", name, *parts)


def two_processes(folder, name):
    """The two processes of a command that share the groups of a sweep, of one device each."""
    with socket.socket() as own:
        own.bind(("localhost", 0))
        where = ("--distributed", "--coordinator", f"localhost:{own.getsockname()[1]}", "--processes", 2)
    one = {"env": {"JAX_NUM_CPU_DEVICES": "1"}}
    return [process(shared(folder, name, *where, "--process", number), **one) for number in range(2)]


def test_a_command_that_nothing_tells_of_other_processes_ends_with_code_2(tmp_path):
    code, _, err = ended(shared(tmp_path, "alone", "--distributed"))
    assert code == 2
    assert "`distributed` finds no other processes" in err
    assert "start the command by `srun` or `mpirun`" in err
    assert not list(tmp_path.iterdir())


def test_a_signal_ends_a_process_that_waits_for_another(tmp_path):
    first = two_processes(tmp_path, "own")
    others = [first.pop()]
    while len(list((tmp_path / "own").glob("groups/*/manifest.json"))) < 2:
        assert first[0].poll() is None
        time.sleep(0.1)
    os.kill(others[0].pid, signal.SIGSTOP)  # what it has left is never done
    time.sleep(1)
    first[0].terminate()
    _out, err = first[0].communicate(timeout=10)
    others[0].kill()
    others[0].communicate()
    assert first[0].returncode in (128 + signal.SIGTERM, 143)
    assert "The same command goes on" in err


def test_processes_of_other_settings_and_a_port_in_use_are_refused(tmp_path, monkeypatch):
    pair = two_processes(tmp_path, "own")
    pair[1].kill()
    pair[1].communicate()
    port = next(word for word in pair[1].args if word.startswith("localhost:"))
    where = ("--distributed", "--coordinator", port, "--processes", 2)
    other = process(shared(tmp_path, "own", *where, "--process", 1, "--weight-prior", 0.5))
    _out, err = other.communicate(timeout=180)
    pair[0].kill()
    pair[0].communicate()
    assert other.returncode == 2, err
    assert "is not made ready for this study: all processes must see one folder and be given the same" in err
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        where = ("--distributed", "--coordinator", f"localhost:{taken.getsockname()[1]}", "--processes", 1)
        code, _, err = ended(shared(tmp_path, "busy", *where, "--process", 0))
    assert code == 2
    assert "cannot be opened here: Address already in use" in err


def test_the_old_command_reads_what_is_joined_also_where_more_steps_were_killed(tmp_path):
    own = ("--parts", 4, "--checkpoint-every", 0.1)
    grid = GRID.replace(" steps=2000,3000", "")
    short = words("sweep.py", *grid.split(), "--out", tmp_path, "--name", "own", *own)
    longer = [word.replace("3000", "6000") for word in short]
    assert ended(short)[0] == 0
    before = left(tmp_path / "own")[0]
    started = process(longer)
    manifest = tmp_path / "own/groups/0000/manifest.json"  # which is away while the results are replaced
    while not manifest.exists() or json.loads(manifest.read_text())["steps"] != 6000:
        assert started.poll() is None
        time.sleep(0.02)
    started.kill()
    started.communicate()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    where = ("--distributed", "--coordinator", f"localhost:{port}", "--processes", "1", "--process", "0")
    code, _out, err = ended([*short, *where])
    assert code == 0, err
    xr.testing.assert_equal(left(tmp_path / "own")[0], before)


def test_two_processes_equal_one_to_the_bit_and_end_together_where_one_is_killed(tmp_path):
    alone = {"env": {"JAX_NUM_CPU_DEVICES": "1"}}
    assert ended(shared(tmp_path, "alone"), **alone)[0] == 0
    pair = two_processes(tmp_path, "both")
    assert [own.communicate(timeout=300) and own.returncode for own in pair] == [0, 0]
    xr.testing.assert_equal(left(tmp_path / "both")[0], left(tmp_path / "alone")[0])
    for lost in range(2):
        pair, name = two_processes(tmp_path, f"killed-{lost}"), f"killed-{lost}"
        while not list((tmp_path / name).glob("groups/*/checkpoints")):
            assert pair[1 - lost].poll() is None
            time.sleep(0.1)
        pair[lost].kill()
        pair[lost].communicate()
        pair[1 - lost].communicate(timeout=60)
        assert pair[1 - lost].returncode != 0
        assert not (tmp_path / name / "results.nc").exists()
        assert ended(shared(tmp_path, name), **alone)[0] == 0, "the same command without `--distributed`"
        xr.testing.assert_equal(left(tmp_path / name)[0], left(tmp_path / "alone")[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_after_a_checkpoint_and_says_how_to_go_on(number, whole, tmp_path):
    command = train(tmp_path, "own", "--steps", 200_000)
    started = process(command)
    while not list(tmp_path.glob("own/checkpoints/growing/*[0-9]")):
        time.sleep(0.05)
    started.send_signal(number)
    _, err = started.communicate(timeout=120)
    assert started.returncode == 128 + number
    assert "The same command goes on" in err
    assert "Traceback" not in err
    assert n3.verify(tmp_path / "own") == []


def test_a_second_interrupt_ends_at_once(tmp_path):
    started = process(train(tmp_path, "own", "--steps", 2_000_000))
    while not list(tmp_path.glob("own/checkpoints/growing/*[0-9]")):
        time.sleep(0.05)
    for _ in range(2):
        started.send_signal(signal.SIGINT)
        time.sleep(0.2)
    began = time.perf_counter()
    _, err = started.communicate(timeout=60)
    assert time.perf_counter() - began < 2
    assert started.returncode == 130
    assert "Traceback" not in err


STREAMS = {
    "full standard error": "2>/dev/full",
    "full standard output": ">/dev/full",
    "closed standard error": "2>&-",
    "closed standard output": ">&-",
    "a reader that leaves": "2>&1 | head -1",
    "a bad backend": "",
}


@pytest.mark.parametrize("name", STREAMS)
def test_what_shows_numbers_costs_none(name, whole, tmp_path):
    line = " ".join([*train(tmp_path, "own"), STREAMS[name]])
    environment = {"MPLBACKEND": "nothing"} if name == "a bad backend" else {}
    code, out, _ = ended(["bash", "-o", "pipefail", "-c", line], env=environment)
    assert code == 0
    assert "Traceback" not in out
    results, models = left(tmp_path / "own")
    assert results.equals(whole[1]["train"][0][0])
    assert models == whole[1]["train"][0][1]
    assert (tmp_path / "own" / "figures").exists() == (name != "a bad backend")


@pytest.mark.parametrize("most", [3_000, 12_000, 60_000])
def test_a_full_disk_ends_with_74_and_the_run_goes_on_once_there_is_space(most, whole, tmp_path):
    """The limit on a file's size stands for a disk that is full: in a manifest, a checkpoint, the results."""
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (most, most))
    code, _, err = ended(
        train(tmp_path, "own"), preexec_fn=limit, env={"JAX_ENABLE_COMPILATION_CACHE": "false"}
    )
    assert code == 74
    assert "the disk is full" in err
    assert not n3.verify(tmp_path / "own") if list((tmp_path / "own").rglob("manifest.json")) else True
    assert ended(train(tmp_path, "own"))[0] == 0
    assert left(tmp_path / "own")[0].equals(whole[1]["train"][0][0])


@pytest.mark.parametrize(
    ("command", "long"), [(train, ("--steps", "20000000")), (sweep, ("--grid", "steps=20000000"))]
)
def test_a_folder_in_use_ends_with_75_and_names_the_holder(command, long, tmp_path):
    started = process([*command(tmp_path, "own"), *long])
    while not list(tmp_path.glob("own/**/checkpoints/*/*[0-9]")):
        time.sleep(0.05)
    code, _, err = ended([*command(tmp_path, "own"), *long])
    assert code == 75
    assert f"process {started.pid} on" in err
    started.kill()
    started.communicate()
    again = process([*command(tmp_path, "own"), *long])
    time.sleep(6)
    assert again.poll() is None
    again.kill()
    again.communicate()


def test_damaged_checkpoints_end_with_76_and_nothing_is_overwritten(tmp_path):
    started = process(train(tmp_path, "own"))
    while len(list(tmp_path.glob("own/checkpoints/growing/*[0-9]"))) < 2:
        time.sleep(0.02)
    started.kill()
    started.communicate()
    states = sorted(tmp_path.glob("own/checkpoints/growing/*/state.safetensors"))
    for path in states:
        path.write_bytes(path.read_bytes()[:-1])
    before = {path: path.read_bytes() for path in states}
    code, _, err = ended(train(tmp_path, "own"))
    assert code == 76
    assert "Nothing was overwritten" in err
    assert {path: path.read_bytes() for path in states} == before


def test_two_hundred_damaged_bytes_are_all_found(whole, tmp_path):
    folder, drawn = whole[0] / "train", random.Random(200)
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    assert any(path.suffix == ".png" for path in files)
    missed = []
    for path in (drawn.choice(files) for _ in range(200)):
        content = path.read_bytes()
        place = drawn.randrange(len(content))
        path.write_bytes(
            content[:place] + bytes([content[place] ^ drawn.randrange(1, 256)]) + content[place + 1 :]
        )
        missed += [] if any(str(path) in fault for fault in n3.verify(folder)) else [(path, place)]
        path.write_bytes(content)
    assert missed == []
    assert ended(words("verify.py", folder))[:2] == (0, "all files are as they were written\n")
    (folder / "summary.json").write_text("{}")
    code, out, _ = ended(words("verify.py", folder))
    assert (code, "summary.json is damaged" in out) == (76, True)


@pytest.mark.parametrize("script", ["train_growing.py", "sweep.py"])
def test_where_all_diverged_the_code_is_4(script, tmp_path):
    own = ["--steps", "20", "--seeds", "0:2", "--samples", "12", "--arms", "static", "--out"]
    rate = {"train_growing.py": ["--learning-rate", "1e30"], "sweep.py": ["--grid", "learning_rate=1e30,1e31"]}
    code, _, err = ended(words(script, *own, tmp_path, *rate[script]))
    assert code == 4, err


def test_a_platform_that_is_not_there_is_named(tmp_path):
    code, _, err = ended(train(tmp_path, "own"), env={"JAX_PLATFORMS": "cuda"})
    assert code == 2
    assert "JAX_PLATFORMS" in err
    assert np.size(list(tmp_path.iterdir())) == 0

"""Programs: kept in a folder of the user's own, and only there."""

import os
import warnings
from pathlib import Path

import pytest

from n3.cli import programs
from n3.cli.programs import VARIABLE, keep_programs


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A cache folder of a user whose processor loads what it has compiled."""
    monkeypatch.delenv(VARIABLE, raising=False)
    for name in ("JAX_COMPILATION_CACHE_MAX_SIZE", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, "0")  # put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(programs, "_processor", lambda: "flags: avx2")
    yield tmp_path
    os.environ.pop(VARIABLE, None)


def test_programs_are_kept_in_a_folder_that_is_the_users_alone(home):
    keep_programs()
    (folder,) = (home / "n3").iterdir()
    assert os.environ[VARIABLE] == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert int(os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"]) == programs.MOST_CACHE_BYTES


@pytest.mark.parametrize("verb", ["reading", "writing"])
def test_a_fault_of_the_cache_is_told_to_nobody(verb, home):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        keep_programs()
        warnings.warn(f"Error {verb} persistent compilation cache entry for 'jit_f': gone", stacklevel=1)
    assert not told


def test_each_processor_has_a_folder_of_its_own(home, monkeypatch):
    keep_programs()
    first = os.environ.pop(VARIABLE)
    monkeypatch.setattr(programs, "_processor", lambda: "flags: avx512f")
    keep_programs()
    assert os.environ[VARIABLE] != first


@pytest.mark.parametrize("given", ["", "elsewhere"])
def test_the_users_own_setting_stays(home, monkeypatch, given):
    monkeypatch.setenv(VARIABLE, given)
    keep_programs()
    assert os.environ[VARIABLE] == given
    assert not list(home.iterdir())


@pytest.mark.parametrize("above", [0, 1, 2])
def test_a_folder_that_others_can_write_or_replace_is_not_used(home, above):
    keep_programs()
    folder = Path(os.environ.pop(VARIABLE))
    (folder, *folder.parents)[above].chmod(0o777)
    keep_programs()
    assert VARIABLE not in os.environ


def test_a_processor_that_cannot_load_programs_keeps_none(home, monkeypatch):
    monkeypatch.setattr(programs, "_processor", lambda: "bugs: spectre_v1 gds")
    keep_programs()
    assert VARIABLE not in os.environ


def test_a_home_that_cannot_be_written_costs_nothing(home, monkeypatch):
    (home / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "file"))
    keep_programs()
    assert VARIABLE not in os.environ


def test_a_processor_is_known_by_its_features():
    assert programs._processor()

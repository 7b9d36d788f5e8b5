"""Directory: figures in the formats asked for, PNG always."""

import matplotlib.pyplot as plt
import pytest

from n3.config.experiment import RunConfig
from n3.experiments.directory import RunDirectory


@pytest.mark.parametrize(
    ("formats", "suffixes"), [((), ["png"]), (("pdf", "svg"), ["pdf", "png", "svg"]), (("png",), ["png"])]
)
def test_figures_are_written_in_the_formats_asked_for(formats, suffixes, tmp_path):
    figure, axes = plt.subplots()
    axes.plot([0, 1], [1, 0])
    RunDirectory(tmp_path).write_figures({"loss": figure}, formats)
    plt.close(figure)
    found = sorted((tmp_path / "figures").iterdir())
    assert [path.suffix for path in found] == [f".{own}" for own in suffixes]
    starts = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}
    assert all(path.read_bytes().startswith(starts[path.suffix]) for path in found)


def test_no_format_is_refused():
    with pytest.raises(ValueError, match="`figure_format` must not be empty"):
        RunConfig(figure_format=())

"""Pages in a browser: on a phone and on a wide screen, light and dark."""

import shutil
import subprocess

import numpy as np
import pytest
from matplotlib.image import imread

import n3
from trials import tiny

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PAPER = {"light": (255, 255, 255), "dark": (20, 25, 29)}
THEME = {"light": 1, "dark": 0}
"""Numbers of the browser for the colour scheme that a user prefers."""


@pytest.fixture(scope="module", params=["controller", "information"])
def page(request, tmp_path_factory):
    """The page of a run of a method, with all its figures."""
    folder, is_informed = tmp_path_factory.mktemp("page"), request.param == "information"
    further = (
        {"information": {"criterion": "held-out"}, "monitor": ("importance", "gap")} if is_informed else {}
    )
    task = {"samples": 64, "test_samples": 32}
    own = tiny(folder, task=task, network={"method": request.param, "capacity": (4,)}, **further)
    return n3.run(own, quiet=True).directory / "report.html"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("theme", PAPER)
def test_a_page_fits_the_screen_in_the_colours_that_are_preferred(page, width, theme, tmp_path):
    """Nothing reaches the edge of the screen, and something stands in the middle."""
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    words += [f"--blink-settings=preferredColorScheme={THEME[theme]}", f"--window-size={width},2400"]
    words += [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'page.png'}", page.as_uri()]
    subprocess.run([CHROMIUM, *words], capture_output=True, timeout=120, check=True)
    pixels = np.rint(255 * imread(tmp_path / "page.png")[..., :3]).astype(int)
    assert pixels.shape[1] == width
    is_paper = np.all(pixels == PAPER[theme], axis=-1)
    assert is_paper[:, :8].all()
    assert is_paper[:, -8:].all()
    assert 0.2 < is_paper.mean() < 0.98

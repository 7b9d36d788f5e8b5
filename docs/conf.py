"""Settings of the documentation site; the pages that are written by a program come from `pages.py`."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the site computes nothing

import pages  # noqa: E402

project = "n3"
author = "The n3 developers"
copyright = "The n3 developers, MIT licence"
version = release = pages.version()

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "paper.md"]
suppress_warnings = ["myst.strikethrough"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
myst_html_meta = {"description": "Neural networks that choose their own size, in JAX and Equinox"}

default_role = "literal"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
toc_object_entries_show_parents = "hide"
add_module_names = False
html_copy_source = False

html_theme = "furo"
pygments_style = "friendly"
pygments_dark_style = "github-dark"
html_title = f"n3 {version}"
html_static_path = ["_static"]
html_css_files = ["n3.css"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f5f8b", "color-brand-content": "#1f5f8b"},
    "dark_css_variables": {"color-brand-primary": "#7cc4f0", "color-brand-content": "#7cc4f0"},
}


_FIELDS: dict[str, list[str]] = {}
"""Texts of fields as they stand in the source: napoleon takes what comes before a colon for a type."""


def _keep(app, what, name, obj, options, lines) -> None:
    if what in ("attribute", "property", "data"):
        _FIELDS[name] = list(lines)


def _restore(app, what, name, obj, options, lines) -> None:
    if name in _FIELDS:
        lines[:] = _FIELDS.pop(name)


def _skip(app, what, name, obj, skip, options) -> bool:
    """Leave out what scikit-learn writes into its estimators; its own documents are not here."""
    return skip or name in (
        "get_metadata_routing",
        "set_fit_request",
        "set_score_request",
        "set_predict_request",
    )


def setup(app) -> None:
    """Write the pages that come from the package, the notebooks and the change log, before pages are read."""
    app.connect("builder-inited", lambda _: pages.write(HERE))
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-docstring", _keep, priority=100)
    app.connect("autodoc-process-docstring", _restore, priority=900)

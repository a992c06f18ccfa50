"""How Sphinx builds the documentation: `make docs`."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

project = "fedalign"
html_title = "fedalign"
author = "the authors of fedalign"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "from_code",
]
exclude_patterns = ["_static", "from_code"]

# Every link must lead somewhere: `make docs` turns each warning into an error.
nitpicky = True
nitpick_ignore_regex = [  # types of libraries: their pages are not here
    ("py:.*", r"(np|numpy|pd|pandas|torch|nn|matplotlib|flwr|pydantic|collections|pathlib)\..*"),
    ("py:.*", r"(Path|Figure|Tensor|Any|Callable|Iterable|Mapping|Sequence|Literal|Annotated)"),
]
nitpick_ignore = [  # annotations of what an algorithm receives; their modules have no page
    ("py:class", "fedalign.network.network.Network"),
    ("py:class", "fedalign.masks.plan.MaskPlan"),
    ("py:class", "fedalign.settings.client_contracts.ClientAlgorithm"),
]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # tests/docs/test_notebook.py executes it

default_role = "code"  # of `x` in docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature of a class of settings would fill a page
napoleon_google_docstring = True

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["fedalign.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "default"
pygments_dark_style = "github-dark"
copybutton_exclude = ".linenos, .gp, .go"

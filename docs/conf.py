"""Sphinx: ``sphinx-build -W docs docs/_build/html``; its doctests with ``-b doctest``.

Every build draws the figures and writes the tables, by the modules in ``_sphinx/``.
"""

import sys
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_sphinx"))

import contracts  # noqa: E402
import figures  # noqa: E402
import results  # noqa: E402

import cudeform  # noqa: E402

project = "cudeform"
author = "The cudeform developers"
copyright = author
release = version = cudeform.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
html_theme = "furo"
# So that lines of 100 letters fit.
html_theme_options = {"light_css_variables": {"code-font-size": "0.74rem"}}
html_title = f"cudeform {release}"
html_copy_source = False
exclude_patterns = ["_build", "_generated", "_sphinx"]
nitpicky = True

# Types in signatures that have no page: those of other libraries, and private ones.
nitpick_ignore_regex = [
    ("py:.*", r"(?!cudeform\.).*"),
    ("py:.*", r".*(Ints|Padding|Floats|Any)"),
]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_type_aliases = {"Ints": "Ints", "Padding": "Padding"}
napoleon_numpy_docstring = False
napoleon_use_ivar = True

doctest_global_setup = """
import numpy as np
import cudeform
from cudeform.geometry import geometry_of
"""
# Examples in docstrings run too, beside those of the pages.
doctest_test_doctest_blocks = "default"


def _absent(name: str) -> bool:
    try:
        import_module(name)
    except ImportError:
        return True
    return False


# Pages about a library that is not installed are left out; the table of contents allows for it.
exclude_patterns += [
    f"api/{page}.rst"
    for page, module in {
        "torch": "interop.torch",
        "dask": "interop.dask",
        "jax": "interop.jax",
        "jax.flax": "interop.jax.flax",
        "tensorflow": "interop.tensorflow",
        "keras": "keras",
    }.items()
    if _absent(f"cudeform.{module}")
]

figures.draw_all(HERE / "_generated")
results.write_tables(HERE.parent / "benchmarks" / "results", HERE / "_generated")

contracts.write_contracts(HERE.parent / "kernels", HERE / "_generated")

"""The documentation site: `pip install -e '.[docs]'`, then `sphinx-build -W docs build/docs`.

Pages are Markdown; the API reference is read from the sources without importing them. Nothing is
fetched while the site is built or read.
"""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

project = "qwen3"
html_title = "qwen3"
html_theme = "furo"
html_show_copyright = False
highlight_language = "none"  # of blocks that name no language

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",  # for its event, which docstrings.py answers
    "sphinx.ext.viewcode",
    "autoapi.extension",
    "docstrings",
]
myst_heading_anchors = 2  # headings that pages link to

autoapi_dirs = [str(DOCS.parent / "src" / "qwen3")]
autoapi_root = "reference"
autoapi_options = ["members", "undoc-members", "show-module-summary"]
autoapi_add_toctree_entry = False  # index.md has it
# Two kinds of warnings that no page can cause: an import of a constant that has no page of its own,
# and a builtin type whose name is also that of a field.
suppress_warnings = ["autoapi.python_import_resolution", "ref.python"]

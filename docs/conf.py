"""How Sphinx builds the manual: see `make docs`."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

project = "clinfra"
author = "the authors of clinfra"
version = release = installed("clinfra")
extensions: list[str] = []
root_doc = "index"
exclude_patterns = ["generated"]
nitpicky = True
highlight_language = "none"
smartquotes = False  # what is quoted is to be typed
html_theme = "alabaster"
html_theme_options = {
    "description": "Blob store, image service and caching reverse proxy",
    "fixed_sidebar": True,
    "page_width": "64rem",
}
html_static_path = ["static"]
html_css_files = ["manual.css"]
html_show_sphinx = False
html_copy_source = False


def setup(app: Any) -> None:
    """Make the pages that come from the code."""
    from docs.references import write_all

    write_all(HERE / "generated")

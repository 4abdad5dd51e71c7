"""How Sphinx builds the site: `make docs`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sphinx.util.nodes import make_refnode

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from airflow_provider_qcache import __version__  # noqa: E402
from tests.public_names import WITH_AIRFLOW, WITHOUT_AIRFLOW  # noqa: E402

PUBLIC = {name for names in (*WITH_AIRFLOW.values(), *WITHOUT_AIRFLOW.values()) for name in names.split()}

project = "airflow-provider-qcache"
copyright = "the contributors"  # noqa: A001
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"airflow-provider-qcache {__version__}"
html_show_sphinx = False
html_copy_source = False

# An anchor of a heading is the one that GitHub makes, so that a link works on both.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

# The classes are imported; what they inherit from Airflow is not in their docstrings.
autodoc_mock_imports = ["airflow", "pytest"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# A shell's continued lines and psql's own commands are no part of the languages that are highlighted.
suppress_warnings = ["misc.highlighting_failure"]


def short_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: Element) -> Element | None:
    """Link a class by its name alone; a name of another library is text.

    Docstrings and signatures name `StoreResult`, and the module that defines it is nobody's to know.
    """
    if node.get("refdomain") != "py":
        return None
    name = node["reftarget"].rpartition(".")[2]
    objects = env.domains.python_domain.objects
    found = {
        entry.docname: entry.node_id for full, entry in objects.items() if full.rpartition(".")[2] == name
    }
    if len(found) == 1:
        ((page, anchor),) = found.items()
        return make_refnode(app.builder, node["refdoc"], page, anchor, [content])
    return None if name in PUBLIC else content


def links_to_pages(app: Sphinx, what: str, name: str, about: Any, options: Any, lines: list[str]) -> None:
    """Make `docs/reference/tables.md` in a docstring a link, whose page Sphinx then looks for."""
    lines[:] = [re.sub(r"\bdocs/([\w/-]+)\.md\b", r":doc:`/\1`", line) for line in lines]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", links_to_pages)
    app.connect("missing-reference", short_name)

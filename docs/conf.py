"""Configuration of the documentation site.

Build it with `python -m sphinx --fail-on-warning --keep-going docs site`, and serve it with
`python -m http.server --directory site`.
"""

import os
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / "_extensions"), str(DOCS.parent)]
# The kernels of the tutorials and the examples of the gallery import the same checkout.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(DOCS.parent), os.environ.get("PYTHONPATH")])
)

from nc_jax.version import __version__  # noqa: E402 - after sys.path is set

project = "nc_jax"
author = "The nc_jax developers"
copyright = "the nc_jax developers"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "sphinx_codeautolink",
    "sphinx_copybutton",
    "sphinx_design",
    "gallery",
    "links",
    "reference",
    "equation_rows",
    "unicode_math",
]
exclude_patterns = ["_gallery_cache"]
root_doc = "index"
nitpicky = True
# Types of other packages: their pages are on other hosts, which a build offline cannot ask.
nitpick_ignore_regex = [("py:.*", r"(?!nc_jax\b).*")]

# Markdown and executed tutorials.
myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline", "attrs_block"]
myst_heading_anchors = 4
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_execution_show_tb = True
nb_merge_streams = True

# Reference. The texts of docstrings are read by `reference` and then by napoleon.
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
# The types of attributes are in the signature of the class.
napoleon_attr_annotations = False
napoleon_use_admonition_for_examples = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"
default_role = "code"
viewcode_follow_imported_members = True

# The theme has its fonts and scripts in the site itself, so that no other host is asked.
html_theme = "pydata_sphinx_theme"
html_title = "nc_jax"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_js_files = [("names_of_toggles.js", {"defer": "defer"})]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
# The colours of the system, until a reader chooses others; the theme reports an error without it.
html_context = {"default_mode": "auto"}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"
# Names in code blocks become links too. Examples of docstrings use these without an import.
codeautolink_global_preface = """
import diffrax, equinox as eqx, jax, jax.numpy as jnp, numpy as np, optax
import nc_jax as nc
"""

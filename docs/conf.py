"""Sphinx configuration."""

import importlib.metadata
import os

project = "hdeepinsight"
author = "The hdeepinsight developers"
copyright = f"2026, {author}"
release = importlib.metadata.version(project)
repository = "https://github.com/hdeepinsight/hdeepinsight"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx-mathjax-offline",  # formulas in a page that is read without a network
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
]

# Links into other projects need their inventories from the network. They are made where that is
# certain to be there, so that the documentation builds the same offline.
online = "READTHEDOCS" in os.environ
if online:
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "anndata": ("https://anndata.readthedocs.io/en/stable", None),
        "lightning": ("https://lightning.ai/docs/pytorch/stable", None),
        "mudata": ("https://mudata.readthedocs.io/en/stable", None),
        "networkx": ("https://networkx.org/documentation/stable", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "pandas": ("https://pandas.pydata.org/docs", None),
        "python": ("https://docs.python.org/3", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable", None),
        "scipy": ("https://docs.scipy.org/doc/scipy", None),
        "scvi-tools": ("https://docs.scvi-tools.org/en/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }

templates_path = ["_templates"]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
python_use_unqualified_type_names = True
autosummary_generate = True
default_role = "code"
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # tutorials are stored executed

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "sphinx_book_theme"
html_title = "hdeepinsight"
html_static_path = ["_static"]
html_css_files = ["hdeepinsight.css"]
html_theme_options = {
    "repository_url": repository,
    "use_repository_button": True,
    "use_issues_button": True,
    "path_to_docs": "docs",
    "show_navbar_depth": 1,
    "navigation_with_keys": False,
    "navbar_persistent": [],  # the search field stands in the sidebar already
}

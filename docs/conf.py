"""Sphinx configuration."""

import importlib.metadata
import os

from sphinx.application import Sphinx

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
    "sphinx_design",
    "sphinxcontrib.bibtex",
    "sphinxext.opengraph",
]

# Links into other projects need their inventories from the network. They are made on Read the
# Docs only, so that the documentation builds the same offline.
online = "READTHEDOCS" in os.environ
if online:
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "anndata": ("https://anndata.readthedocs.io/en/stable", None),
        "lightning": ("https://lightning.ai/docs/pytorch/stable", None),
        "mudata": ("https://mudata.readthedocs.io/en/stable", None),
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

# References in our prose have to lead somewhere. Signatures also name types as the code spells
# them: bare (``AnnData``, ``Decoder``), by a private home, or those of other projects.
nitpicky = True
others = (
    "anndata|collections|datetime|lightning|matplotlib|mudata|nn|np|npt|numpy|os|pandas"
    "|pathlib|pd|pl|scipy|scvi|shap|sklearn|sp|sparse|torch|typing"
)
nitpick_ignore_regex = [
    ("py:class", r"\w+"),
    ("py:class", r"((hdi\.)?tl|annotation|data|graph|novelty)\.\w+"),
    ("py:class", r"\{matrix|ndarray\}"),  # as scipy's operators say it
    ("py:class", r"(hdeepinsight\..*\.)?_.*"),
    ("py:class" if online else "py:.*", rf"({others})\..*"),
]

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

ogp_site_url = "https://hdeepinsight.readthedocs.io/page/"
ogp_image = "_static/pictures/levels.png"
ogp_social_cards = {"enable": False}  # the picture above stands for every page

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


# Our annotations carry the types, so a ``Returns`` section holds prose only, which napoleon would
# take for a list of types, one a line. It is taken out before napoleon and put back after it.
prose_of_returns: dict[str, str] = {}


def take_returns(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Take the ``Returns`` section out of a docstring if it is prose."""
    rulers = [i for i, line in enumerate(lines) if line and not line.strip("-")]
    start = next((i - 1 for i in rulers if lines[i - 1] == "Returns"), len(lines))
    end = next((i - 1 for i in rulers if i > start + 1), len(lines))
    prose = lines[start + 2 : end]
    if prose and not any(line.startswith(" ") for line in prose):
        prose_of_returns[name] = " ".join(filter(None, prose))
        del lines[start:end]


def put_returns(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Put it back as a field, before what may follow the parameters."""
    if name in prose_of_returns:
        after = (":raises", ":warns", ":yields", "..")
        place = next((i for i, line in enumerate(lines) if line.startswith(after)), len(lines))
        lines[place:place] = [f":returns: {prose_of_returns.pop(name)}", ""]


def setup(app: Sphinx) -> None:
    """Listen before and after napoleon, which has the default priority of 500."""
    app.connect("autodoc-process-docstring", take_returns, priority=400)
    app.connect("autodoc-process-docstring", put_returns, priority=600)

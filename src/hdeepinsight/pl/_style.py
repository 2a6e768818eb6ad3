"""Colours, axes, names and groups of cells that every figure shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pandas as pd

from hdeepinsight._keys import LABEL_COLUMNS
from hdeepinsight._palette import MISSING, PALETTE, categorical_colors, tree_colors
from hdeepinsight.annotation import Annotation, check_same_cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patheffects import AbstractPathEffect

    from hdeepinsight.taxonomy import Taxonomy

__all__ = ["MISSING", "PALETTE", "categorical_colors"]  # passed on; what follows is public too

NO_LABEL: Final = "no label"


INK: Final = "#222222"


FAINT: Final = "#777777"


EMPTY: Final = "#F1F1F1"


MARK: Final = "#D55E00"


#: Probabilities and other numbers of cells: perceptually uniform, and darker where there is more,
#: so that on white the high values stand out (with colour vision deficiency and in print too).
SEQUENTIAL: Final = "magma_r"


def node_colors(taxonomy: Taxonomy) -> list[str]:
    """Return the colour of every node, the same for the same label everywhere; the root is grey."""
    colors = tree_colors(taxonomy.labels, taxonomy.parent)
    return [MISSING, *(colors[label] for label in taxonomy.labels[1:])]


def axes_or_new(ax: Axes | None, figsize: tuple[float, float]) -> Axes:
    """Return the given axes, or new ones on a figure of the given size in inches."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=figsize, layout="constrained")[1]


def add_sizes(ax: Axes, whole: float, title: str, **where: Any) -> None:
    """Explain the sizes of dots, and give their axes a quiet frame.

    Parameters
    ----------
    ax
        Axes with dots for cells of a group.
    whole
        Area of the dot of a whole group, in square points.
    title
        What a share is.
    where
        Options of the legend.
    """
    from matplotlib.lines import Line2D

    ring: dict[str, Any] = {"ls": "", "marker": "o", "mfc": "white", "mec": INK, "mew": 0.5}
    handles = [
        Line2D([], [], ms=float(np.sqrt(whole * share)), label=f"{share:.0%}", **ring)
        for share in (0.1, 0.5, 1.0)
    ]
    look: dict[str, Any] = {"fontsize": 8, "title_fontsize": 8, "alignment": "left"}
    ax.legend(handles=handles, title=title, loc="upper left", frameon=False, **look, **where)
    ax.tick_params(length=0, labelsize=8.5)
    ax.spines[:].set_color("#CCCCCC")


def bare(ax: Axes) -> None:
    """Take ticks and frame away from a picture whose axes have no unit."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def halo(width: float = 2.5) -> list[AbstractPathEffect]:
    """Return a white rim that keeps text legible on any ground."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=width, foreground="white")]


def plain(name: object) -> str:
    """Return a name that matplotlib writes as it is, also with dollar signs (no mathematics)."""
    return str(name).replace("$", r"\$")


def shortened(name: object, longest: int = 36) -> str:
    """Return a plain name with its middle cut out, since names often differ at their ends."""
    text = str(name)
    if len(text) > longest:
        tail = (longest - 1) // 2
        text = f"{text[: longest - 1 - tail]}…{text[-tail:]}"
    return plain(text)


class Groups(NamedTuple):
    """Groups of cells, in the order in which they are drawn.

    Attributes
    ----------
    codes
        Group of every cell, ``(n_cells,)``.
    names
        Name of every group; cells without a label are a group of their own, the last.
    """

    codes: np.ndarray
    names: list[str]

    @property
    def sizes(self) -> np.ndarray:
        """Cells of every group, ``(n_groups,)``."""
        return np.bincount(self.codes, minlength=len(self.names))

    @property
    def titles(self) -> list[str]:
        """Name of every group as an axis shows it, with its cells."""
        sized = zip(self.names, self.sizes.tolist(), strict=True)
        return [f"{shortened(name)}  ({n:,})" for name, n in sized]


def check_any(result: Annotation) -> None:
    """Raise ``ValueError`` if an annotation has no cell."""
    if not len(result):
        raise ValueError(
            "The annotation has no cell. At least one is needed. Annotate cells, or check how "
            "they were selected."
        )


def groups_of(labels: Any, obs_names: pd.Index) -> Groups:
    """Read one label per cell: categories keep their order, unused ones are left out.

    Parameters
    ----------
    labels
        Labels or clusters, ``(n_cells,)``.
    obs_names
        The cells, ``(n_cells,)``.

    Raises
    ------
    ValueError
        If there is not one label per cell, or labels have the names of cells in another order.
    """
    categories: pd.Categorical = pd.Categorical(labels).remove_unused_categories()
    if len(categories) != len(obs_names):
        raise ValueError(
            f"There are {len(categories)} labels for {len(obs_names)} cells. One label per cell is "
            "needed. Select the same cells of both."
        )
    check_same_cells(obs_names, labels, "groups")
    codes, names = np.array(categories.codes, dtype=np.int64), list(map(str, categories.categories))
    if (codes < 0).any():
        codes[codes < 0] = len(names)
        names.append(NO_LABEL)
    return Groups(codes, names)


def node_groups(taxonomy: Taxonomy, nodes: np.ndarray) -> tuple[Groups, list[int]]:
    """Group cells by node: branch by branch, each node before those under it, the root last.

    Parameters
    ----------
    taxonomy
        The tree.
    nodes
        Node of every cell, ``(n_cells,)``.

    Returns
    -------
    The groups, named by bare names, or by whole paths where two of them share a name; and the node
    of every group.
    """
    occurring = np.unique(nodes).tolist()
    order = sorted(occurring, key=lambda node: (node == 0, taxonomy.ancestors(node).tolist()))
    rank = np.zeros(taxonomy.n_nodes, dtype=np.int64)
    rank[order] = np.arange(len(order))
    return Groups(rank[nodes], unique_names(taxonomy, order, {0: LABEL_COLUMNS.ROOT})), order


def unique_names(taxonomy: Taxonomy, nodes: list[int], given: Mapping[int, str]) -> list[str]:
    """Return bare or given names, or whole paths where two nodes share a name."""
    bare = [given[node] if node in given else taxonomy.label(node) for node in nodes]
    return [
        name if bare.count(name) == 1 else taxonomy.path_name(node)
        for name, node in zip(bare, nodes, strict=True)
    ]

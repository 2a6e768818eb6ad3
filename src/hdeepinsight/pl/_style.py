"""Common elements of all plots: axes, colours, names, and groups of cells."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
import pandas as pd

from hdeepinsight._keys import LABEL_COLUMNS
from hdeepinsight._palette import MISSING, PALETTE
from hdeepinsight.annotation import check_same_cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

    from hdeepinsight.taxonomy import Taxonomy

NO_LABEL: Final = "no label"
STOPPED: Final = "stopped above"
INK: Final = "#222222"
FAINT: Final = "#777777"
EMPTY: Final = "#F1F1F1"
MARK: Final = "#D55E00"
#: Colour map of probabilities and other numbers: perceptually uniform, with dark high values that
#: stand out on white (also with colour vision deficiency and in print).
SEQUENTIAL: Final = "magma_r"

_STYLES: Final = ("-", "--", "-.", ":")

Frame = Literal["open", "rows", "box", "bare"]
_SIDES: Final = {
    "open": "left bottom",
    "rows": "bottom",
    "box": "left bottom top right",
    "bare": "",
}


def axes_or_new(
    ax: Axes | None, figsize: tuple[float, float], frame: Frame = "open", title: str | None = None
) -> Axes:
    """Return styled axes: the given ones, or those of a new figure.

    Parameters
    ----------
    ax
        Axes to draw on; ``None`` for those of a new figure.
    figsize
        Width and height of a new figure in inches.
    frame
        ``"open"``: two numeric axes. ``"rows"``: names on the left, numbers below. ``"box"``: names
        on both axes and a light frame. ``"bare"``: no ticks or lines, for axes without a unit.
    title
        Title.
    """
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.subplots(figsize=figsize, layout="constrained")[1]
    for side, spine in ax.spines.items():
        spine.set_visible(side in _SIDES[frame])
    ax.set_title(title or "", fontsize=10)
    if frame == "bare":
        ax.set(xticks=[], yticks=[])
    elif frame != "open":
        ax.tick_params(axis="both" if frame == "box" else "y", length=0, labelsize=8.5, pad=5)
    if frame == "box":
        ax.spines[:].set_color("#CCCCCC")
    return ax


def name_sides(ax: Axes, columns: list[str], rows: list[str], *, rotation: int = 45) -> None:
    """Write the names of columns below a grid, and the names of rows on its left."""
    anchor: dict[str, Any] = {"ha": "right", "va": "center", "rotation_mode": "anchor"}
    ax.set_xticks(range(len(columns)), columns, rotation=rotation, **anchor)
    ax.set_yticks(range(len(rows)), rows)


def color_scale(values: Any, cmap: str, low: float = 0.0, high: float = 1.0) -> dict[str, Any]:
    """Return scatter options for a colour scale, with grey for missing numbers."""
    import matplotlib as mpl

    colors = mpl.colormaps[cmap].with_extremes(bad=MISSING)
    return {"c": values, "cmap": colors, "vmin": low, "vmax": high, "plotnonfinite": True}


def line_look(rank: int) -> dict[str, Any]:
    """Return the colour and line style of the line at a position."""
    return {"color": PALETTE[rank % len(PALETTE)], "ls": _STYLES[rank % len(_STYLES)], "lw": 1.6}


def add_halo(text: Text, width: float = 2.5) -> None:
    """Add a white outline to a text, so that it is legible on any background."""
    from matplotlib.patheffects import withStroke

    text.set_path_effects([withStroke(linewidth=width, foreground="white")])


def plain(name: object) -> str:
    """Escape dollar signs in a name, which matplotlib would interpret as mathematics."""
    return str(name).replace("$", r"\$")


def shortened(name: object, longest: int = 36) -> str:
    """Escape a name and shorten it in the middle, since names often differ at their ends."""
    text = str(name)
    if len(text) > longest:
        tail = (longest - 1) // 2
        text = f"{text[: longest - 1 - tail]}…{text[-tail:]}"
    return plain(text)


class Groups(NamedTuple):
    """Groups of cells in drawing order.

    Attributes
    ----------
    codes
        Group of each cell, ``(n_cells,)``.
    names
        Name of each group. Cells without a label form the last group.
    """

    codes: np.ndarray
    names: list[str]

    @property
    def sizes(self) -> np.ndarray:
        """Number of cells per group, ``(n_groups,)``."""
        return np.bincount(self.codes, minlength=len(self.names))

    @property
    def titles(self) -> list[str]:
        """Label of each group for an axis, with its number of cells."""
        sized = zip(self.names, self.sizes.tolist(), strict=True)
        return [f"{shortened(name)}  ({n:,})" for name, n in sized]


def groups_of(labels: Any, obs_names: pd.Index) -> Groups:
    """Group cells by labels, in the order of the categories, without unused ones.

    Parameters
    ----------
    labels
        Labels or clusters, ``(n_cells,)``.
    obs_names
        Names of the cells, ``(n_cells,)``.

    Raises
    ------
    ValueError
        If there are no cells, or labels do not match the cells in the same order.
    """
    if not len(obs_names):
        hint = "Annotate cells, or check how they were selected."
        raise ValueError(f"There must be at least one cell, got none. {hint}")
    check_same_cells(obs_names, labels, "groups")
    categories: pd.Categorical = pd.Categorical(labels).remove_unused_categories()
    codes, names = categories.codes.astype(np.int64), list(map(str, categories.categories))
    missing = codes < 0
    return Groups(np.where(missing, len(names), codes), names + [NO_LABEL] * bool(missing.any()))


def in_tree_order(taxonomy: Taxonomy, nodes: Iterable[int]) -> list[int]:
    """Sort nodes depth first, with the root, or -1, at the end."""
    return sorted(nodes, key=lambda node: (node <= 0, taxonomy.ancestors(max(node, 0)).tolist()))


def node_groups(taxonomy: Taxonomy, nodes: np.ndarray) -> tuple[Groups, list[int]]:
    """Group cells by node, in the order of the taxonomy.

    Parameters
    ----------
    taxonomy
        Taxonomy of the nodes.
    nodes
        Node of each cell, ``(n_cells,)``.

    Returns
    -------
    groups, nodes
        Groups with bare names, or full paths if two groups share a name, and the node of each.
    """
    order = in_tree_order(taxonomy, np.unique(nodes).tolist())
    return Groups(pd.Index(order).get_indexer(nodes), unique_names(taxonomy, order)), order


def unique_names(taxonomy: Taxonomy, nodes: list[int]) -> list[str]:
    """Return bare names, or full paths of nodes that share one; -1 is a label above the level."""
    special = {0: LABEL_COLUMNS.ROOT, -1: STOPPED}
    bare = [special.get(node) or taxonomy.label(node) for node in nodes]
    return [
        name if bare.count(name) == 1 else taxonomy.path_name(node)
        for name, node in zip(bare, nodes, strict=True)
    ]

"""What every figure shares: axes, colours, names, and groups of cells."""

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
#: Probabilities and other numbers of cells: perceptually uniform, and darker where there is more,
#: so that on white the high values stand out (with colour vision deficiency and in print too).
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
    """Return the given axes, or those of a new figure, in the look of all figures.

    Parameters
    ----------
    ax
        Axes to draw on; ``None`` for new ones.
    figsize
        Width and height of a new figure, in inches.
    frame
        ``"open"``: two axes with numbers. ``"rows"``: names at the left, numbers below.
        ``"box"``: names at both sides, within a faint line. ``"bare"``: neither ticks nor lines,
        for pictures whose axes have no unit.
    title
        Heading.
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
    """Write the names of columns below a grid, and those of its rows at the left."""
    anchor: dict[str, Any] = {"ha": "right", "va": "center", "rotation_mode": "anchor"}
    ax.set_xticks(range(len(columns)), columns, rotation=rotation, **anchor)
    ax.set_yticks(range(len(rows)), rows)


def color_scale(values: Any, cmap: str, low: float = 0.0, high: float = 1.0) -> dict[str, Any]:
    """Return options of dots in the colours of numbers; grey where there is none."""
    import matplotlib as mpl

    colors = mpl.colormaps[cmap].with_extremes(bad=MISSING)
    return {"c": values, "cmap": colors, "vmin": low, "vmax": high, "plotnonfinite": True}


def line_look(rank: int) -> dict[str, Any]:
    """Return colour and style of a line among several."""
    return {"color": PALETTE[rank % len(PALETTE)], "ls": _STYLES[rank % len(_STYLES)], "lw": 1.6}


def add_halo(text: Text, width: float = 2.5) -> None:
    """Put a white rim around a text, which keeps it legible on any ground."""
    from matplotlib.patheffects import withStroke

    text.set_path_effects([withStroke(linewidth=width, foreground="white")])


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
        If there is no cell, not one label per cell, or labels have the names of cells in another
        order.
    """
    if not len(obs_names):
        raise ValueError(
            "The annotation has no cell. At least one is needed. Annotate cells, or check how "
            "they were selected."
        )
    check_same_cells(obs_names, labels, "groups")
    categories: pd.Categorical = pd.Categorical(labels).remove_unused_categories()
    codes, names = categories.codes.astype(np.int64), list(map(str, categories.categories))
    missing = codes < 0
    return Groups(np.where(missing, len(names), codes), names + [NO_LABEL] * bool(missing.any()))


def in_tree_order(taxonomy: Taxonomy, nodes: Iterable[int]) -> list[int]:
    """Sort nodes branch by branch, each before those under it; the root, or -1, comes last."""
    return sorted(nodes, key=lambda node: (node <= 0, taxonomy.ancestors(max(node, 0)).tolist()))


def node_groups(taxonomy: Taxonomy, nodes: np.ndarray) -> tuple[Groups, list[int]]:
    """Group cells by node, in the order of the tree.

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
    order = in_tree_order(taxonomy, np.unique(nodes).tolist())
    return Groups(pd.Index(order).get_indexer(nodes), unique_names(taxonomy, order)), order


def unique_names(taxonomy: Taxonomy, nodes: list[int]) -> list[str]:
    """Return bare names, or whole paths where two nodes share one; -1 stands for any above."""
    special = {0: LABEL_COLUMNS.ROOT, -1: STOPPED}
    bare = [special.get(node) or taxonomy.label(node) for node in nodes]
    return [
        name if bare.count(name) == 1 else taxonomy.path_name(node)
        for name, node in zip(bare, nodes, strict=True)
    ]

"""How many types it takes to keep a promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hdeepinsight.pl._style import FAINT, MARK, PALETTE, axes_or_new

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes

    from hdeepinsight.annotation import LabelSets

__all__ = ["label_set_sizes"]

#: Up to this many bars carry their share in percent.
_MAX_NUMBERED = 12
#: Sizes up to this are on the axis in any case, so that pictures compare.
_LEAST_SHOWN = 5


def label_set_sizes(
    sets: LabelSets,
    holds: npt.ArrayLike | None = None,
    *,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how many types the label sets hold, and which of them hold the truth.

    Parameters
    ----------
    sets
        Conformal label sets, as ``result.label_sets(alpha=0.1)`` gives them.
    holds
        Whether each set holds the cell's true type, ``(n_cells,)``: ``sets.holds(true_nodes)``.
        Then the part of each bar that misses it is drawn in another colour on top.
    title
        Heading; by default the mean size, and the coverage promised and observed.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    The axes: one bar a size, its height the share of cells.

    Raises
    ------
    ValueError
        If there is no set, or `holds` has another length.

    Examples
    --------
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> tax = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> p = np.array([[1, 0.9, 0.1, 0.5, 0.4], [1, 0.1, 0.9, 0.1, 0.0]])
    >>> result = hdi.Annotation(taxonomy=tax, obs_names=["a", "b"], node_probabilities=p)
    >>> truth = tax.encode(["CD8", "B"])
    >>> labelled = hdi.annotation.calibrate(result, truth)
    >>> sets = result.label_sets(alpha=0.4, calibration=labelled)
    >>> ax = hdi.pl.label_set_sizes(sets, sets.holds(truth))
    >>> ax.get_title().splitlines()
    ['1.50 types a set', 'coverage promised 60.0%, observed 100.0%']
    """
    size = sets.size.to_numpy()
    if not len(size):
        raise ValueError("There is no label set. At least one is needed. Annotate cells first.")
    widest = max(size.max(), min(_LEAST_SHOWN, sets.taxonomy.n_leaves))
    shown = np.arange(min(size.min(), 1), widest + 1)
    right = _share(size if holds is None else size[_checked(holds, len(size))], shown, len(size))
    wrong = _share(size, shown, len(size)) - right
    ax = axes_or_new(ax, (min(3.0 + 0.35 * len(shown), 10.0), 3.6))
    ax.bar(shown, right, color=PALETTE[0], label="holds the truth")
    if holds is not None:
        ax.bar(shown, wrong, bottom=right, color=MARK, label="misses it", hatch="///", ec="white")
        ax.legend(frameon=False, fontsize=8.5, loc="upper right")
    if len(shown) <= _MAX_NUMBERED:
        for at, share in zip(shown, right + wrong, strict=True):
            percent = f"{100 * share:.0f}%" if share == 0 or share >= 0.005 else "<1%"
            ax.text(at, share, percent, ha="center", va="bottom", size=8, c=FAINT)
        ax.set_xticks(shown)
    ax.set(xlabel="types in the set", ylabel="share of cells")
    ax.margins(y=0.1)
    ax.spines[["top", "right"]].set_visible(False)
    observed = None if holds is None else right.sum()
    ax.set_title(_heading(sets, observed) if title is None else title, fontsize=10)
    return ax


def _checked(holds: npt.ArrayLike, n_cells: int) -> np.ndarray:
    held = np.asarray(holds)
    if held.shape != (n_cells,) or held.dtype != np.bool_:
        raise ValueError(
            f"`holds` has the shape {held.shape} and the type {held.dtype}. One true or false a "
            f"set is needed: ({n_cells},). Use sets.holds(true_nodes) with the true nodes of the "
            "same cells."
        )
    return held


def _share(size: np.ndarray, shown: np.ndarray, n_cells: int) -> np.ndarray:
    return np.bincount(size - shown[0], minlength=len(shown)) / n_cells


def _heading(sets: LabelSets, observed: float | None) -> str:
    found = "" if observed is None else f", observed {observed:.1%}"
    mean, promised = sets.size.mean(), sets.promised_coverage
    return f"{mean:.2f} types a set\ncoverage promised {promised:.1%}{found}"

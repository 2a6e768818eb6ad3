"""What a privacy budget buys: scores against epsilon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hdeepinsight._palette import PALETTE
from hdeepinsight.pl._style import FAINT, axes_or_new, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def privacy_utility(
    scores: pd.DataFrame,
    controls: Mapping[str, float] | None = None,
    *,
    score: str = "adjusted Rand index",
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw scores of private methods against epsilon, beside controls that have no epsilon.

    Parameters
    ----------
    scores
        A score per epsilon (index, numbers > 0) and method (columns). Rows of one epsilon, such as
        seeds, become a mean with a bar from the lowest to the highest; missing values are left out.
    controls
        Scores of methods without a budget, such as a random projection (epsilon is 0) or no
        privacy, each as a dashed line with its name.
    score
        What the scores are.
    title
        Heading.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    The axes: epsilon on a logarithmic axis, more privacy to the left.

    Raises
    ------
    ValueError
        If there is no score, or an epsilon is not a number > 0.

    Examples
    --------
    >>> import pandas as pd
    >>> import hdeepinsight as hdi
    >>> scores = pd.DataFrame({"dp_pca": [0.43, 0.46, 0.51]}, index=[1, 2, 4])
    >>> ax = hdi.pl.privacy_utility(scores, {"random projection": 0.35})
    >>> ax.get_xlabel()
    'epsilon per cell'
    """
    epsilon = pd.to_numeric(pd.Series(scores.index), errors="coerce").to_numpy(dtype=np.float64)
    if not scores.size or not (epsilon > 0).all():
        raise ValueError(
            "scores must have a row per epsilon > 0 and a column per method, got "
            f"{scores.shape[0]} rows named {list(scores.index)[:5]}. Pass methods without a budget "
            "as controls."
        )
    ax = axes_or_new(ax, (4.8, 3.6), title=title)
    for rank, (name, values) in enumerate(scores.items()):
        by = pd.Series(values.to_numpy(dtype=np.float64)).groupby(epsilon).agg
        found = pd.DataFrame({"mean": by("mean"), "low": by("min"), "high": by("max")}).dropna()
        color = PALETTE[rank % len(PALETTE)]
        ax.vlines(found.index, found["low"], found["high"], color=color, lw=1.2, alpha=0.6)
        ax.plot(found.index, found["mean"], "o-", color=color, ms=4.5, label=plain(name))
    ax.set_xscale("log")
    ticks = np.unique(epsilon)
    ax.set_xticks(ticks, [f"{value:g}" for value in ticks])
    ax.minorticks_off()
    for name, value in (controls or {}).items():
        ax.axhline(value, color=FAINT, lw=1, ls="--", zorder=0)
        at = ax.get_yaxis_transform()
        ax.text(1.01, value, plain(name), va="center", size=8, c=FAINT, transform=at)
    ax.set(xlabel="epsilon per cell", ylabel=score)
    ax.legend(frameon=False, fontsize=8)
    return ax

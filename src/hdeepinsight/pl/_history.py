"""How a training went, level by level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hdeepinsight.pl._style import FAINT, PALETTE, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOSSES: Final = {
    "train_loss": "training",
    "validation_loss": "held out",
    "log_loss": "held out, log loss",
}
#: Beginning of the keys of what is logged for every level, and heading of its panel.
_PER_LEVEL: Final = {
    "accuracy_": "accuracy",
    "macro_f1_": "macro-F1",
    "ece_": "calibration error",
    "level_weight_": "weight in the loss",
}
_STYLES: Final = ("-", "--", "-.", ":")


def training_history(history: Mapping[str, Any], *, title: str | None = None) -> Figure:
    """Draw losses, and accuracy, macro-F1, calibration error and weight of every level.

    Parameters
    ----------
    history
        ``model.history``: for each name a table with one column, or a Series, of values by epoch;
        or one DataFrame with a column a name. What was not logged is left out.
    title
        Heading of the figure.

    Returns
    -------
    The figure, with one axes for the losses and one for each measure that was logged (weights of
    levels only where they change). A level has
    the same colour and line in all of them; a dotted line marks the epoch of the
    lowest held-out log loss.

    Raises
    ------
    ValueError
        If nothing in the history is a loss or a measure of a level.

    Examples
    --------
    >>> import pandas as pd
    >>> import hdeepinsight as hdi
    >>> history = pd.DataFrame(
    ...     {"train_loss": [1.2, 0.7], "accuracy_lineage": [0.8, 0.9], "accuracy_type": [0.5, 0.7]}
    ... )
    >>> figure = hdi.pl.training_history(history)
    >>> [ax.get_title() for ax in figure.axes]
    ['loss', 'accuracy']
    """
    import matplotlib.pyplot as plt

    series = {str(name): _series(values) for name, values in history.items()}
    if not (panels := _panels(series)):
        raise ValueError(
            f"The history holds {list(series)[:10]}, none of which is a loss or a measure of a "
            "level, such as 'train_loss' or 'accuracy_<level>'. "
            "Train the model, and pass model.history."
        )
    figure, axes = plt.subplots(
        1, len(panels), figsize=(2.9 * len(panels), 2.9), layout="constrained", squeeze=False
    )
    levels = list(dict.fromkeys(n for name, p in panels.items() if name != "loss" for n in p))
    for ax, (name, curves) in zip(axes.flat, panels.items(), strict=True):
        _draw(ax, curves, list(_LOSSES.values()) if name == "loss" else levels)
        ax.set_title(name, fontsize=10)
        if name != "loss":
            ax.set_ylim(0.0, 1.02 if name != "calibration error" else None)
    epochs, values = series.get("log_loss", (np.empty(0), np.empty(0)))
    if len(values):
        for ax in axes.flat:
            ax.axvline(epochs[values.argmin()], color=FAINT, lw=0.8, ls=":", zorder=0)
    figure.suptitle(title or "")
    return figure


def _series(values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return epochs and values ``(n_epochs,)``, without those that are not finite."""
    import pandas as pd

    column = values.iloc[:, 0] if isinstance(values, pd.DataFrame) else pd.Series(values)
    known = pd.to_numeric(column, errors="coerce").dropna()
    return known.index.to_numpy(), known.to_numpy(dtype=np.float64)


def _panels(
    series: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Collect the curves by name, for each panel that has any."""
    panels = {"loss": {name: series[key] for key, name in _LOSSES.items() if key in series}}
    for prefix, heading in _PER_LEVEL.items():
        logged = {k.removeprefix(prefix): v for k, v in series.items() if k.startswith(prefix)}
        if prefix == "level_weight_" and all(np.ptp(values) == 0 for _, values in logged.values()):
            continue  # weights that never change say nothing by epoch
        panels[heading] = logged
    return {heading: curves for heading, curves in panels.items() if curves}


def _draw(ax: Axes, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], order: list[str]) -> None:
    for name, (epochs, values) in curves.items():
        rank = order.index(name)
        color, line = PALETTE[rank % len(PALETTE)], _STYLES[rank % len(_STYLES)]
        dot = "." if len(values) == 1 else ""
        ax.plot(epochs, values, lw=1.6, color=color, ls=line, marker=dot, label=plain(name))
    ax.set_xlabel("epoch")
    ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)

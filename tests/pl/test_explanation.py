"""Pictures of explanations show the numbers of their rankings."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from explained import explain

from hdeepinsight import pl


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def labels(ax):
    """Names of the rows from top to bottom."""
    ticks = zip(ax.get_yticks(), (t.get_text() for t in ax.get_yticklabels()), strict=True)
    return [name for _, name in sorted(ticks, reverse=True)]


def test_leading_genes_stand_in_the_order_of_the_ranking_with_a_dot_a_cell():
    found = explain()
    ax = pl.explanation(found, n_genes=6)
    table = found.ranking().iloc[:6]
    assert labels(ax) == table.index.tolist()
    ticks = ax.lines[1].get_xdata()
    np.testing.assert_allclose(ticks, table["mean"])
    dots = [part for part in ax.collections if len(part.get_offsets()) == 10]
    assert len(dots) == 6
    np.testing.assert_allclose(
        np.sort(dots[0].get_offsets()[:, 0]),
        np.sort(found.to_frame().loc[found.own, table.index[0]]),
        rtol=1e-5,
    )
    assert ax.get_title() == "CD4 (10 cells)"


def test_without_cells_mean_and_spread_are_drawn_alone():
    found = explain(keep_values=False)
    ax = pl.explanation(found, n_genes=4)
    np.testing.assert_allclose(ax.lines[1].get_xdata(), found.ranking()["mean"].iloc[:4])
    assert ax.get_title() == "CD4"


def test_a_contrast_shows_each_side_in_its_own_cells():
    found = explain(against="CD8")
    ax = pl.contrast(found, n_genes=3)
    others = found.ranking(cells=~found.own)
    own = found.ranking()
    assert labels(ax) == [*own.index[:3], *others.index[-3:]]
    widths = [bar.get_width() for bar in ax.patches]
    np.testing.assert_allclose(widths, [*own["mean"][:3], *others["mean"][-3:]])
    assert ax.get_title() == "CD4 against CD8"


def test_bars_of_genes_that_are_absent_are_hollow():
    ax = pl.contrast(explain(others=False), n_genes=3)
    hollow = [bar.get_facecolor() == (1.0, 1.0, 1.0, 1.0) for bar in ax.patches]
    assert hollow == [False] * 3 + [True] * 3

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from explained import explain

from hdeepinsight import pl

EPOCHS = pd.Index([1, 3, 5], name="epoch")
VALUES = {
    "train_loss": [1.2, 0.8, 0.6],
    "log_loss": [1.0, 0.5, 0.7],
    "accuracy_lineage": [0.7, 0.8, 0.9],
    "accuracy_cell_type": [0.3, 0.5, np.nan],
    "macro_f1_lineage": [0.6, 0.7, 0.8],
    "lr-AdamW": [0.1, 0.1, 0.1],
}
TABLES = {name: pd.DataFrame({name: values}, index=EPOCHS) for name, values in VALUES.items()}


@pytest.mark.parametrize(
    "history", [TABLES, pd.DataFrame(VALUES, index=EPOCHS)], ids=["tables", "frame"]
)
def test_each_metric_has_a_panel_with_one_curve_per_level(history):
    figure = pl.training_history(history, title="mine")
    assert [ax.get_title() for ax in figure.axes] == ["loss", "accuracy", "macro-F1"]
    loss, accuracy, f1 = figure.axes
    curve = {line.get_label(): line for line in accuracy.lines}
    np.testing.assert_array_equal(curve["lineage"].get_xdata(), EPOCHS)
    np.testing.assert_array_equal(curve["lineage"].get_ydata(), VALUES["accuracy_lineage"])
    np.testing.assert_array_equal(curve["cell_type"].get_xdata(), [1, 3])  # without the NaN
    assert curve["lineage"].get_color() == f1.lines[0].get_color()
    assert curve["lineage"].get_color() != curve["cell_type"].get_color()
    assert [line.get_xdata()[0] for line in loss.lines[-1:]] == [3]  # lowest log loss
    assert figure.get_suptitle() == "mine"


def test_one_epoch_is_a_dot():
    figure = pl.training_history({"train_loss": [0.5]})
    assert figure.axes[0].lines[0].get_marker() == "."


@pytest.mark.parametrize("history", [{}, {"lr-AdamW": [0.1]}])
def test_a_history_without_losses_is_refused(history):
    with pytest.raises(ValueError, match="must contain a loss"):
        pl.training_history(history)


def test_weights_of_levels_are_drawn_only_where_they_change():
    flat = {**TABLES, "level_weight_lineage": [0.5, 0.5, 0.5]}
    assert len(pl.training_history(flat).axes) == 3
    moving = {**TABLES, "level_weight_lineage": [0.5, 0.4, 0.3]}
    assert pl.training_history(moving).axes[3].get_title() == "weight in the loss"


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


def test_seeds_of_a_budget_are_averaged_and_controls_are_lines():
    scores = pd.DataFrame({"a": [0.2, 0.4, 0.6], "b": [0.1, 0.1, np.nan]}, index=[1, 1, 4])
    ax = pl.privacy_utility(scores, {"random": 0.15}, score="ARI", title="mine")
    a, b, control = ax.lines
    np.testing.assert_allclose(a.get_xydata(), [[1, 0.3], [4, 0.6]])
    np.testing.assert_allclose(b.get_xydata(), [[1, 0.1]])
    assert control.get_ydata()[0] == 0.15
    assert [text.get_text() for text in ax.texts] == ["random"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "4"]
    assert (ax.get_ylabel(), ax.get_title()) == ("ARI", "mine")

import numpy as np
import pandas as pd
import pytest

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
def test_each_measure_has_a_panel_with_a_curve_a_level(history):
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
    with pytest.raises(ValueError, match="none of which is a loss"):
        pl.training_history(history)


def test_weights_of_levels_are_drawn_only_where_they_change():
    flat = {**TABLES, "level_weight_lineage": [0.5, 0.5, 0.5]}
    assert len(pl.training_history(flat).axes) == 3
    moving = {**TABLES, "level_weight_lineage": [0.5, 0.4, 0.3]}
    assert pl.training_history(moving).axes[3].get_title() == "weight in the loss"

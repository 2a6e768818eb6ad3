"""Scores against a budget."""

import numpy as np
import pandas as pd
import pytest

from hdeepinsight import pl


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


@pytest.mark.parametrize("index", [[0, 1], ["none", 1]])
def test_a_budget_of_nothing_is_no_budget(index):
    with pytest.raises(ValueError, match="a row per epsilon > 0"):
        pl.privacy_utility(pd.DataFrame({"a": [0.1, 0.2]}, index=index))

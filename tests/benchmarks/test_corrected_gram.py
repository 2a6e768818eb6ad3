"""Panels are drawn as their names say, and the table holds means over seeds."""

import corrected_gram
import numpy as np
import pytest


def test_panels_share_as_many_genes_as_they_say():
    for setting in corrected_gram.PANELS:
        shared, rate = corrected_gram.PANELS[setting]
        table = corrected_gram.draw_panels(setting, 3, 200, np.random.default_rng(0))
        assert table.all(axis=0).mean() == pytest.approx(shared)
        assert table.any(axis=0).all()
        if rate is None:
            assert sorted(table.sum(axis=1).tolist()) == [100, 200, 200]
        elif rate == 0:
            assert set(table.sum(axis=0).tolist()) == {1, 3}


def test_complete_data_score_themselves():
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(90, 12)), np.repeat(["T", "B", "NK"], 30)
    points[:, 0] += 50 * (np.arange(90) // 30)
    found = corrected_gram.score(points, points, labels, np.array(["x", "y"])[np.arange(90) % 2])
    assert found["angle"] == pytest.approx(0, abs=1e-4)
    assert found["purity"] == found["purity_across"] == 1
    assert found["mixing"] == pytest.approx(1, abs=0.2)


def test_table_has_means_over_seeds():
    row = {"dataset": "d", "setting": "s", "method": "m", "purity": 0.5, "purity_across": 0.5}
    row |= {"mixing": 1.0, "cpu_s": 0.1}
    table = corrected_gram.table([row | {"seed": i, "angle": 10.0 * i} for i in range(3)])
    assert table.splitlines()[2] == "| d | s | m | 10.0 | 0.500 | 0.500 | 1.000 | 0.1 |"

"""The demo: its baseline, and a complete run (slow)."""

import anndata as ad
import demo
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score

import hdeepinsight as hdi
from hdeepinsight.annotation import evaluate_annotation


def test_baseline_is_logistic_regression():
    cells = hdi.datasets.pbmc3k()
    parts = cells[::4].copy(), cells[1::4].copy()
    taxonomy = hdi.Taxonomy.from_obs(cells, demo.LEVELS)
    found = demo.logistic_regression(*parts, taxonomy)
    for part in parts:
        sc.pp.normalize_total(part, target_sum=1e4)
        sc.pp.log1p(part)
    classifier = LogisticRegression(max_iter=1000)
    classifier.fit(parts[0].X, parts[0].obs["subtype"].astype(str))
    predicted, truth = classifier.predict(parts[1].X), parts[1].obs["subtype"].astype(str)
    levels = evaluate_annotation(found, taxonomy.encode_levels(parts[1].obs[demo.LEVELS])).levels
    scores = levels.loc["subtype", ["accuracy", "macro_f1"]].tolist()
    expected = [accuracy_score(truth, predicted), f1_score(truth, predicted, average="macro")]
    np.testing.assert_allclose(scores, expected, atol=0.01)


@pytest.mark.slow
def test_the_whole_demo_twice(tmp_path, capsys):
    tables = []
    for _ in range(2):
        demo.run(tmp_path)
        tables.append(pd.read_csv(tmp_path / "scores.csv"))
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(demo.OUTPUTS)
    pd.testing.assert_frame_equal(*tables)
    whole = tables[0].set_index(["method", "level"])
    ours = whole.loc["hdeepinsight"]
    assert ours.index.tolist() == demo.LEVELS
    assert ours.loc["lineage", "accuracy"] > 0.98
    assert ours.loc["cell_type", "accuracy"] > 0.95
    for level in demo.LEVELS:  # as much as any type counts as any other
        peers = whole.xs(level, level="level")["balanced_accuracy"]
        assert peers.idxmax() == "hdeepinsight"
    assert f"{ours.loc['cell_type', 'macro_f1']:.3f}" in capsys.readouterr().out
    annotated = ad.read_h5ad(tmp_path / "annotated.h5ad")
    assert annotated.n_obs == 1319
    given = annotated.obs["hdi_lineage"].astype(str)
    right = given == annotated.obs["lineage"].astype(str)
    assert right[given != "Unknown"].mean() > 0.98

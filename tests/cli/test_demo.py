"""``hdeepinsight demo``: its baseline, its folder, and a complete run (slow)."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score

import hdeepinsight as hdi
from hdeepinsight.annotation import evaluate_annotation
from hdeepinsight.cli._console import UsageProblem
from hdeepinsight.cli._demo import OUTPUTS, claim_folder, logistic_regression
from hdeepinsight.datasets import DemoData, demo


@pytest.fixture(scope="module")
def data():
    return demo()


@pytest.fixture(scope="module")
def taxonomy(data):
    return hdi.Taxonomy.from_obs(data.reference, DemoData.levels)


def test_baseline_is_logistic_regression(data, taxonomy):
    normalised = []
    for part in (data.reference, data.query):
        part = part.copy()
        sc.pp.normalize_total(part, target_sum=1e4)
        sc.pp.log1p(part)
        normalised.append(part.X)
    classifier = LogisticRegression(max_iter=1000)
    classifier.fit(normalised[0], data.reference.obs["cell_type"].astype(str))
    predicted = classifier.predict(normalised[1])
    truth = data.query.obs["cell_type"].astype(str)
    found = logistic_regression(data.reference, data.query, taxonomy, labels_key="cell_type")
    fine = evaluate_annotation(found, taxonomy.encode_levels(data.query.obs[data.levels])).levels
    scores = fine.loc["cell_type", ["accuracy", "macro_f1"]].tolist()
    expected = [accuracy_score(truth, predicted), f1_score(truth, predicted, average="macro")]
    np.testing.assert_allclose(scores, expected, atol=0.01)
    children = found.node_probabilities[:, taxonomy.groups[0]]
    np.testing.assert_allclose(children.sum(1), 1.0, atol=1e-6)


def test_folder_of_an_earlier_run_is_reused(tmp_path):
    claim_folder(tmp_path / "out")
    (tmp_path / "out" / "scores.csv").write_text("old")
    claim_folder(tmp_path / "out")
    assert (tmp_path / "out" / "scores.csv").read_text() == "old"


def test_folder_with_other_files_raises(tmp_path):
    (tmp_path / "README.md").write_text("# My thesis")
    with pytest.raises(UsageProblem, match="did not create"):
        claim_folder(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# My thesis"


def test_output_that_is_a_file_raises(tmp_path, hdeepinsight):
    (tmp_path / "out").write_text("a file")
    done = hdeepinsight("demo", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "is a file" in done.stderr


@pytest.mark.slow
def test_the_whole_demo_twice(hdeepinsight, tmp_path):
    out, tables = tmp_path / "demo_out", []
    for _ in range(2):
        done = hdeepinsight("demo", "--out", out)
        assert done.exit_code == 0, done.stderr
        tables.append(pd.read_csv(out / "scores.csv"))
        assert sorted(path.name for path in out.iterdir()) == sorted([*OUTPUTS, "README.md"])
    pd.testing.assert_frame_equal(*tables)
    assert list(tables[0])[:2] == ["level", "method"]
    assert tables[0]["level"].drop_duplicates().tolist() == ["lineage", "cell_type", "subtype"]
    whole = tables[0].set_index(["method", "level"])
    ours = whole.loc["hdeepinsight"]
    assert ours.loc["lineage", "accuracy"] > 0.98
    assert ours.loc["cell_type", "accuracy"] > 0.95
    for level in ("lineage", "cell_type", "subtype"):  # as much as any type counts as any other
        peers = whole.xs(level, level="level")["balanced_accuracy"]
        assert peers.idxmax() == "hdeepinsight"
    assert f"{ours.loc['cell_type', 'macro_f1']:.3f}" in done.stdout
    annotated = ad.read_h5ad(out / "annotated.h5ad")
    assert annotated.n_obs == 1319
    given = annotated.obs["hdi_lineage"].astype(str)
    right = given == annotated.obs["lineage"].astype(str)
    assert right[given != "Unknown"].mean() > 0.98
    assert hdeepinsight("evaluate", out / "query.h5ad", "--model", out / "model").exit_code == 0

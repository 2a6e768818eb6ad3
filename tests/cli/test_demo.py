"""The demo: its data, its baseline, its folder; all of it in a slow test."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score

import hdeepinsight as hdi
from hdeepinsight.annotation import evaluate_annotation
from hdeepinsight.cli._boundary import UsageProblem
from hdeepinsight.cli._demo import (
    OUTPUTS,
    claim_folder,
    figures_table,
    head_to_head,
    logistic_regression,
)
from hdeepinsight.datasets import DemoData, demo


@pytest.fixture(scope="module")
def data():
    return demo()


@pytest.fixture(scope="module")
def taxonomy(data):
    return hdi.Taxonomy.from_obs(data.reference, DemoData.levels)


def test_split_is_stratified_and_complete(data, pbmc68k):
    names = [*data.reference.obs_names, *data.query.obs_names]
    assert sorted(names) == sorted(pbmc68k.obs_names)
    assert (data.reference.n_obs, data.query.n_obs) == (490, 210)
    whole = pbmc68k.obs["bulk_labels"].value_counts()
    held_out = data.query.obs["cell_type"].value_counts()
    for label, (_, name) in DemoData.types.items():
        assert abs(held_out[name] - 0.3 * whole[label]) < 1


def test_labels_are_those_of_the_file_in_words(data, pbmc68k):
    labels = pbmc68k.obs["bulk_labels"].astype(str)[data.query.obs_names]
    assert data.query.obs["cell_type"].tolist() == [DemoData.types[label][1] for label in labels]
    assert data.query.obs["lineage"].tolist() == [DemoData.types[label][0] for label in labels]


def test_counts_give_the_values_of_the_file_again(data, pbmc68k):
    values = pbmc68k.raw[data.query.obs_names].X.toarray()
    counts = data.query.X.toarray()
    assert (counts == np.round(counts)).all()
    # One factor a cell leads from counts to the values; the file is rounded to three decimals.
    scale = np.expm1(values).sum(1, keepdims=True) / counts.sum(1, keepdims=True)
    np.testing.assert_allclose(np.log1p(counts * scale), values, atol=2e-3)


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


def test_figures_stand_side_by_side(data, taxonomy):
    annotation = logistic_regression(data.reference, data.query, taxonomy, labels_key="cell_type")
    scores = evaluate_annotation(annotation, taxonomy.encode_levels(data.query.obs[data.levels]))
    table = figures_table({"a": scores, "b": scores})
    assert table["level"].tolist() == ["lineage", "lineage", "cell_type", "cell_type"]
    assert table["method"].tolist() == ["a", "b", "a", "b"]
    assert table["accuracy"].tolist() == np.repeat(scores.levels["accuracy"], 2).tolist()


def test_head_to_head_counts_cells_that_one_method_gets_right():
    tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": ["B"]})
    truth = tree.encode(["CD4"] * 4 + ["CD8"] * 4 + ["B > B"] * 2)
    sure = np.eye(tree.n_leaves) @ tree.ancestor_matrix

    def annotation(leaves):
        names = [f"cell_{i}" for i in range(len(leaves))]
        return hdi.Annotation(
            taxonomy=tree, obs_names=pd.Index(names), node_probabilities=sure[leaves]
        )

    leaves = [tree.label(leaf) for leaf in tree.leaves]
    cd4, cd8, b = (leaves.index(name) for name in ("CD4", "CD8", "B"))
    perfect = annotation([cd4] * 4 + [cd8] * 4 + [b] * 2)
    poor = annotation([cd8] * 4 + [cd8] * 4 + [cd4] * 2)
    duels = head_to_head(truth, perfect, poor)
    # At level 1 only the two B cells differ, at level 2 the four CD4 cells too.
    assert duels["level_1"] == (2, 0, pytest.approx(2 * 0.5**2))
    assert duels["level_2"] == (6, 0, pytest.approx(2 * 0.5**6))
    assert head_to_head(truth, perfect, perfect)["level_2"] == (0, 0, 1.0)


def test_folder_of_an_earlier_run_is_taken(tmp_path):
    claim_folder(tmp_path / "out")
    (tmp_path / "out" / "figures.csv").write_text("old")
    claim_folder(tmp_path / "out")
    assert (tmp_path / "out" / "figures.csv").read_text() == "old"


def test_folder_of_others_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("# My thesis")
    with pytest.raises(UsageProblem, match="did not make"):
        claim_folder(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# My thesis"


def test_file_is_no_folder(tmp_path, hdeepinsight):
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
        tables.append(pd.read_csv(out / "figures.csv"))
        assert sorted(path.name for path in out.iterdir()) == sorted([*OUTPUTS, "README.md"])
    pd.testing.assert_frame_equal(*tables)
    ours = tables[0].query("method == 'hdeepinsight'").set_index("level")
    assert ours.loc["lineage", "accuracy"] > 0.93
    assert ours.loc["cell_type", "accuracy"] > 0.75
    assert f"{ours.loc['cell_type', 'macro_f1']:.3f}" in done.stdout
    annotated = ad.read_h5ad(out / "annotated.h5ad")
    assert annotated.n_obs == 210
    right = annotated.obs["hdi_lineage"].astype(str) == annotated.obs["lineage"].astype(str)
    assert right.mean() == pytest.approx(ours.loc["lineage", "accuracy"])
    scored = hdeepinsight("evaluate", out / "query.h5ad", "--model", out / "model")
    assert f"{ours.loc['cell_type', 'macro_f1']:.3f}" in scored.stdout

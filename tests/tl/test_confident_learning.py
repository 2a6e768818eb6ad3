"""Confident learning on a taxonomy, with hand-written probabilities."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from hdeepinsight.taxonomy import Taxonomy
from hdeepinsight.tl import LabelAudit, audit_labels
from hdeepinsight.tl._confident_learning import assign_folds, out_of_fold_probabilities

TREE = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": ["naive", "memory"]})
T, B, CD4, CD8, NAIVE, MEMORY = range(1, 7)


def node_probabilities(leaves: list[list[float]]) -> np.ndarray:
    """Sum leaf probabilities along the taxonomy."""
    return np.asarray(leaves) @ TREE.ancestor_matrix.astype(float)


SURE = {
    CD4: [0.9, 0.1, 0.0, 0.0],
    CD8: [0.1, 0.9, 0.0, 0.0],
    NAIVE: [0.0, 0.0, 0.9, 0.1],
    MEMORY: [0.0, 0.0, 0.1, 0.9],
}


def labelled(extra: list[tuple[int, list[float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Five clear cells of every leaf, then the extra ones."""
    cells = [(node, row) for node, row in SURE.items() for _ in range(5)] + extra
    return np.array([node for node, _ in cells]), node_probabilities([row for _, row in cells])


def audited(nodes: np.ndarray, probabilities: np.ndarray, **options: object) -> LabelAudit:
    cells = ad.AnnData(obs=pd.DataFrame(index=np.arange(len(nodes)).astype(str)))
    settings = {"n_folds": 2, "max_share": 1.0, **options}
    return audit_labels(cells, taxonomy=TREE, nodes=nodes, probabilities=probabilities, **settings)


@pytest.mark.parametrize(
    ("node", "row", "suggested"),
    [
        pytest.param(CD4, [0.0, 0.0, 0.9, 0.1], NAIVE, id="another_lineage_is_named_first"),
        pytest.param(CD4, [0.1, 0.9, 0.0, 0.0], CD8, id="a_sibling"),
        pytest.param(CD4, [0.2, 0.8, 0.0, 0.0], None, id="a_lead_below_the_margin"),
        pytest.param(T, [0.1, 0.9, 0.0, 0.0], None, id="not_judged_below_an_inner_label"),
        pytest.param(T, [0.0, 0.1, 0.0, 0.9], MEMORY, id="inner_label_contradicted"),
        pytest.param(CD4, [0.9, 0.1, 0.0, 0.0], None, id="right"),
    ],
)
def test_suggestion(node: int, row: list[float], suggested: int | None) -> None:
    found = audited(*labelled([(node, row)]), least_margin=0.7)
    assert found.suspicious.tolist() == [False] * 20 + [suggested is not None]
    assert found.suggested_nodes[-1] == (suggested or node)
    np.testing.assert_array_equal(found.suggested_nodes[:-1], found.nodes[:-1])


def test_margin_and_weight_are_those_of_the_contradicted_level() -> None:
    cells = labelled([(CD4, [0.1, 0.1, 0.8, 0.0]), (CD4, [0.1, 0.85, 0.05, 0.0])])
    found = audited(*cells, least_margin=0.5)
    assert found.margin[-2:] == pytest.approx([0.2 - 0.8, 0.1 - 0.85])
    assert found.weight[-2:] == pytest.approx([0.2 / 0.8, 0.1 / 0.85])
    assert (found.weight[:-2] == 1).all()


def test_cells_not_audited_have_no_margin_and_are_not_counted() -> None:
    found = audited(*labelled([(T, [0.0, 0.0, 0.0, 1.0])]), n_folds=5, least_margin=0.5)
    assert found.suspicious[-1]  # an inner label counts the cells below it
    lone = np.append(np.repeat([CD4, CD8, NAIVE], 5), MEMORY)
    rows = [SURE[node] for node in lone[:-1]] + [[0.0, 1.0, 0.0, 0.0]]
    found = audited(lone, node_probabilities(rows), n_folds=5, least_margin=0.5)
    assert not found.suspicious.any()
    assert np.isnan(found.margin[-1])
    assert found.transitions["n_confident"].sum() == 15 + 10  # lineages, then the types of T


def test_class_that_is_not_recognised_is_never_contradicted() -> None:
    hidden = [(MEMORY, [0.0, 0.0, 1.0, 0.0])] * 6
    found = audited(*labelled(hidden), least_margin=0.5)  # 5 of 11 memory cells are recognised
    assert not found.suspicious.any()
    assert any("memory: not audited" in note for note in found.notes)
    found = audited(*labelled(hidden[:5]), least_margin=0.5)  # 5 of 10
    assert (found.suggested_nodes[-5:] == NAIVE).all()


def test_confident_cells_reach_the_thresholds_of_their_class() -> None:
    values = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.2, 0.8], [0.1, 0.9]])
    nodes = np.array([CD4, CD4, CD8, CD8, CD4])  # thresholds 0.6 and 0.7
    found = audited(nodes, node_probabilities(np.pad(values, ((0, 0), (0, 2)))))
    assert found.transitions["n_confident"].tolist() == [2, 1, 0, 1]
    assert found.classes.loc["level_2", "recognised"].tolist() == pytest.approx([2 / 3, 1.0])
    rates = found.transition_matrix(2).to_numpy().ravel().tolist()
    assert rates == pytest.approx([2 / 3, 1 / 3, 0.0, 1.0])


def test_share_keeps_the_most_contradicted_cells() -> None:
    wrong = [(CD4, [0.02 * i, 1 - 0.02 * i, 0.0, 0.0]) for i in range(5)]
    nodes, probabilities = labelled(wrong)
    assert np.flatnonzero(audited(nodes, probabilities).suspicious).tolist() == list(range(20, 25))
    found = audited(nodes, probabilities, max_share=0.25)
    assert np.flatnonzero(found.suspicious).tolist() == [20, 21]
    assert not audited(nodes, probabilities, max_share=0.0).suspicious.any()


def test_suggestions_end_at_nodes_without_finer_labels() -> None:
    nodes, probabilities = labelled([(CD4, [0.0, 0.0, 1.0, 0.0])] * 2)
    probabilities[-1, [NAIVE, MEMORY]] = 0.0
    assert audited(nodes, probabilities).suggested_nodes[-2:].tolist() == [NAIVE, B]


def test_out_of_fold_probabilities_sum_along_the_tree() -> None:
    rng = np.random.default_rng(0)
    nodes = np.repeat([CD4, CD8, NAIVE], 20)
    features = rng.normal(size=(60, 3)) + 3 * np.eye(3)[np.repeat([0, 1, 2], 20)]
    folds = assign_folds(nodes, None, 4, rng)
    p = out_of_fold_probabilities(features, TREE, nodes, folds)
    assert p[:, 0] == pytest.approx(1.0)
    assert p[:, T] == pytest.approx(p[:, CD4] + p[:, CD8])
    assert p[:, [T, B]].sum(axis=1) == pytest.approx(1.0)
    assert (p[:, MEMORY] == 0).all()
    # Probabilities of a cell do not depend on its own label.
    other = nodes.copy()
    other[0] = NAIVE
    np.testing.assert_array_equal(p[0], out_of_fold_probabilities(features, TREE, other, folds)[0])


def test_folds_hold_equal_parts_of_every_label() -> None:
    nodes = np.repeat([CD4, CD8], [50, 15])
    folds = assign_folds(nodes, None, 5, np.random.default_rng(0))
    assert np.bincount(folds[:50]).tolist() == [10] * 5
    assert np.bincount(folds[50:]).tolist() == [3] * 5


def test_folds_follow_batches_where_a_label_is_in_enough_of_them() -> None:
    nodes = np.repeat([CD4, CD8], [60, 20])
    batches = np.concatenate([np.tile(list("abcd"), 15), ["a"] * 20])
    folds = assign_folds(nodes, batches, 4, np.random.default_rng(0))
    assert all(len(set(folds[:60][batches[:60] == name])) == 1 for name in "abcd")
    assert np.bincount(folds[60:]).tolist() == [5] * 4  # all in one batch: assigned by cell


def test_confounding_of_classes_and_batches() -> None:
    nodes = np.array([CD4] * 4 + [CD8] * 4 + [NAIVE] * 4)
    batches = np.array(["a"] * 4 + ["b", "c"] * 2 + ["b"] * 4)
    cells = ad.AnnData(obs=pd.DataFrame(index=np.arange(12).astype(str)))
    p = node_probabilities([SURE[node] for node in nodes])
    known = {"taxonomy": TREE, "nodes": nodes, "probabilities": p, "n_folds": 2}
    found = audit_labels(cells, batch_key=batches, **known)
    table = found.classes.set_index(found.classes.index.droplevel(0))
    assert table["confounding"].to_dict() == {
        "T": "", "B": "in one batch only",
        "CD4": "same as a batch", "CD8": "", "naive": "in one batch only",
    }  # fmt: skip
    overlap = table["batch_overlap"][["T", "CD4", "CD8", "naive"]]
    assert overlap.tolist() == pytest.approx([4 / 8, 1.0, 2 / 4, 4 / 6])
    plain = audit_labels(cells, **known)
    assert "confounding" not in plain.classes

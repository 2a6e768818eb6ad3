"""Confident learning on a taxonomy, with hand-written probabilities."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from hdeepinsight.taxonomy import Taxonomy
from hdeepinsight.tl import LabelAudit, audit_labels

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


def test_suggestion() -> None:
    for node, row, suggested in [
        (CD4, [0.0, 0.0, 0.9, 0.1], NAIVE),
        (CD4, [0.1, 0.9, 0.0, 0.0], CD8),
        (CD4, [0.2, 0.8, 0.0, 0.0], None),
        (T, [0.1, 0.9, 0.0, 0.0], None),
        (T, [0.0, 0.1, 0.0, 0.9], MEMORY),
        (CD4, [0.9, 0.1, 0.0, 0.0], None),
    ]:
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


def test_class_that_is_not_recognised_is_never_contradicted() -> None:
    hidden = [(MEMORY, [0.0, 0.0, 1.0, 0.0])] * 6
    found = audited(*labelled(hidden), least_margin=0.5)  # 5 of 11 memory cells are recognised
    assert not found.suspicious.any()
    assert any("memory: not audited" in note for note in found.notes)
    found = audited(*labelled(hidden[:5]), least_margin=0.5)  # 5 of 10
    assert (found.suggested_nodes[-5:] == NAIVE).all()


def test_recognised_is_the_share_of_cells_whose_class_is_the_most_probable() -> None:
    values = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.2, 0.8], [0.1, 0.9]])
    nodes = np.array([CD4, CD4, CD8, CD8, CD4])
    found = audited(nodes, node_probabilities(np.pad(values, ((0, 0), (0, 2)))))
    assert found.classes.loc["level_2", "recognised"].tolist() == pytest.approx([2 / 3, 1.0])


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
    assert table["largest_batch"][["CD4", "naive"]].tolist() == ["a", "b"]
    plain = audit_labels(cells, **known)
    assert "confounding" not in plain.classes

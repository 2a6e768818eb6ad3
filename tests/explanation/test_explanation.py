"""Results computed from known attributions."""

import numpy as np
import pandas as pd
import pytest

from hdeepinsight.explanation import AttributionAccumulator, Targets
from hdeepinsight.taxonomy import Taxonomy

TREE = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
GENES = ["CD3D", "MS4A1", "CD8A"]
EXPRESSION = np.array([[1.0, 0.0, 0.0], [0.5, 0.0, 1.0], [0.0, 1.0, 0.0]])
VALUES = {
    "CD4": np.array([[1.0, 0.5, 0.2], [0.5, 0.5, -2.0], [-1.0, -1.0, 0.3]]),
    "B": np.array([[-1.0, -2.0, 0.0], [-1.0, -1.0, 0.0], [0.5, 3.0, 0.0]]),
}
OWN = {"CD4": np.array([True, True, False]), "B": np.array([False, False, True])}


def explain(*, keep_values=True, nodes=("CD4", "B"), batches=((0, 2), (2, 3)), error=0.1):
    targets = Targets.of(TREE, list(nodes))
    names = pd.Index([f"cell {i}" for i in range(3)])
    collector = AttributionAccumulator(targets, names, GENES, keep_values=keep_values)
    for start, stop in batches:
        n = stop - start
        values = np.concatenate([VALUES[node][start:stop] for node in nodes])
        collector.add(
            np.arange(start, stop),
            {
                "target": np.repeat(np.arange(len(nodes)), n),
                "cell": np.tile(np.arange(n), len(nodes)),
                "own": np.concatenate([OWN[node][start:stop] for node in nodes]),
                "values": values,
                "outputs": values.sum(1) - 2.0 + error,
                "base_values": np.full(len(values), -2.0),
                "expression": EXPRESSION[start:stop],
            },
        )
    return collector.finish(
        background_expression=np.array([0.5, 0.5, 0.4]),
        background="2 × 3 types, the reference",
    )


def test_a_ranking_has_means_and_spread_of_the_nodes_own_cells():
    table = explain().ranking("CD4")
    assert table.index.tolist() == ["CD3D", "MS4A1", "CD8A"]
    assert table["rank"].tolist() == [1, 2, 3]
    np.testing.assert_allclose(table["mean"], [0.75, 0.5, -0.9])
    np.testing.assert_allclose(table["mean_abs"], [0.75, 0.5, 1.1])
    np.testing.assert_allclose(table["std"], [np.std([1, 0.5], ddof=1), 0, 2.2 / np.sqrt(2)])
    np.testing.assert_allclose(table["sem"], table["std"] / np.sqrt(2))
    np.testing.assert_allclose(table["expression"], [0.75, 0.0, 0.5])
    np.testing.assert_allclose(table["background"], [0.5, 0.5, 0.4])
    assert explain().ranking("CD4", by="mean_abs").index[0] == "CD8A"


def test_a_ranking_can_be_of_all_or_of_chosen_cells():
    found = explain()
    np.testing.assert_allclose(found.ranking("B", cells="all")["mean"].sort_index(), [-0.5, 0, 0])
    mask = np.array([True, False, True])
    np.testing.assert_allclose(found.ranking("B", cells=mask).loc[GENES, "mean"], [-0.25, 0.5, 0.0])
    one = found.ranking("B")
    assert (one["std"] == 0).all()


@pytest.mark.parametrize("batches", [((0, 3),), ((0, 1), (1, 2), (2, 3))])
def test_means_do_not_depend_on_mini_batches_or_on_keeping_values(batches):
    expected = explain().ranking("CD4")
    pd.testing.assert_frame_equal(explain(batches=batches).ranking("CD4"), expected)
    lean = explain(keep_values=False, batches=batches)
    assert lean.values is None
    pd.testing.assert_frame_equal(lean.ranking("CD4"), expected)
    with pytest.raises(ValueError, match="keep_values=True"):
        lean.to_frame("CD4")


def test_errors_of_sums_are_reported_for_every_row():
    found = explain()
    np.testing.assert_allclose(found.additivity_error, -0.1)
    rows = found.rows
    assert rows["node"].tolist() == ["T > CD4"] * 3 + ["B"] * 3
    assert rows["cell"].tolist() == [f"cell {i}" for i in range(3)] * 2
    np.testing.assert_allclose(
        rows["sum"] - rows["additivity_error"], rows["output"] - rows["base_value"]
    )
    assert "additivity error 0.1" in repr(found)


def test_signatures_and_lists_go_to_enrichment_tools():
    found = explain()
    table = found.signatures()
    assert table.shape == (2, 3)
    np.testing.assert_allclose(table.loc["B"], [0.5, 3.0, 0.0])
    ranked = found.ranked_list("B")
    assert ranked.to_dict() == {"MS4A1": 3.0, "CD3D": 0.5}  # no tie at 0
    # CD3D is absent in B, and MS4A1 in CD4: their absence supports the type.
    assert found.to_gene_sets() == {"T > CD4": ["CD3D"], "B": ["MS4A1"]}
    assert found.to_gene_sets(present=False)["B"] == ["MS4A1", "CD3D"]
    assert found.to_gene_sets(1, present=False)["T > CD4"] == ["CD3D"]


def test_attributions_of_a_node_are_a_table_of_cells_and_genes():
    table = explain().to_frame("B")
    np.testing.assert_array_equal(table, VALUES["B"])
    assert table.columns.tolist() == GENES


def test_attributions_go_to_the_plots_of_shap():
    shap = explain().to_shap("CD4")
    np.testing.assert_array_equal(shap.values, VALUES["CD4"].astype(np.float32))
    np.testing.assert_array_equal(shap.base_values, [-2.0] * 3)
    assert shap.feature_names == GENES


def test_positions_and_names_are_refused_as_masks():
    for cells in [[0, 1, 2], ["cell 0", "cell 1", "cell 2"], [True, False], [True] * 4]:
        with pytest.raises(ValueError, match=r"mask of booleans, \(3,\)"):
            explain().ranking("CD4", cells=cells)


def test_masks_may_have_any_boolean_type():
    chosen = [False, True, True]
    expected = explain().ranking("CD4", cells=np.array(chosen))
    for mask in (chosen, pd.Series(chosen), pd.array(chosen, dtype="boolean")):
        pd.testing.assert_frame_equal(explain().ranking("CD4", cells=mask), expected)


def test_misspelt_choices_are_refused():
    found = explain()
    for ask in (found.ranking, found.rows_of, found.ranked_list):
        with pytest.raises(ValueError, match="cells must be one of 'own', 'all', got 'mine'"):
            ask("CD4", cells="mine")
    with pytest.raises(ValueError, match="cells must be one of"):
        found.signatures(cells="mine")
    with pytest.raises(ValueError, match="by must be one of 'mean', 'mean_abs', got 'std'"):
        found.ranking("CD4", by="std")
    with pytest.raises(ValueError, match="by must be one of"):
        found.signatures(by="n_cells")
    with pytest.raises(ValueError, match="n_genes must be an integer >= 1, got -1"):
        found.to_gene_sets(-1)


def test_a_node_that_was_not_explained_is_refused_by_name():
    found = explain()
    with pytest.raises(ValueError, match=r"an explained node, one of 'T > CD4', 'B', got 'CD8'"):
        found.ranking("CD8")
    with pytest.raises(ValueError, match="node must be an explained node"):
        found.ranking()
    assert explain(nodes=["B"]).ranking().index[0] == "MS4A1"


def test_a_node_without_cells_is_refused_with_advice():
    found = explain(nodes=["B"], batches=((0, 2),))
    with pytest.raises(ValueError, match="cells='all'"):
        found.ranking("B")
    assert found.signatures().empty
    assert found.to_gene_sets() == {}

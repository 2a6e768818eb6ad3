"""Annotation by marker genes on simulated cells of known types."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import hdeepinsight as hdi
from hdeepinsight.data import InputError

LIST = {
    "T > CD4": ["CD4A", "CD4B", "CD4C"],
    "T > CD8": ["CD8A", "CD8B", "CD8C"],
    "T": ["T1", "T2", "T3"],
    "B": {"positive": ["B1", "B2", "B3"], "negative": ["T1"]},
}
LEAVES = ["T > CD4", "T > CD8", "B"]
NOISE = [f"G{i}" for i in range(60)]


def simulate(shares, n_cells=600, seed=0, on=3.0, off=0.15, drop=(), shape=1.0):
    """Cells with counts of overdispersed markers and of other genes; returns AnnData and types."""
    rng = np.random.default_rng(seed)
    table = hdi.tl.read_markers(LIST)
    genes = [*table["gene"].unique(), *NOISE]
    truth = rng.choice(LEAVES, size=n_cells, p=shares)
    depth = rng.lognormal(0, 0.4, n_cells)
    rate = np.full((n_cells, len(genes)), off)
    rate[:, -len(NOISE) :] = rng.gamma(2, 1, len(NOISE))
    for row in table[table["sign"] > 0].itertuples():
        rate[
            [t == row.type or t.startswith(f"{row.type} >") for t in truth], genes.index(row.gene)
        ] = on
    counts = rng.poisson(rng.gamma(shape, rate / shape * depth[:, None])).astype(np.float32)
    cells = ad.AnnData(counts, var=pd.DataFrame(index=genes))
    cells.obs_names = [f"cell{i}" for i in range(n_cells)]
    return cells[:, [g for g in genes if g not in drop]].copy(), truth


def accuracy(result, truth):
    names = np.array([result.taxonomy.path_name(int(node)) for node in result.leaf_nodes])
    return float((names == truth).mean())


def test_types_are_found_for_any_proportions():
    for shares in [[0.4, 0.3, 0.3], [0.94, 0.05, 0.01], [0.01, 0.01, 0.98], [0.0, 0.0, 1.0]]:
        cells, truth = simulate(shares)
        result = hdi.tl.score_markers(cells, LIST)
        assert accuracy(result, truth) > 0.93
        found = [result.recipe["shares"][leaf] for leaf in LEAVES]
        np.testing.assert_allclose(found, [(truth == leaf).mean() for leaf in LEAVES], atol=0.05)


def test_cells_are_not_modified_and_results_are_reproducible():
    cells, _ = simulate([0.4, 0.3, 0.3], 200)
    before = cells.copy()
    one, two = (hdi.tl.score_markers(cells, LIST) for _ in range(2))
    np.testing.assert_array_equal(one.node_probabilities, two.node_probabilities)
    np.testing.assert_array_equal(cells.X, before.X)
    assert cells.obs.equals(before.obs)
    assert not cells.uns


def test_probabilities_agree_along_the_tree():
    cells, _ = simulate([0.4, 0.3, 0.3], 200)
    result = hdi.tl.score_markers(cells, LIST)
    tree, p = result.taxonomy, result.node_probabilities
    for parent, children in zip(tree.inner_nodes, tree.groups, strict=True):
        np.testing.assert_allclose(p[:, children].sum(axis=1), p[:, parent], atol=1e-9)


def test_the_order_of_cells_and_of_the_list_does_not_matter():
    cells, _ = simulate([0.4, 0.3, 0.3], 200)
    order = np.random.default_rng(1).permutation(cells.n_obs)
    result = hdi.tl.score_markers(cells, LIST)
    moved = hdi.tl.score_markers(cells[order].copy(), LIST)
    np.testing.assert_allclose(
        moved.node_probabilities, result.node_probabilities[order], atol=1e-6
    )
    assert moved.verdict is None


@pytest.mark.parametrize("shape", [1.0, 0.2])
def test_confidence_is_about_the_share_of_right_labels(shape):
    # With shape 0.2, counts vary five times as much as in the model.
    cells, truth = simulate([0.4, 0.3, 0.3], 2000, on=0.8, shape=shape)
    result = hdi.tl.score_markers(cells, LIST)
    confidence = result.node_probabilities[:, result.taxonomy.leaves].max(axis=1).mean()
    assert abs(confidence - accuracy(result, truth)) < 0.04
    assert (result.recipe["exponent"] > 0.7) == (shape == 1.0)


def test_missing_markers_are_named_and_types_without_any_left_out():
    cells, truth = simulate([0.4, 0.3, 0.3], drop=["CD8A", "CD8B", "CD8C", "T3"])
    with pytest.warns(UserWarning, match=r"1 type left out.*T > CD8"):
        result = hdi.tl.score_markers(cells, LIST)
    assert result.gene_report.missing == ("CD8A", "CD8B", "CD8C", "T3")
    assert result.recipe["left_out"] == ["T > CD8"]
    lineage = np.where(truth == "B", "B", "T")
    assert (result.labels["lineage"].astype(str) == lineage).mean() > 0.95


def test_cells_of_types_without_markers_are_labelled_at_the_parent():
    cells, truth = simulate([0.6, 0.1, 0.3], drop=["CD4A", "CD4B", "CD4C"])
    with pytest.warns(UserWarning, match="1 type left out"):
        result = hdi.tl.score_markers(cells, LIST)
    labels = result.labels["stop_label"].astype(str).to_numpy()
    assert (labels[truth == "T > CD4"] == "T").mean() > 0.9
    assert (labels[truth == "T > CD8"] == "CD8").mean() > 0.8
    assert result.stop_reason[labels == "T"].str.contains("no marker gene").any()


def test_labels_stop_where_no_type_below_has_a_marker():
    missing = ["CD4A", "CD4B", "CD4C", "CD8A", "CD8B", "CD8C"]
    cells, truth = simulate([0.4, 0.3, 0.3], drop=missing)
    with pytest.warns(UserWarning, match="2 types left out"):
        result = hdi.tl.score_markers(cells, LIST)
    assert set(result.labels["stop_label"].unique()) == {"T", "B"}
    assert ((result.labels["stop_label"] == "B") == (truth == "B")).mean() > 0.95


def test_cells_without_counts_get_the_overall_proportions_and_no_label():
    cells, _ = simulate([0.4, 0.3, 0.3], 200)
    cells.X[:2] = 0
    result = hdi.tl.score_markers(cells, LIST)
    leaves = result.taxonomy.leaves
    names = [result.taxonomy.path_name(int(leaf)) for leaf in leaves]
    shares = np.array([result.recipe["shares"][name] for name in names])
    shares /= shares.sum()
    np.testing.assert_allclose(result.node_probabilities[:2][:, leaves], [shares, shares])
    assert set(result.stop_reason[:2]) == {"no counts"}
    columns = [*result.taxonomy.level_names, "stop_label"]
    assert (result.to_frame().iloc[:2][columns].astype(str) == "Unknown").all(axis=None)


def test_cells_that_express_the_markers_of_no_type_are_unknown():
    cells, truth = simulate([0.3, 0.3, 0.4])
    whole = hdi.tl.score_markers(cells, LIST)
    assert (whole.stop_nodes == 0).mean() < 0.01
    assert whole.verdict is None
    assert whole.recipe["shares"]["none of these"] < 0.02
    part = {name: genes for name, genes in LIST.items() if name.startswith("T")}
    result = hdi.tl.score_markers(cells, part)
    assert (result.stop_nodes[truth == "B"] == 0).mean() > 0.95
    assert (result.stop_nodes[truth != "B"] == 0).mean() < 0.03
    reasons = result.stop_reason[result.stop_nodes == 0]
    assert set(reasons) == {"expresses the markers of no type"}
    assert (result.verdict.light, len(result.verdict.sentences)) == ("yellow", 1)
    shares = result.recipe["shares"]
    assert shares["none of these"] == pytest.approx((truth == "B").mean(), abs=0.04)


def test_t_cells_are_unknown_with_a_list_without_t_cells():
    cells = hdi.datasets.pbmc3k()
    table = hdi.tl.read_markers("blood")
    without = table.loc[~table["type"].str.match(r"T\b"), ["type", "gene", "sign"]]
    unknown = hdi.tl.score_markers(cells, without).stop_nodes == 0
    is_t = (cells.obs["lineage"] == "T").to_numpy()
    assert unknown[is_t].mean() > 0.85
    assert unknown[~is_t].mean() < 0.01


def test_a_given_taxonomy_resolves_names_and_synonyms():
    cells, truth = simulate([0.4, 0.3, 0.3])
    tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8", "gd"], "B": [], "NK": []})
    tree = tree.with_annotations(synonyms={"B cell": "B"})
    named = {"CD4": LIST["T > CD4"], "CD8": LIST["T > CD8"], "T": LIST["T"], "B cell": LIST["B"]}
    result = hdi.tl.score_markers(cells, named, tree)
    assert accuracy(result, truth) > 0.93
    assert result.probabilities()["NK"].max() == 0
    with pytest.raises(ValueError, match=r"'Monocyte'"):
        hdi.tl.score_markers(cells, {**named, "Monocyte": ["LYZ"]}, tree)


def test_refinement_takes_the_annotation_and_gains_on_the_true_graph_alone():
    cells, truth = simulate([0.4, 0.3, 0.3], 800, on=0.7)
    rng = np.random.default_rng(0)
    centre = np.array([LEAVES.index(t) for t in truth])
    points = rng.normal(size=(800, 6)) + 4 * np.eye(3, 6)[centre]
    result = hdi.tl.score_markers(cells, LIST)
    refined = hdi.tl.refine(cells, result, use_rep=points)
    assert accuracy(refined.annotation(), truth) > accuracy(result, truth) + 0.03
    permuted = hdi.tl.refine(cells, result, use_rep=points[rng.permutation(800)])
    assert permuted.parameters["lam"] == 0
    assert not permuted.changed.any()


def test_the_result_goes_to_an_anndata_and_back():
    cells, _ = simulate([0.4, 0.3, 0.3], 100)
    result = hdi.tl.score_markers(cells, LIST)
    result.to_adata(cells)
    back = hdi.Annotation.from_adata(cells)
    assert back.labels["stop_label"].tolist() == result.labels["stop_label"].tolist()
    assert back.recipe["shares"] == result.recipe["shares"]


# Invalid lists.


def test_the_list_of_blood_names_its_types_genes_and_sources():
    table = hdi.tl.read_markers("blood")
    assert set(table["source"]) == {"Azimuth", "Villani", "Seurat", "CellTypes", "CL"}
    assert table["ontology_id"].str.fullmatch(r"CL:\d{7}").all()
    assert (table[table["sign"] > 0].groupby("type").size() >= 3).all()
    assert table["gene"].str.fullmatch(r"[A-Z0-9orf-]+").all()
    tree = hdi.tl.score_markers(hdi.datasets.pbmc3k()[:200].copy()).taxonomy
    assert tree.level_names == ("lineage", "cell_type", "subtype")
    bundled = hdi.hub.pull("pbmc").taxonomy
    assert {bundled.path_name(v) for v in range(1, bundled.n_nodes)} <= {
        tree.path_name(v) for v in range(1, tree.n_nodes)
    }


def test_files_and_a_dict_give_the_same_table(tmp_path):
    wanted = hdi.tl.read_markers({"B": {"positive": ["MS4A1", "CD79A"], "negative": ["CD3D"]}})
    table = tmp_path / "list.csv"
    table.write_text("# mine\ntype,gene,sign\nB,MS4A1,+\nB,CD79A,\nB,CD3D,-\n")
    wide = tmp_path / "list.tsv"
    wide.write_text("type\tgenes\tsign\nB\tMS4A1 CD79A\t1\nB\tCD3D\tnegative\n")
    sets = tmp_path / "list.gmt"
    sets.write_text("B\thttp://x\tMS4A1\tCD79A\n\nB_DN\t\tCD3D\n")
    for path in (table, wide, sets, str(sets)):
        pd.testing.assert_frame_equal(hdi.tl.read_markers(path), wanted)


def test_a_broken_file_is_refused_with_the_place(tmp_path_factory):
    for name, text, said in [
        ("a.gmt", "B\tx\tMS4A1\nT\tx\n", "in line 2"),
        ("a.gmt", "B MS4A1\n", "in line 1"),
        ("a.gmt", "", "at least one gene"),
        ("a.csv", "type,gene,sign\nB,MS4A1,maybe\n", r"'maybe' in row 1"),
        ("a.csv", "type,gene\n,MS4A1\n", "none in row 1"),
        ("a.csv", "type,gene\nB,MS4A1\nB,MS4A1,CD3D,+\n", "line 3"),
        ("a.csv", "", "invalid line"),
        ("a.csv", "cell,gene\nB,MS4A1\n", "no column 'type'"),
        ("a.json", "{}", "another suffix"),
        ("missing.gmt", None, "does not exist"),
    ]:
        tmp_path = tmp_path_factory.mktemp("case")
        path = tmp_path / name
        if text is not None:
            path.write_text(text)
        with pytest.raises((ValueError, KeyError), match=said):
            hdi.tl.read_markers(path)


def test_a_broken_dictionary_is_refused():
    for markers, said in [
        ({}, "at least one gene"),
        ({"B": []}, "at least one gene"),
        ({"B": ["MS4A1"], "T": []}, r"at least one gene, got none for \['T'\]"),
        ({"B": {"positive": ["A"], "negative": ["A"]}}, "got both for A of B"),
        ({"B": {"up": ["A"]}}, "sign of a marker"),
        (7, "must be a dict"),
    ]:
        with pytest.raises((ValueError, TypeError), match=said):
            hdi.tl.read_markers(markers)


def test_lists_without_enough_measured_genes_are_refused():
    cells, _ = simulate([0.4, 0.3, 0.3], 100)
    with pytest.raises(InputError, match="None of the 2 marker genes"):
        hdi.tl.score_markers(cells, {"B": ["XYZ1"], "T": ["XYZ2"]})
    with pytest.raises(ValueError, match=r"1 such type; without one: T\."):
        hdi.tl.score_markers(cells, {"B": ["B1"], "T": ["XYZ2"]})
    others = [f"XYZ{i}" for i in range(50)]
    with pytest.raises(InputError, match=r"Only 2 of the 52 marker genes.*\(3\.8%\).*At least 10%"):
        hdi.tl.score_markers(cells, {"B": ["B1"], "T": ["T1"], "other": others})
    cells.X[:] = 0
    with pytest.raises(InputError, match="looks empty"):
        hdi.tl.score_markers(cells, LIST)

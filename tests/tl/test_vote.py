"""Majority votes of clusters compared with hand counts."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import hdeepinsight as hdi


def labelled(*labels, **obs):
    names = [f"cell_{i}" for i in range(len(labels))]
    return ad.AnnData(obs=pd.DataFrame(obs, index=names)), pd.Series(labels, index=names)


def test_clusters_of_one_cell_are_the_identity(cells, annotation):
    result = hdi.tl.vote(cells, annotation, clusters=np.arange(290))
    np.testing.assert_allclose(result.node_probabilities, annotation.node_probabilities, atol=1e-12)
    assert not result.changed.any()


def test_votes_descend_while_a_child_has_the_majority(tree):
    for labels, threshold, path, share in [
        (["CD4"] * 6 + ["CD8"] * 2, 0.5, "T > CD4", 0.75),
        (["CD4"] * 6 + ["CD8"] * 2, 0.8, "T", 1.0),
        (["CD4"] * 4 + ["CD8"] * 4, 0.5, "T", 1.0),
        (["CD4"] * 3 + ["CD8"] * 2 + ["NK"] * 3, 0.5, "T", 0.625),
        (["T"] * 5 + ["CD4"] * 3, 0.5, "T", 1.0),
        (["CD4"] * 4 + ["NK"] * 4, 0.5, "root", 1.0),
        ([None] * 5 + ["NK"] * 3, 0.5, "root", 1.0),
    ]:
        cells, series = labelled(*labels, cluster=["x"] * 8)
        table = hdi.tl.vote(
            cells, series, clusters="cluster", taxonomy=tree, threshold=threshold
        ).table
        expected = {"n_cells": 8, "node": 0 if path == "root" else tree.resolve(path)}
        assert table.loc["x", ["n_cells", "node"]].to_dict() == expected
        assert table.loc["x", "share"] == pytest.approx(share)


def test_cells_get_the_node_of_their_cluster_and_keep_proportions_below(tree):
    cells, series = labelled("CD4", "CD4", "CD8", "NK", cluster=["x"] * 4)
    result = hdi.tl.vote(cells, series, clusters="cluster", taxonomy=tree)
    labels = result.labels
    assert labels["lineage"].tolist() == ["T"] * 4
    assert labels["stop_label"].tolist() == ["CD4", "CD4", "CD8", "T"]
    node = result.node_probabilities
    np.testing.assert_allclose(node[:, tree.resolve("T")], 0.75)
    np.testing.assert_allclose(node[3, tree.resolve("NK")], 0.25)


def test_no_majority_leaves_cells_alone(tree):
    cells, series = labelled("CD4", "NK", "naive", cluster=["x"] * 3)
    result = hdi.tl.vote(cells, series, clusters="cluster", taxonomy=tree)
    assert np.array_equal(result.node_probabilities, result.before)


def test_over_clustering_corrects_errors_and_is_reproducible(cells, annotation, tree):
    truth = cells.obs["type"].to_numpy()
    result = hdi.tl.vote(cells, annotation, seed=1)
    before = (annotation.labels["type"].astype(str) == truth)[truth != "NK"].mean()
    after = (result.labels["type"].astype(str) == truth)[truth != "NK"].mean()
    assert after > before + 0.05
    assert abs(len(result.table) - 29) <= 3
    again = hdi.tl.vote(cells, annotation, seed=1)
    assert np.array_equal(result.clusters, again.clusters)
    np.testing.assert_allclose(result.node_probabilities[:, tree.leaves].sum(axis=1), 1)


def test_writes_only_when_asked(cells, annotation):
    columns = list(cells.obs)
    result = hdi.tl.vote(cells, annotation)
    assert list(cells.obs) == columns
    result.to_adata(cells, key_added="voted")
    assert {"voted_type", "voted_stop_label", "voted_cluster"} <= set(cells.obs)


def test_bad_input_is_named(cells, tree):
    for arguments, error, message in [
        ({"threshold": 0.4}, ValueError, "threshold must be .* got 0.4"),
        ({"threshold": 1.0}, ValueError, "threshold must be .* got 1.0"),
        ({"clusters": "leiden"}, KeyError, "obs has no column 'leiden'"),
        ({"clusters": ["a"]}, ValueError, "clusters has 1 entries for 290 cells"),
        ({"cells_per_cluster": 0}, ValueError, "cells_per_cluster must be .* got 0"),
        ({"taxonomy": None}, ValueError, "got no taxonomy"),
        ({"clusters": ["a"] * 290, "seed": 1}, ValueError, "seed has no effect with clusters"),
    ]:
        with pytest.raises(error, match=message):
            hdi.tl.vote(cells, "p", **{"taxonomy": tree, **arguments})


def test_writing_a_vote_keeps_existing_columns(cells, annotation):
    result = hdi.tl.vote(cells, annotation, clusters="batch")
    annotation.to_adata(cells)
    result.to_adata(cells)
    assert cells.obs["vote_cluster"].astype(str).tolist() == cells.obs["batch"].tolist()
    voted, own = (
        dict(zip(cells.obs[name].cat.categories, cells.uns[f"{name}_colors"], strict=True))
        for name in ("vote_lineage", "hdi_lineage")
    )
    assert voted.items() <= own.items()
    result.to_adata(cells)  # our own columns are replaced
    cells.obs["mine_cluster"] = "mine"
    with pytest.raises(ValueError, match="already has obs/mine_cluster"):
        result.to_adata(cells, key_added="mine")
    result.to_adata(cells, key_added="mine", overwrite=True)
    assert "mine_stop_label" in cells.obs


def test_words_for_no_label_are_not_votes(tree):
    cells, series = labelled("Unassigned", "Heterogeneous", "CD4", cluster=["x"] * 3)
    table = hdi.tl.vote(cells, series, clusters="cluster", taxonomy=tree).table
    assert table.loc["x", ["node", "n_cells"]].tolist() == [0, 3]
    with pytest.raises(ValueError, match="no label on any of 3 cells"):
        hdi.tl.vote(cells, series[:0].reindex(series.index), clusters="cluster", taxonomy=tree)


def test_cells_without_a_cluster_are_refused(tree):
    cells, series = labelled("CD4", "CD4", "NK", cluster=["x", None, np.nan])
    with pytest.raises(ValueError, match="2 of 3 cells without a cluster"):
        hdi.tl.vote(cells, series, clusters="cluster", taxonomy=tree)


def test_clusters_in_another_order_are_refused(tree):
    cells, series = labelled("CD4", "CD4", "NK", cluster=["x", "x", "y"])
    with pytest.raises(
        ValueError, match="clusters has an index of other cells, or in another order"
    ):
        hdi.tl.vote(cells, series, clusters=cells.obs["cluster"][::-1], taxonomy=tree)

"""Refinement: inputs, limiting cases, taxonomies and unmodified data."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from scipy.special import log_softmax, softmax

import hdeepinsight as hdi
from hdeepinsight.graph import batch_graphs, knn_graph, smooth
from hdeepinsight.tl import RefineConfig


def hits(result, cells):
    return float((result.labels.astype(str) == cells.obs["type"]).mean())


def test_refinement_corrects_errors_without_labels(cells):
    result = hdi.tl.refine(cells, "p")
    before = (cells.obsm["p"].idxmax(axis=1) == cells.obs["type"]).mean()
    assert hits(result, cells) > before + 0.1
    shuffled = cells.copy()
    shuffled.obs["type"] = cells.obs["type"].sample(frac=1, random_state=0).to_numpy()
    again = hdi.tl.refine(shuffled, "p")
    assert_frame_equal(again.probabilities(), result.probabilities())


def test_estimated_strength_is_zero_on_an_uninformative_graph(cells):
    rng = np.random.default_rng(1)
    permuted = ad.AnnData(
        obs=cells.obs, obsm={"X_pca": rng.permutation(cells.obsm["X_pca"]), "p": cells.obsm["p"]}
    )
    result = hdi.tl.refine(permuted, "p")
    assert result.parameters["lam"] == 0
    assert not result.changed.any()
    assert hdi.tl.refine(cells, "p").parameters["lam"] > 1


@pytest.mark.parametrize("method", ["local_prior", "laplacian"])
def test_strength_zero_is_the_identity(cells, method):
    result = hdi.tl.refine(cells, "p", lam=0, method=method)
    assert not result.changed.any()
    np.testing.assert_allclose(result.after, cells.obsm["p"], atol=1e-12)
    assert result.energy_before == pytest.approx(result.energy_after)


def test_every_kind_of_input_gives_the_same(cells, annotation, tree):
    expected = hdi.tl.refine(cells, "p").after
    p = cells.obsm["p"]
    paths = ["T > CD4", "T > CD8", "B > naive", "B > memory", "NK"]
    order = [paths.index(tree.path_name(int(leaf))) for leaf in tree.leaves]
    for probabilities, arguments, columns in [
        (p, {}, slice(None)),
        (p.to_numpy(), {"classes": list(p.columns)}, slice(None)),
        ("logits", {"classes": list(p.columns)}, slice(None)),
        (annotation, {}, order),
        (annotation.probabilities(), {"taxonomy": tree}, None),
    ]:
        found = hdi.tl.refine(cells, probabilities, **arguments)
        names = [tree.label(tree.resolve(name)) for name in found.classes]
        wanted = [list(p.columns).index(name) for name in names]
        assert columns is None or wanted == list(np.arange(5)[columns])
        np.testing.assert_allclose(found.after, expected[:, wanted], atol=1e-6)


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_logits_and_their_logarithms_are_the_same_to_the_laplacian(cells, kind):
    logits = cells.obsm["logits"]
    given = logits if kind == "logits" else softmax(logits, axis=1)
    config = RefineConfig(solver="direct")
    settings = {"method": "laplacian", "lam": 2.0, "config": config}
    result = hdi.tl.refine(cells, given, classes=list("abcde"), **settings)
    graph = knn_graph(cells.obsm["X_pca"])
    expected = smooth(graph, log_softmax(logits, axis=1), lam=2.0, solver="direct")
    np.testing.assert_allclose(result.after, softmax(expected, axis=1), atol=1e-9)
    assert result.energy_after < result.energy_before


@pytest.mark.parametrize("kind", ["rw", "comb", "sym"])
def test_solvers_agree(cells, kind):
    direct = RefineConfig(laplacian=kind, solver="direct")
    iterative = RefineConfig(laplacian=kind, solver="cg", tol=1e-10)
    one = hdi.tl.refine(cells, "p", method="laplacian", lam=0.2, config=direct)
    other = hdi.tl.refine(cells, "p", method="laplacian", lam=0.2, config=iterative)
    np.testing.assert_allclose(one.after, other.after, atol=1e-7)


@pytest.mark.parametrize("method", [{}, {"method": "laplacian", "lam": 2.0}])
def test_children_sum_to_their_parent(cells, annotation, tree, method):
    node = hdi.tl.refine(cells, annotation, **method).annotation().node_probabilities
    for parent in tree.inner_nodes:
        children = np.flatnonzero(tree.parent == parent)
        np.testing.assert_allclose(node[:, children].sum(axis=1), node[:, parent], atol=1e-12)


def test_batches_are_connected_by_mutual_pairs_and_weighed_apart(cells):
    result = hdi.tl.refine(cells, "p", batch_key="batch")
    weights = result.parameters["weights"]
    assert len(weights) == 3
    assert sum(weights) == pytest.approx(1)
    graphs = batch_graphs(cells.obsm["X_pca"], cells.obs["batch"])
    share = graphs.within.nnz / (graphs.within.nnz + graphs.between.nnz)
    assert result.parameters["share_within_batches"] == pytest.approx(share)


def test_batch_key_corrects_a_shift_between_batches(cells):
    """Every type of the second batch is moved onto another type of the first one."""
    shifted = cells.copy()
    second = (cells.obs["batch"] == "two").to_numpy()
    centre = cells.obsm["X_pca"].copy()
    for name, onto in zip(["CD4", "CD8", "naive"], ["CD8", "naive", "CD4"], strict=True):
        there = (cells.obs["type"] == onto).to_numpy()
        mine = second & (cells.obs["type"] == name).to_numpy()
        move = centre[there].mean(0) - centre[mine].mean(0)
        shifted.obsm["X_pca"][mine] += move
    plain, aware = (hdi.tl.refine(shifted, "p", batch_key=key) for key in (None, "batch"))
    assert hits(aware, cells) > hits(plain, cells) + 0.05
    assert hits(aware, cells) > (cells.obsm["p"].idxmax(axis=1) == cells.obs["type"]).mean() + 0.1
    assert aware.parameters["weights"][2] < 0.2


def test_stored_graph(cells):
    binary = knn_graph(cells.obsm["X_pca"], k=9)
    cells.obsp["connectivities"] = binary / binary.sum(axis=1).max() + 0.5 * binary
    cells.uns["neighbors"] = {"connectivities_key": "connectivities"}
    own = hdi.tl.refine(
        cells,
        "p",
        method="laplacian",
        lam=0.1,
        weights="connectivities",
        neighbors_key="neighbors",
        config=RefineConfig(laplacian="comb"),
    )
    graph = cells.obsp["connectivities"]
    expected = smooth(graph, np.log(cells.obsm["p"]), lam=0.1, laplacian="comb", solver="direct")
    np.testing.assert_allclose(own.after, softmax(expected, axis=1), atol=1e-8)
    degree = own.parameters["mean_degree"]
    assert own.parameters["effective_strength"] == pytest.approx(0.1 * degree)
    assert degree == pytest.approx(graph.sum() / 290, rel=1e-6)
    split = hdi.tl.refine(cells, "p", neighbors_key="neighbors", batch_key="batch")
    assert len(split.parameters["weights"]) == 3


def test_tables_of_the_result(cells):
    result = hdi.tl.refine(cells, "p")
    flips = result.diagnose()
    before, after = (
        np.bincount(p.argmax(axis=1), minlength=5) for p in (result.before, result.after)
    )
    assert flips["lost"].sum() == flips["gained"].sum() == result.changed.sum()
    assert (flips["kept"] + flips["lost"] == before).all()
    assert (flips["kept"] + flips["gained"] == after).all()
    ordered = np.sort(result.after, axis=1)
    np.testing.assert_allclose(result.confidence, ordered[:, -1] - ordered[:, -2])


def test_a_class_that_loses_its_cells_raises_a_warning():
    """Ten cells of a rare class are isolated among cells of other classes."""
    rng = np.random.default_rng(0)
    cells = ad.AnnData(obsm={"X_pca": rng.normal(size=(300, 4))})
    p = np.tile([0.95, 0.05], (300, 1))
    p[:10] = [0.48, 0.52]
    with pytest.warns(UserWarning, match=r"1 classes lost more than half.*: B \(10 → 0\)"):
        hdi.tl.refine(cells, p, classes=["A", "B"], method="laplacian", lam=5.0)


def test_nothing_is_written_unless_asked(cells, tmp_path):
    before = cells.copy()
    result = hdi.tl.refine(cells, "p", batch_key="batch")
    assert_frame_equal(cells.obs, before.obs)
    assert list(cells.obsm) == list(before.obsm)
    assert not cells.uns
    assert np.array_equal(cells.obsm["X_pca"], before.obsm["X_pca"])
    assert_frame_equal(cells.obsm["p"], before.obsm["p"])
    other = hdi.tl.refine(cells, "p", batch_key="batch")
    other.to_adata(cells, "better")
    assert (cells.obs["better_label"].astype(str) == result.labels.astype(str)).all()
    assert_frame_equal(cells.obsm["better_probabilities"], other.probabilities())
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(ValueError, match="refinement has 290 cells, the AnnData 10"):
        result.to_adata(cells[:10].copy())


def test_path_of_strengths_starts_at_nothing_and_loses_energy(cells):
    path = hdi.tl.lambda_path(cells, "p", grid=[0, 1, 5, 25], method="laplacian")
    assert path.index.tolist() == [0, 1, 5, 25]
    assert path.loc[0, ["mass_drift", "n_changed"]].tolist() == [0, 0]
    assert (np.diff(path["energy"]) < 0).all()
    single = hdi.tl.refine(cells, "p", method="laplacian", lam=5)
    assert path.loc[5, "n_changed"] == single.changed.sum()
    assert path.loc[5, "mean_margin"] == pytest.approx(single.confidence.mean())
    with pytest.raises(TypeError, match="strength"):
        hdi.tl.lambda_path(cells, "p", strength=3)


def test_bad_input_is_named(cells):
    for change, arguments, error, message in [
        ({"probabilities": "q"}, {}, KeyError, "adata.obsm has no key 'q'; it has"),
        ({}, {"use_rep": "X_umap"}, KeyError, "expression_pca"),
        ({}, {"use_rep": np.zeros((3, 2))}, ValueError, r"shape \(3, 2\) for 290 cells"),
        ({}, {"neighbors_key": "neighbors"}, KeyError, "scanpy.pp.neighbors"),
        ({}, {"batch_key": "donor"}, KeyError, "obs has no column 'donor'"),
        ({}, {"weights": "connectivities"}, ValueError, "requires a graph stored by scanpy"),
        ({}, {"weights": "heavy"}, ValueError, "weights must be .* got 'heavy'"),
        (
            {},
            {"method": "laplacian"},
            ValueError,
            "lam must be a number >= 0 with method='laplacian'",
        ),
        ({}, {"method": "magic"}, ValueError, "method must be .* got 'magic'"),
        ({}, {"lam": "strong"}, ValueError, "lam must be .* got 'strong'"),
        ({}, {"lam": -1.0}, ValueError, "lam must be .* got -1.0"),
        ({}, {"neighbors_key": "no_graph"}, KeyError, "must name a graph in adata.obsp"),
        ({"probabilities": "logits"}, {}, ValueError, "and no names"),
        ({"classes": list("abc"), "probabilities": "logits"}, {}, ValueError, "and 3 names"),
        ({"nan": True}, {}, ValueError, "NaN or infinite ones in 1 of 290 cells"),
        ({"rows": 100}, {}, ValueError, "probabilities has 100 entries for 290 cells"),
        ({"rename": {"NK": "CD4"}}, {}, ValueError, r"\['CD4'\] repeatedly"),
        ({"classes": ["B"]}, {}, ValueError, "classes has no effect with scores that have names"),
        ({}, {"neighbors_key": "n", "n_neighbors": 5}, ValueError, "n_neighbors has no effect"),
        ({}, {"neighbors_key": "n", "use_rep": "X_p"}, ValueError, "use_rep has no effect"),
        ({}, {"config": hdi.tl.RefineConfig(tol=0.1)}, ValueError, "tol has no effect with method"),
        ({}, {"config": {"tol": 0.1}}, ValueError, "config must be a hdi.tl.RefineConfig"),
    ]:
        cells.uns["no_graph"] = {"resolution": 1.0}
        probabilities = change.get("probabilities", cells.obsm["p"].copy())
        if change.get("nan"):
            probabilities.iloc[3, 1] = np.nan
        if "rows" in change:
            probabilities = probabilities.iloc[: change["rows"]]
        if "rename" in change:
            probabilities = probabilities.rename(columns=change["rename"])
        with pytest.raises(error, match=message):
            hdi.tl.refine(cells, probabilities, classes=change.get("classes"), **arguments)


def test_unknown_class_and_missing_taxonomy_are_named(cells, tree):
    renamed = cells.obsm["p"].rename(columns={"NK": "Nk cell"})
    with pytest.raises(ValueError, match="Nk cell"):
        hdi.tl.refine(cells, renamed, taxonomy=tree)
    with pytest.raises(ValueError, match="without a taxonomy"):
        hdi.tl.refine(cells, "p").annotation()


@pytest.mark.parametrize("wrong", [{"laplacian": "norm"}, {"solver": "lu"}])
def test_unknown_choices_are_refused(cells, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} must be one of .* got {value!r}"):
        hdi.tl.refine(cells, "p", method="laplacian", lam=1.0, config=RefineConfig(**wrong))


def test_isolated_cells_keep_their_scores(cells):
    single = cells[:1].copy()
    p = pd.DataFrame([[0.6, 0.4]], index=single.obs_names, columns=["a", "b"])
    result = hdi.tl.refine(single, p)
    np.testing.assert_allclose(result.after, [[0.6, 0.4]], atol=1e-9)
    assert result.parameters["share_isolated"] == 1


def test_classes_have_the_colours_of_their_labels(cells, annotation):
    annotation.to_adata(cells)
    result = hdi.tl.refine(cells, annotation)
    result.to_adata(cells)
    categories = cells.obs["refined_label"].cat.categories
    assert cells.uns["refined_label_colors"] == [
        annotation.colors[name.split(" > ")[-1]] for name in categories
    ]
    cells.obs["mine_label"] = "mine"
    with pytest.raises(ValueError, match="already has obs/mine_label"):
        result.to_adata(cells, "mine")
    assert cells.obs["mine_label"].tolist() == ["mine"] * 290


def test_no_cells_are_refused(cells, tree):
    none = cells[:0].copy()
    with pytest.raises(ValueError, match="without cells"):
        hdi.tl.refine(none, "p")
    with pytest.raises(ValueError, match="without cells"):
        hdi.tl.vote(none, "p", clusters="batch", taxonomy=tree)

"""What a method may read, and what it may not."""

import json

import anndata as ad
import numpy as np
import pytest
from harness.pairs import Pair, read_pairs
from harness.prepare import prepare
from methods.interface import read_cells, read_reference


@pytest.fixture
def prepared(own_pair, tmp_path):
    (pair,) = read_pairs(own_pair)
    return prepare(pair, own_pair.parent, tmp_path / "work")


def test_the_query_holds_counts_and_batch_and_nothing_else(prepared):
    query = ad.read_h5ad(prepared.query)
    assert list(query.obs) == ["batch"]
    assert set(query.obs["batch"]) == {"d0", "d1"}
    places = (query.obsm, query.uns, query.layers, query.obsp, query.varm)
    assert {key for place in places for key in place} <= {None}  # anndata 0.13 lists X as None
    assert query.raw is None
    assert list(query.obs_names) == [f"cell_{i}" for i in range(query.n_obs)]


def test_no_file_for_methods_contains_a_label_of_the_query(prepared):
    stored = prepared.query.read_bytes()
    assert b"G0" in stored  # gene names are found this way, so labels would be
    for name in (b"CD4", b"CD8", b"rare", b"unknown", b"lineage", b"cell_type", b"secret"):
        assert name not in stored


def test_truth_follows_the_order_of_the_prepared_cells(prepared, own_pair):
    original = ad.read_h5ad(own_pair.parent / "query.h5ad")
    query, truth = ad.read_h5ad(prepared.query), prepared.truth()
    order = np.random.default_rng(0).permutation(original.n_obs)
    np.testing.assert_array_equal(query.X.toarray(), original.X.toarray()[order])
    assert (
        truth["cell_type"].tolist()
        == original.obs["cell_type"].astype(str).to_numpy()[order].tolist()
    )


def test_reference_cells_with_an_ignored_label_are_left_out(prepared):
    labels = prepared.reference_labels()
    assert labels["cell_type"].value_counts().to_dict() == {
        "CD4": 40,
        "CD8": 30,
        "B": 30,
        "rare": 3,
    }
    assert labels["lineage"].value_counts().to_dict() == {"T": 70, "B": 33}


def test_what_a_method_reads(prepared):
    reference = read_reference(
        str(prepared.reference), ["lineage", "cell_type"], str(prepared.genes)
    )
    assert reference.tree.names == ["B > B", "B > rare", "T > CD4", "T > CD8"]
    assert np.bincount(reference.codes).tolist() == [30, 3, 40, 30]
    assert reference.selected == list(reference.genes)  # a panel is taken whole
    query = read_cells(str(prepared.query))
    counts, measured = query.aligned(["G3", "absent", "G0"])
    np.testing.assert_array_equal(measured, [True, False, True])
    columns = [list(query.genes).index(name) for name in ("G3", "G0")]
    np.testing.assert_array_equal(counts.toarray()[:, [0, 2]], query.counts.toarray()[:, columns])
    assert counts[:, 1].nnz == 0


def test_removed_genes_are_nested_and_depend_on_the_seed(prepared):
    genes = {
        (share, seed): set(ad.read_h5ad(prepared.reduced_query(share, seed)).var_names)
        for share in (0.25, 0.5)
        for seed in (0, 1)
    }
    assert [len(genes[share, 0]) for share in (0.25, 0.5)] == [30, 20]
    assert genes[0.5, 0] < genes[0.25, 0]
    assert genes[0.5, 0] != genes[0.5, 1]


def test_files_are_made_again_only_when_the_pair_changes(prepared, own_pair):
    before = prepared.query.stat().st_mtime_ns
    (pair,) = read_pairs(own_pair)
    work = prepared.folder.parents[1]
    prepare(pair, own_pair.parent, work)
    assert prepared.query.stat().st_mtime_ns == before
    smaller = Pair.from_dict(
        {**pair.to_dict(), "query": {"file": "query.h5ad", "where": {"donor": ["d1"]}}}
    )
    prepare(smaller, own_pair.parent, work)
    assert set(ad.read_h5ad(prepared.query).obs["batch"]) == {"d1"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"levels": ["lineage", "nowhere"]}, "nowhere", id="level_that_is_no_column"),
        pytest.param(
            {"query": {"file": "query.h5ad", "where": {"donor": ["d9"]}}}, "d9", id="empty_filter"
        ),
    ],
)
def test_a_pair_that_does_not_fit_its_files_is_refused(own_pair, tmp_path, change, message):
    (entry,) = json.loads(own_pair.read_text())
    with pytest.raises(ValueError, match=message):
        prepare(Pair.from_dict({**entry, **change}), own_pair.parent, tmp_path / "work")


def test_values_that_are_no_counts_are_refused(own_pair, tmp_path):
    adata = ad.read_h5ad(own_pair.parent / "reference.h5ad")
    adata.X = adata.X.log1p()
    adata.write_h5ad(own_pair.parent / "reference.h5ad")
    (pair,) = read_pairs(own_pair)
    with pytest.raises(ValueError, match="no counts"):
        prepare(pair, own_pair.parent, tmp_path / "work")


def test_a_misspelt_key_of_the_pairs_file_is_named(own_pair):
    (entry,) = json.loads(own_pair.read_text())
    own_pair.write_text(json.dumps([{**entry, "batchkey": "donor"}]))
    with pytest.raises(ValueError, match="batchkey"):
        read_pairs(own_pair)


def test_a_pair_that_is_not_in_the_file_is_named(own_pair):
    with pytest.raises(ValueError, match="other"):
        read_pairs(own_pair, only=["other"])

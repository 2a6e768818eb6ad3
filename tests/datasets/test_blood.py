"""Bundled blood cells: counts and labels agree with their sources."""

import anndata as ad
import numpy as np
import pytest

import hdeepinsight as hdi
from hdeepinsight.datasets import DemoData, demo, pbmc3k


@pytest.fixture(scope="module")
def data():
    return demo()


def test_pbmc3k_holds_counts_of_the_published_sum():
    adata = pbmc3k()
    assert adata.shape == (2638, 13714)
    assert (adata.X.sum(), adata.X.nnz, adata.X.max()) == (6_254_880, 2_238_732, 419)
    assert (adata.X.data == np.round(adata.X.data)).all()
    assert adata.var_names.is_unique
    assert adata.obs_names.is_unique


def test_pbmc3k_is_the_file_that_it_was_packed_from(hdi_data):
    adata, source = pbmc3k(), ad.read_h5ad(hdi_data / "pbmc3k.h5ad")
    assert (adata.X != source.X).nnz == 0
    assert adata.var_names.equals(source.var_names)
    assert adata.obs_names.equals(source.obs_names)
    assert len(source.obs.groupby(["label_original", adata.obs["subtype"]], observed=True)) == 9


def test_levels_of_pbmc3k_form_a_taxonomy_consistent_with_markers():
    adata = pbmc3k()
    tree = hdi.Taxonomy.from_obs(adata, ["lineage", "cell_type", "subtype"])
    assert tree.n_leaves == 9
    share = (adata[:, ["CD79A", "NKG7", "LYZ", "PPBP"]].to_df() > 0).groupby(
        adata.obs["lineage"], observed=True
    )
    assert share.mean().idxmax().to_dict() == {
        "CD79A": "B",
        "NKG7": "NK",
        "LYZ": "Myeloid",
        "PPBP": "Platelet",
    }


def test_split_is_stratified_and_complete(data, pbmc68k):
    names = [*data.reference.obs_names, *data.query.obs_names]
    assert sorted(names) == sorted(pbmc68k.obs_names)
    assert (data.reference.n_obs, data.query.n_obs) == (490, 210)
    whole = pbmc68k.obs.loc[names, "bulk_labels"].value_counts().to_numpy()
    held_out = data.query.obs["cell_type"].value_counts().to_numpy()
    np.testing.assert_allclose(held_out, 0.3 * whole, atol=1)


def test_labels_are_those_of_the_file_in_words(data, pbmc68k):
    labels = pbmc68k.obs["bulk_labels"].astype(str)[data.query.obs_names].to_numpy()
    assert data.query.obs.groupby(DemoData.levels[-1], observed=True).ngroups == 10
    pairs = set(zip(labels, data.query.obs["cell_type"], data.query.obs["lineage"], strict=True))
    assert len(pairs) == 10  # one name and one lineage for every label
    assert ("CD34+", "CD34+ progenitor", "Progenitor") in pairs
    assert ("CD8+ Cytotoxic T", "CD8 T cytotoxic", "T cell") in pairs


def test_counts_give_the_values_of_the_file_again(data, pbmc68k):
    values = pbmc68k.raw[data.query.obs_names].X.toarray()
    counts = data.query.X.toarray()
    assert (counts == np.round(counts)).all()
    # Values are counts times one factor per cell; the file is rounded to three decimals.
    scale = np.expm1(values).sum(1, keepdims=True) / counts.sum(1, keepdims=True)
    np.testing.assert_allclose(np.log1p(counts * scale), values, atol=2e-3)

"""The scale of a matrix is recognised, with evidence, from every value."""

import json
import re

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from scipy import sparse

from hdeepinsight.data import InputReport, inspect_input


def as_adata(matrix, like: ad.AnnData) -> ad.AnnData:
    return ad.AnnData(matrix, obs=like.obs.copy(), var=like.var.copy())


def make_scale(name: str, counts: np.ndarray, normalise) -> np.ndarray:
    """Values on every scale, from the same counts."""
    rng = np.random.default_rng(0)
    length = rng.uniform(0.5, 9, size=counts.shape[1])
    rate = counts / length / np.maximum((counts / length).sum(1, keepdims=True), 1e-9)
    logged = normalise(counts)
    return {
        "counts": lambda: counts,
        "binary": lambda: (counts > 0).astype(np.float32),
        "log1p_cp10k": lambda: logged,
        "log1p_of_counts": lambda: np.log1p(counts),
        "log1p_tpm": lambda: np.log1p(1e6 * rate),
        "imputed": lambda: (logged @ rng.dirichlet(np.ones(60), size=60).T).astype(np.float32),
        "cp10k": lambda: np.expm1(normalise(counts, dtype="float64")),
        "tpm": lambda: 1e6 * rate,
        "ambient_corrected": lambda: counts * rng.uniform(0.8, 1, size=counts.shape),
        "some_estimated": lambda: counts + (rng.random(counts.shape) < 0.05) * 0.25,
        "halves": lambda: counts / 2,
        "scaled": lambda: (logged - logged.mean(0)) / np.maximum(logged.std(0), 1e-6),
        "zeros": lambda: np.zeros_like(counts),
        "no_cells": lambda: counts[:0],
        "no_genes": lambda: counts[:, :0],
    }[name]()


@pytest.mark.parametrize(
    ("values", "scale", "evidence"),
    [
        ("counts", "counts", "all values are whole numbers from 0 to"),
        ("binary", "binary", "0 or 1"),
        ("log1p_cp10k", "log1p_counts", "after expm1, .* whole multiples of one unit"),
        ("log1p_of_counts", "log1p_counts", "after expm1"),
        ("log1p_tpm", "log1p", "same sum, and in 100.0% of 97 cells"),
        ("imputed", "log1p", "fractions up to"),
        ("cp10k", "normalized", "whole multiples of one unit"),
        ("tpm", "normalized", "same sum"),
        ("ambient_corrected", "fractional_counts", "no whole numbers"),
        ("some_estimated", "fractional_counts", "no whole numbers"),
        ("halves", "fractional_counts", "no whole numbers"),
        ("scaled", "scaled", "values are negative"),
        ("zeros", "empty", "no values but zeros"),
        ("no_cells", "empty", "0 cells × 60 genes"),
        ("no_genes", "empty", "97 cells × 0 genes"),
    ],
)
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_array])
def test_scale_is_recognised(small, normalise, values, scale, evidence, form):
    counts = np.delete(small.X.toarray(), 13, axis=0) if values == "tpm" else small.X.toarray()
    report = inspect_input(ad.AnnData(form(make_scale(values, counts, normalise))))
    assert report.scale == scale, report.evidence
    assert re.search(evidence, report.evidence)
    accepted = scale in ("counts", "binary", "log1p_counts")
    assert any("looks" in text for text in report.problems) is not accepted


def test_every_value_is_checked_not_a_sample(small):
    large = sparse.vstack([small.X] * 80).tolil()
    large[5000, 7], large[6111, 8] = np.nan, -3
    large[7007, 9], large[7008, 9] = np.inf, -np.inf
    large[200] = 0
    report = inspect_input(ad.AnnData(large.tocsr()), max_cells=10)
    assert (report.n_nan, report.n_inf, report.n_negative) == (1, 2, 1)
    assert report.n_empty_cells == 81
    assert report.scale == "scaled"


def test_one_fraction_in_the_last_cell_is_seen(small):
    counts = sparse.vstack([small.X] * 80).tolil()
    counts[-1, 0] = 0.5
    assert inspect_input(ad.AnnData(counts.tocsr()), max_cells=10).scale == "fractional_counts"


def test_nan_do_not_hide_the_scale(small, normalise):
    values = normalise(small.X)
    values[3, 4] = np.nan
    report = inspect_input(as_adata(values, small))
    assert report.scale == "log1p_counts"
    assert report.n_nan == 1
    assert "1 NaN" in report.problems[0]


def test_names_are_described(small):
    small.var_names = [
        "ENSG00000167286.9",
        *(f"ENSG{i:011d}" for i in range(58)),
        "ENSG00000000001",
    ]
    report = inspect_input(small)
    assert report.identifiers == "ensembl"
    assert report.versioned
    assert report.species == "human"
    assert report.duplicated_genes == ("ENSG00000000001",)
    assert any("summed: ENSG00000000001" in text for text in report.repairs)
    assert any("Versions" in text for text in report.repairs)


def test_a_transposed_matrix_is_noticed(small):
    rng = np.random.default_rng(0)
    small.obs_names = ["".join(rng.choice(list("ACGT"), 14)) + "-1" for _ in range(97)]
    assert not inspect_input(small).looks_transposed
    report = inspect_input(small.T)
    assert report.looks_transposed
    assert any("Pass adata.T" in text for text in report.problems)


@pytest.mark.parametrize(
    ("place", "advice"),
    [
        ("counts", "pass layer='counts'"),
        ("raw", "adata.raw.to_adata"),
        ("other", "pass layer='other'"),
    ],
)
def test_counts_elsewhere_are_named_and_not_taken(small, place, advice):
    adata = small.copy()
    adata.X = np.full(small.shape, -0.5)
    if place == "raw":
        adata.raw = small
    else:
        adata.layers[place] = small.X
    report = inspect_input(adata)
    assert report.scale == "scaled"
    assert report.layer == "X"
    assert any(advice in text for text in report.problems)


def test_a_layer_named_counts_is_named_first(small, normalise):
    adata = as_adata(normalise(small.X), small)
    adata.layers["a"], adata.layers["counts"] = small.X, small.X
    report = inspect_input(adata)
    assert report.scale == "log1p_counts"
    assert [text for text in report.problems if "layer='counts'" in text]
    assert not [text for text in report.problems if "layer='a'" in text]


def test_report_reads_well_and_is_plain(small):
    report = inspect_input(small)
    assert str(report).splitlines()[:3] == [
        "97 cells × 60 genes in X (csr_matrix)",
        f"  scale     counts: {report.evidence}",
        "  genes     symbol, human",
    ]
    assert "problem   1 cells hold zeros only" in str(report)
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["n_obs"] == 97
    assert plain["duplicated_genes"] == []


def test_the_object_is_not_changed(pbmc68k, fingerprint):
    before = fingerprint(pbmc68k)
    assert inspect_input(pbmc68k).scale == "scaled"
    assert inspect_input(pbmc68k, use_raw=True).scale == "log1p_counts"
    assert fingerprint(pbmc68k) == before


def test_scanpy_output_is_recognised_at_every_step(small):
    small = small[small.X.sum(axis=1).A1 > 0].copy()
    seen = [inspect_input(small).scale]
    for step in (sc.pp.normalize_total, sc.pp.log1p):
        step(small)
        seen.append(inspect_input(small).scale)
    small.X = small.X.toarray()
    sc.pp.scale(small)
    seen.append(inspect_input(small).scale)
    assert seen == ["counts", "normalized", "log1p_counts", "scaled"]


def test_real_files_hold_counts(hdi_data):
    species = {}
    for name in ("pbmc3k", "lung_mouse_zilionis_immune"):
        report = inspect_input(hdi_data / f"{name}.h5ad")
        assert isinstance(report, InputReport)
        assert (report.scale, report.storage, report.problems) == ("counts", "h5ad csr", ())
        species[name] = report.species
    assert species == {"pbmc3k": "human", "lung_mouse_zilionis_immune": "mouse"}

"""Detection of the scale of a matrix, with evidence, from all values."""

import json
import re
from itertools import product

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

from hdeepinsight.data import (
    InputError,
    InputReport,
    examples,
    inspect_input,
    open_counts,
    recover_counts,
    strip_version,
)

HUMAN = [
    "CD3D",
    "MS4A1",
    "HLA-DRA",
    "C1orf112",
    "AL627309.1",
    "MT-CO1",
    "RP11-34P13.7",
    "NKG7",
    "7SK",
]
MOUSE = ["Cd3d", "Ms4a1", "H2-Aa", "Nkg7", "mt-Co1", "Gm26522", "0610007P14Rik", "Actb", "Lyz2"]
ENSEMBL = ["ENSG00000167286", "ENSG00000105374"]
VERSIONED = ["ENSG00000167286.9", "ENSG00000182378.15_PAR_Y"]


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
        "fives": lambda: 5 * (counts > 0),
        "rounded_log": lambda: np.rint(logged),
        "rounded_cp10k": lambda: np.rint(np.expm1(logged)),
        "ranks": lambda: counts.argsort(axis=1).argsort(axis=1),
        "scaled": lambda: (logged - logged.mean(0)) / np.maximum(logged.std(0), 1e-6),
        "zeros": lambda: np.zeros_like(counts),
        "no_cells": lambda: counts[:0],
        "no_genes": lambda: counts[:, :0],
    }[name]()


def test_scale_is_detected(small, normalise):
    for form in [np.asarray, sparse.csr_matrix, sparse.csc_array]:
        for values, scale, evidence in [
            ("counts", "counts", "all values are whole numbers from 0 to"),
            ("binary", "binary", "0 or 1"),
            ("log1p_cp10k", "log1p_counts", "after expm1, .* integer multiples of one unit"),
            ("log1p_of_counts", "log1p_counts", "after expm1"),
            ("log1p_tpm", "log1p", "same sum, and in none of the bases e, 2 and 10"),
            ("imputed", "log1p", "fractions up to"),
            ("cp10k", "normalized", "integer multiples of one unit"),
            ("tpm", "normalized", "same sum"),
            ("ambient_corrected", "fractional_counts", "not whole numbers"),
            ("some_estimated", "fractional_counts", "not whole numbers"),
            ("halves", "fractional_counts", "not whole numbers"),
            ("scaled", "scaled", "values are negative"),
            ("fives", "counts", "from 0 to 5"),
            ("rounded_log", "counts", "whole numbers"),
            ("rounded_cp10k", "counts", "whole numbers"),
            ("ranks", "counts", "from 0 to 59"),
            ("zeros", "empty", "all values are zero"),
            ("no_cells", "empty", "0 cells × 60 genes"),
            ("no_genes", "empty", "97 cells × 0 genes"),
        ]:
            counts = (
                np.delete(small.X.toarray(), 13, axis=0) if values == "tpm" else small.X.toarray()
            )
            report = inspect_input(ad.AnnData(form(make_scale(values, counts, normalise))))
            assert report.scale == scale, report.evidence
            assert re.search(evidence, report.evidence)
            accepted = scale in ("counts", "binary", "log1p_counts")
            assert any("looks" in text for text in report.problems) is not accepted
            expected = {
                "binary": ["All values are 0 or 1"],
                "fives": ["1 occurs 0 times"],
                "rounded_log": ["1 occurs"],
                "rounded_cp10k": ["1 occurs", "All cells have nearly the same sum"],
                "ranks": ["All cells have nearly the same sum"],
            }.get(values, [])
            assert len(report.doubts) == len(expected), report.doubts
            assert all(map(str.startswith, report.doubts, expected))


def test_every_value_is_checked_not_a_sample(small):
    large = sparse.vstack([small.X] * 80).tolil()
    large[5000, 7], large[6111, 8] = np.nan, -3
    large[7007, 9], large[7008, 9] = np.inf, -np.inf
    large[200] = 0
    report = inspect_input(ad.AnnData(large.tocsr()))
    assert (report.n_nan, report.n_inf, report.n_negative) == (1, 2, 1)
    assert report.n_empty_cells == 81
    assert report.scale == "scaled"


def test_one_fraction_in_the_last_cell_is_seen(small):
    counts = sparse.vstack([small.X] * 80).tolil()
    counts[-1, 0] = 0.5
    assert inspect_input(ad.AnnData(counts.tocsr())).scale == "fractional_counts"


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
        ("raw", "pass use_raw=True"),
        ("other", "pass layer='other'"),
    ],
)
def test_other_counts_are_reported_but_not_used(small, place, advice):
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


def test_a_layer_named_counts_is_named_first(small):
    adata = as_adata(np.full(small.shape, -0.5), small)
    adata.layers["a"], adata.layers["counts"] = small.X, small.X
    problems = inspect_input(adata).problems
    assert [text for text in problems if "layer='counts'" in text]
    assert not [text for text in problems if "layer='a'" in text]


def test_readable_scales_have_no_problems(small, normalise):
    adata = as_adata(normalise(small.X), small)
    adata.layers["counts"] = small.X
    report = inspect_input(adata)
    assert (report.scale, report.problems) == ("log1p_counts", ())
    assert report.notes[0].startswith("1 cell has no counts")


def test_report_reads_well_and_is_plain(small):
    report = inspect_input(small)
    assert str(report).splitlines()[:3] == [
        "97 cells × 60 genes in X (csr_matrix)",
        f"  scale     counts: {report.evidence}",
        "  genes     symbol, human",
    ]
    assert "note      1 cell has no counts" in str(report)
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["n_obs"] == 97
    assert plain["duplicated_genes"] == []


@pytest.mark.parametrize(
    ("arguments", "raw", "layer"),
    [
        pytest.param(
            {"layer": "layer", "use_raw": "use_raw"},
            "pass use_raw=True",
            "pass layer='other'",
            id="both",
        ),
        pytest.param(
            {"layer": "rna_layer"},
            "pass adata.raw.to_adata()",
            "pass rna_layer='other'",
            id="a_layer_of_another_name",
        ),
        pytest.param(
            {}, "pass adata.raw.to_adata()", "pass an AnnData that has them as X", id="neither"
        ),
    ],
)
def test_advice_names_arguments_of_the_caller(small, arguments, raw, layer):
    scaled = as_adata(np.full(small.shape, -0.5), small)
    scaled.raw = small
    with pytest.raises(InputError, match=re.escape(f": {raw}.")):
        open_counts(scaled, arguments=arguments)
    scaled = as_adata(np.full(small.shape, -0.5), small)
    scaled.layers["other"] = small.X
    with pytest.raises(InputError, match=re.escape(f": {layer}.")):
        open_counts(scaled, arguments=arguments)


@pytest.mark.parametrize("values", ["cp10k", "ambient_corrected"])
def test_scale_is_recommended_only_if_available(small, normalise, values):
    adata = as_adata(make_scale(values, small.X.toarray(), normalise), small)
    assert "scale='as_is'" in inspect_input(adata).problems[0]
    with pytest.raises(InputError, match="Pass the raw counts") as caught:
        open_counts(adata, arguments={"layer": "layer"})
    assert "scale=" not in str(caught.value)


@pytest.mark.parametrize(("value", "dtype"), [(2**62, "int64"), (2**63, "uint64"), (2.0**25, "f4")])
def test_implausible_counts_are_noted(small, value, dtype):
    counts = small.X.toarray().astype(dtype)
    counts[3, 4] = value
    report = inspect_input(as_adata(counts, small))
    assert report.scale == "counts"
    assert f"The largest value is {float(value):.3g}" in report.notes[0]


@pytest.mark.parametrize("value", [1e30, 1e300])
def test_values_beyond_all_counts_are_not_taken_for_counts(small, value):
    counts = small.X.toarray().astype("float64")
    counts[3, 4] = value
    report = inspect_input(as_adata(counts, small))
    assert (report.scale, report.evidence) == (
        "scaled",
        f"values up to {value:.3g} are too large for counts",
    )


def test_the_object_is_not_changed(pbmc68k, fingerprint):
    before = fingerprint(pbmc68k)
    assert inspect_input(pbmc68k).scale == "scaled"
    assert inspect_input(pbmc68k, use_raw=True).scale == "log1p_counts"
    assert fingerprint(pbmc68k) == before


def test_scanpy_output_is_recognised_at_every_step(small):
    small = small[small.X.sum(axis=1).A1 > 0].copy()
    small.X = small.X.toarray()
    seen = [inspect_input(small).scale]
    for step in (sc.pp.normalize_total, sc.pp.log1p):
        step(small)
        seen.append(inspect_input(small).scale)
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


def named(genes: list[str]) -> ad.AnnData:
    """One cell, with genes of these names."""
    return ad.AnnData(np.full((1, len(genes)), 2.0), var=pd.DataFrame(index=genes))


def test_kind_and_species():
    for names, kind, species in [
        (HUMAN, "symbol", "human"),
        (MOUSE, "symbol", "mouse"),
        ([n.upper() for n in MOUSE], "symbol", "mouse"),
        (ENSEMBL, "ensembl", "human"),
        (VERSIONED, "ensembl", "human"),
        ([f"ENSMUSG0000003209{i}" for i in range(3)], "ensembl", "mouse"),
        (["ENSDARG00000036008"], "ensembl", "unknown"),
        (ENSEMBL + HUMAN[:2], "mixed", "human"),
        (["0", "1", "2", "915"], "unknown", "unknown"),
        (["AAACATACAACCAC-1", "TTTGCATGCCTCAC-1"], "unknown", "unknown"),
        ([], "unknown", "unknown"),
    ]:
        report = inspect_input(named(names))
        assert (report.identifiers, report.species) == (kind, species)


def test_barcodes_are_told_from_genes():
    for name, is_barcode in [
        ("AAACATACAACCAC-1", True),
        ("donor1_AAACCTGCAAGGTTCT-1-ctrl", True),
        ("CTCGAAATCGGATGTT", True),
        ("ACTG1", False),
        ("GATA3", False),
        ("CD3D", False),
    ]:
        genes, cells = named([name]), named(["NKG7"]).T
        cells.var_names, cells.obs_names = [name], ["NKG7"]
        assert inspect_input(cells).looks_transposed == is_barcode
        cells.var_names, cells.obs_names = ["AAACATACAACCAC-1"], [name]
        assert inspect_input(cells).looks_transposed == (not is_barcode)
        assert inspect_input(genes).identifiers == ("unknown" if is_barcode else "symbol")


def test_only_ensembl_versions_are_stripped():
    for name, stripped in [
        ("ENSG00000167286.9", "ENSG00000167286"),
        ("ENSMUSG00000032094.12", "ENSMUSG00000032094"),
        ("ENSG00000167286", "ENSG00000167286"),
        ("AL627309.1", "AL627309.1"),
        ("RP11-34P13.7", "RP11-34P13.7"),
        ("ENSG00000182378.15_PAR_Y", "ENSG00000182378.15_PAR_Y"),
    ]:
        assert strip_version(name) == stripped


def test_versions_are_noticed():
    assert inspect_input(named(VERSIONED)).versioned
    assert not inspect_input(named([*ENSEMBL, *HUMAN])).versioned


def test_examples_say_how_many_more_there_are():
    assert examples(["a", "b"]) == "a, b"
    assert examples(range(1003)) == "0, 1, 2 and 1,000 more"


def test_fractions_are_not_logs():
    for total in [1, 100, 1e4, 1e6]:
        rates = np.random.default_rng(0).gamma(0.3, 1.0, (60, 200)) + 1e-3
        shares = (total * rates / rates.sum(1, keepdims=True)).astype(np.float32)
        report = inspect_input(ad.AnnData(shares))
        assert report.scale == "normalized"
        assert f"the same sum, {total:.4g}" in report.evidence


def test_shares_are_fractions_of_any_sum():
    rates = np.random.default_rng(0).gamma(0.3, 1.0, (60, 200)) + 1e-3
    shares = rates / rates.sum(1, keepdims=True)
    of_length = shares / np.arange(1, 201)
    for some in (shares[:, :40], shares[:2], shares[:1], of_length):
        report = inspect_input(ad.AnnData(some))
        assert report.scale == "normalized", report.evidence
        assert "values are fractions up to" in report.evidence


@pytest.mark.parametrize("base", [np.e, 2, 10, 1.5])
def test_the_base_of_logarithms_is_found(small, normalise, base):
    for dtype, told in product(("float32", "float64"), (True, False)):
        logged = as_adata((normalise(small.X, dtype="float64") / np.log(base)).astype(dtype), small)
        if told:
            logged.uns["log1p"] = {"base": base}
        report = inspect_input(logged)
        if base == 1.5 and not told:
            assert report.scale == "log1p"
            continue
        assert report.scale == "log1p_counts"
        assert report.log_base == pytest.approx(base)
        assert ("base" in report.repairs[0]) == (base != np.e)
        recovered = open_counts(logged).read(open_counts(logged).align(list(small.var_names)))
        np.testing.assert_array_equal(recovered.toarray(), small.X.toarray())
        np.testing.assert_array_equal(recover_counts(logged).X.toarray(), small.X.toarray())


def test_wrong_stored_base_is_ignored(small, normalise):
    logged = as_adata(normalise(small.X), small)
    logged.uns["log1p"] = {"base": 2}
    assert inspect_input(logged).log_base == pytest.approx(np.e)
    logged.uns["log1p"] = {"base": None}
    assert inspect_input(logged).scale == "log1p_counts"


def test_other_features_do_not_affect_the_scale(small):
    values = small.X.toarray()
    values[:, :3] -= 0.5  # antibodies, corrected for their background
    adata = as_adata(values, small)
    adata.var["feature_types"] = ["Antibody Capture"] * 3 + ["Gene Expression"] * 57
    report = inspect_input(adata)
    assert (report.scale, report.n_vars, report.problems) == ("counts", 57, ())
    assert report.repairs[0] == "3 columns are not genes (Antibody Capture) and are ignored."


def test_antibodies_alone_are_refused(small):
    small.var["feature_types"] = "Antibody Capture"
    with pytest.raises(InputError, match=r"None of the 60 columns is a gene.*Pass the RNA"):
        inspect_input(small)


def test_genes_filtered_from_x_are_in_raw(small):
    adata = small.copy()
    adata.raw = small
    adata.var["feature_is_filtered"] = np.arange(60) < 20
    assert inspect_input(adata).n_vars == 40
    assert inspect_input(adata, use_raw=True).n_vars == 60

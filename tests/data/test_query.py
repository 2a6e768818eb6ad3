"""`open_query`: a query is opened, scanned and aligned once, and read in one pass."""

import pickle
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from hdeepinsight.data import (
    AlignedQuery,
    ExtraInputs,
    GeneCoverageWarning,
    InputError,
    Modalities,
    ProteinCoverageWarning,
    align_genes,
    open_counts,
    open_query,
    own_columns,
    select_genes,
)

GENES = [f"GENE{i}" for i in (41, 3, 59, 7, 22)] + ["ABSENT1", *(f"GENE{i}" for i in range(30, 37))]


def read(opened: AlignedQuery, size: int = 4096) -> np.ndarray:
    return sparse.vstack([counts for _, counts in opened.chunks(size)]).toarray()


def expected(adata: ad.AnnData) -> np.ndarray:
    dense = pd.DataFrame(sparse.csr_matrix(adata.X).toarray(), columns=adata.var_names)
    return dense.reindex(columns=GENES, fill_value=0).to_numpy()


@pytest.fixture
def mudata(small):
    """RNA of all cells but the first three, and three proteins of all but the last two."""
    mudata = pytest.importorskip("mudata")
    var = pd.DataFrame(index=["CD3_TotalSeqB", "CD19", "CD56"])
    values = np.arange(1.0, 1 + 3 * small.n_obs, dtype=np.float32).reshape(-1, 3)
    protein = ad.AnnData(values, obs=pd.DataFrame(index=small.obs_names), var=var)
    with own_columns():
        return mudata.MuData({"rna": small[3:].copy(), "prot": protein[:-2].copy()})


#: One of each way in which rows are read.
READ = ("dense", "view", "csc_array", "dask_sparse", "backed_dense", "h5ad_csr", "h5ad_csc")
every_way = pytest.mark.parametrize("way", [*READ, "zarr3_dense"])


@every_way
def test_a_query_is_scanned_once_and_read_in_one_pass_by_two(small, way, store_as):
    data = store_as(small, way)
    opened = open_query(data, GENES)
    assert (opened.n_scans, opened.n_passes) == (1, 1)
    source = open_counts(data)
    by_hand = align_genes(source.var, GENES)
    kept = []
    chunks = [counts for _, counts in opened.chunks(20, keep=kept)]  # one pass for two readers
    assert (opened.n_scans, opened.n_passes) == (1, 2)
    np.testing.assert_array_equal(sparse.vstack(chunks).toarray(), expected(small))
    np.testing.assert_array_equal(sparse.vstack(kept).toarray(), small.X.toarray())
    assert opened.query_genes == list(small.var_names)
    assert all(part.dtype == np.float32 and part.has_canonical_format for part in kept)
    np.testing.assert_array_equal(opened.read().toarray(), source.read(by_hand).toarray())
    for name in ("source", "target", "measured"):
        np.testing.assert_array_equal(getattr(opened.alignment, name), getattr(by_hand, name))
    assert opened.gene_report == by_hand.report
    assert opened.input_report == source.report


@pytest.mark.filterwarnings("ignore:Writing zarr v2")
@pytest.mark.parametrize("kind", ["memory", "h5ad", "zarr"])
def test_open_query_can_be_pickled(small, tmp_path: Path, kind: str):
    path = tmp_path / f"cells.{kind}"
    data = small if kind == "memory" else path
    if kind != "memory":
        getattr(small, f"write_{kind}")(path)
    opened = open_query(data, GENES)
    np.testing.assert_array_equal(read(pickle.loads(pickle.dumps(opened))), read(opened))


def test_counts_that_are_recovered_are_kept_as_counts(small, normalise):
    logged = ad.AnnData(normalise(small.X), obs=small.obs, var=small.var)
    opened, kept = open_query(logged, GENES), []
    np.testing.assert_array_equal(
        sparse.vstack([c for _, c in opened.chunks(30, keep=kept)]).toarray(), expected(small)
    )
    np.testing.assert_array_equal(sparse.vstack(kept).toarray(), small.X.toarray())
    assert (opened.n_scans, opened.n_passes) == (1, 2)
    assert "counts recovered from X" in repr(opened)


def test_columns_of_one_name_are_summed_in_what_is_kept(small):
    doubled = ad.AnnData(sparse.hstack([small.X, 2 * small.X], format="csr"))
    doubled.var_names = [*small.var_names, *small.var_names]
    opened, kept = open_query(doubled, GENES), []
    list(opened.chunks(keep=kept))
    assert opened.query_genes == list(small.var_names)
    np.testing.assert_array_equal(kept[0].toarray(), 3 * small.X.toarray())


def test_query_is_not_modified(small, fingerprint):
    before = fingerprint(small)
    opened = open_query(small, GENES)
    list(opened.chunks(keep=[]))
    opened.obs["new"] = 1
    assert fingerprint(small) == before


def test_preferred_layer_is_read_if_present(small):
    small.layers["counts"] = 2 * small.X
    assert open_query(small, GENES, preferred_layer="counts").input_report.layer == (
        "layers['counts']"
    )
    assert open_query(small, GENES, preferred_layer="other").input_report.layer == "X"
    small.raw = small
    chosen = open_query(small, GENES, preferred_layer="counts", use_raw=True)
    assert chosen.input_report.layer == ".raw"


def test_requested_layer_must_exist(small):
    with pytest.raises(InputError, match=r"no layers\['other'\]"):
        open_query(small, GENES, layer="other")


def test_missing_genes_are_warned_of_once_or_never(small):
    few = [*(f"ABSENT{i}" for i in range(7)), *GENES[:5]]
    with pytest.warns(GeneCoverageWarning):
        opened = open_query(small, few)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(open_query(opened, few))
        open_query(small, few, warn=False)


def test_open_query_is_accepted_by_the_same_model_only(small):
    opened = open_query(small, GENES)
    assert open_query(opened, tuple(GENES)) is opened
    with pytest.raises(InputError, match="opened for another model"):
        open_query(opened, GENES[::-1])
    with pytest.raises(InputError, match="another model"):
        open_query(opened, GENES, proteins=["CD3"])
    with pytest.raises(
        InputError, match="layer and scale was passed with a query that is already open"
    ):
        open_query(opened, GENES, layer="counts", scale="as_is")


@pytest.mark.parametrize(
    ("indices", "positions"),
    [
        pytest.param([5, 40, 41], [5, 40, 41], id="ascending"),
        pytest.param(np.array([41, 5, 5, 90]), [41, 5, 5, 90], id="any_order_and_repeated"),
        pytest.param(["cell_9", "cell_3"], [9, 3], id="names"),
        pytest.param(pd.Index(["cell_9"]), [9], id="index"),
        pytest.param(np.arange(97) % 10 == 3, list(range(3, 97, 10)), id="mask"),
        pytest.param(
            pd.Series([i == 4 for i in range(97)], dtype="boolean"), [4], id="nullable_mask"
        ),
        pytest.param(slice(90, None), list(range(90, 97)), id="slice"),
    ],
)
def test_cells_are_picked_by_position_mask_or_name(small, indices, positions):
    opened = open_query(small, GENES).subset(indices)
    np.testing.assert_array_equal(read(opened, 7), expected(small)[positions])
    assert list(opened.obs_names) == list(small.obs_names[positions])
    assert f"{len(positions)} of the 97 cells" in opened.input_report.repairs[-1]


@every_way
def test_cells_are_picked_from_any_storage_without_a_scan(small, way, store_as):
    whole = open_query(store_as(small, way), GENES)
    for n, positions in enumerate(([5, 40, 41, 90], [41, 5, 5, 90]), start=2):
        picked = whole.subset(positions)
        assert picked.n_obs == 4
        np.testing.assert_array_equal(read(picked, 3), expected(small)[positions])
        assert (picked.n_scans, picked.n_passes) == (whole.n_scans, whole.n_passes) == (1, n)
    np.testing.assert_array_equal(read(picked.subset([3])), expected(small)[[90]])


def test_chunks_of_picked_cells_are_no_larger_than_asked(small):
    opened = open_query(small, GENES).subset(np.arange(0, 97, 2))
    rows = [rows for rows, _ in opened.chunks(10)]
    assert max(part.stop - part.start for part in rows) <= 10
    assert [i for part in rows for i in range(part.start, part.stop)] == list(range(49))


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        pytest.param([-1, 97], "2 positions are out of range: -1, 97.", id="beyond"),
        pytest.param([0] * 96 + [1], "All positions are 0 or 1, as in a mask", id="integers"),
        pytest.param([], "selection is empty", id="none"),
        pytest.param(np.zeros(97, bool), "selection is empty", id="empty_mask"),
        pytest.param([True, False], "2 entries, but there are 97 cells", id="short_mask"),
        pytest.param(["cell_1", "zell"], "no cell 'zell'", id="unknown_name"),
        pytest.param([0.5], "values of type float64", id="fractions"),
        pytest.param([[1, 2]], "not one-dimensional", id="table"),
        pytest.param(
            pd.Series([True] * 97, index=[f"cell_{i}" for i in range(96, -1, -1)]),
            "in another order",
            id="mask_of_other_cells",
        ),
    ],
)
def test_invalid_selections_raise(small, indices, message):
    with pytest.raises(InputError, match=message):
        open_query(small, GENES).subset(indices)


def test_coordinates_come_along(small):
    points = np.arange(194.0).reshape(97, 2)
    small.obsm["X_umap"] = points
    opened = open_query(small, GENES)
    np.testing.assert_array_equal(opened.source.obsm["X_umap"](), points)
    picked = opened.subset([9, 3]).subset([1])
    np.testing.assert_array_equal(picked.source.obsm["X_umap"](), points[[3]])


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_names_that_occur_twice_choose_no_cell(small):
    small.obs_names = ["a", "a", *small.obs_names[2:]]
    with pytest.raises(InputError, match="more than once"):
        open_query(small, GENES).subset(["a"])


def test_a_mudata_is_opened_with_its_proteins_and_the_cells_that_have_rna(small, mudata):
    opened = open_query(mudata, GENES, proteins=["CD56", "CD4", "CD3"])
    assert (opened.n_scans, opened.n_passes) == (1, 1)
    order = mudata.obs_names
    whole = pd.DataFrame(expected(small), index=small.obs_names)
    whole.iloc[:3] = 0
    np.testing.assert_array_equal(read(opened), whole.loc[order].to_numpy())
    assert list(opened.obs_names) == list(order)
    assert opened.extra.has_rna.tolist() == [name not in small.obs_names[:3] for name in order]
    first = opened.extra.proteins[order.get_loc("cell_0")]
    assert first.counts.tolist() == [3, 0, 1]
    assert first.measured.tolist() == [True, False, True]
    assert opened.gene_report.messages[-1] == "2 of 3 proteins measured, in 95 of 97 cells."
    assert open_query(mudata, GENES).extra.proteins is None


def test_a_mudata_is_opened_from_its_file(mudata, tmp_path):
    opened = open_query(mudata, GENES, proteins=["CD56"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mudata.write(tmp_path / "cells.h5mu")
        from_file = open_query(tmp_path / "cells.h5mu", GENES, proteins=["CD56"])
    np.testing.assert_array_equal(read(opened), read(from_file))
    np.testing.assert_array_equal(opened.extra.proteins.counts, from_file.extra.proteins.counts)


def test_picked_cells_of_a_mudata_keep_their_proteins(mudata):
    opened = open_query(mudata, GENES, proteins=["CD56", "CD3"])
    rows = np.array([60, 2, 96])
    picked = opened.subset(rows)
    np.testing.assert_array_equal(picked.extra.has_rna, opened.extra.has_rna[rows])
    np.testing.assert_array_equal(picked.extra.proteins.counts, opened.extra.proteins.counts[rows])
    np.testing.assert_array_equal(read(picked), read(opened)[rows])


def test_proteins_alone_suffice_for_multimodal_models(mudata):
    with own_columns():
        alone = type(mudata)({"prot": mudata.mod["prot"]})
    opened = open_query(alone, GENES, proteins=["CD56"])
    assert not opened.measured.any()
    assert not opened.extra.has_rna.any()
    assert sum(counts.shape[0] for _, counts in opened.chunks()) == alone.n_obs
    with pytest.raises(InputError, match="no protein that the model uses"):
        open_query(alone, GENES)
    with (
        pytest.warns(ProteinCoverageWarning, match="None of the 3 proteins"),
        pytest.raises(InputError, match="no protein that the model uses"),
    ):
        open_query(alone, GENES, proteins=["CD999"])


def test_modalities_of_other_names_are_found_when_named(mudata):
    with own_columns():
        renamed = type(mudata)({"expression": mudata.mod["rna"], "surface": mudata.mod["prot"]})
    named = Modalities(rna_layer="expression", protein_layer="surface")
    opened = open_query(renamed, GENES, proteins=["CD56"], modalities=named)
    usual = open_query(mudata, GENES, proteins=["CD56"])
    np.testing.assert_array_equal(read(opened), read(usual))


def test_extra_inputs_of_nothing_add_nothing(small):
    opened = open_query(small, GENES)
    assert opened.gene_report is opened.alignment.report
    assert ExtraInputs()[np.array([1])].has_rna is None


def test_a_path_is_read_anew_in_each_pass(small, tmp_path: Path):
    small.write_h5ad(tmp_path / "cells.h5ad")
    opened = open_query(tmp_path / "cells.h5ad", GENES)
    for n in (2, 3):
        np.testing.assert_array_equal(read(opened), expected(small))
        assert (opened.n_scans, opened.n_passes) == (1, n)


def scanpy_object(small: ad.AnnData, normalise, x: str) -> ad.AnnData:
    """Some genes in ``X``, on some scale; the logs of all in ``raw``; counts of some in a layer."""
    logged = ad.AnnData(normalise(small.X), obs=small.obs, var=small.var)
    adata = small[:, small.var_names.isin(GENES[:5])].copy()
    adata.raw = logged
    adata.layers["counts"] = adata.X.copy()
    if x != "counts":
        adata.X = logged[:, adata.var_names].X.copy()
    if x == "scaled":
        adata.X = (adata.X - adata.X.mean(0)) / adata.X.std(0)
    return adata


@pytest.mark.parametrize("x", ["counts", "logs"])
def test_raw_is_read_if_it_has_more_genes(small, normalise, x):
    adata = scanpy_object(small, normalise, x)
    opened = open_query(adata, GENES)
    assert (opened.input_report.layer, opened.n_scans) == (".raw", 1)
    np.testing.assert_array_equal(read(opened), expected(small))
    assert "Read from .raw, which has 92.3% of" in opened.input_report.repairs[-1]
    assert "while X has 38.5%; layer='X' reads X" in opened.input_report.repairs[-1]
    own = open_query(adata, GENES, layer="X", warn=False)
    assert own.measured.sum() == 5


def test_the_error_names_the_matrix_with_most_of_the_genes(small, normalise):
    adata = scanpy_object(small, normalise, "scaled")
    with pytest.raises(
        InputError,
        match=r"looks scaled.*\.raw holds log-normalised values.*60 genes, 92\.3%.*use_raw=True",
    ):
        open_query(adata, GENES)
    with pytest.raises(InputError, match=r"looks scaled.*pass use_raw=True"):
        open_counts(adata)
    adata.raw = None
    with pytest.raises(InputError, match=r"looks scaled.*pass layer='counts'"):
        open_query(adata, GENES)
    counts = adata.layers.pop("counts").toarray()
    adata.layers["spliced"], adata.layers["matrix"] = (counts > 1).astype(np.float32), counts
    with pytest.raises(InputError, match=r"looks scaled.*pass layer='matrix'"):
        open_query(adata, GENES)
    del adata.layers["spliced"], adata.layers["matrix"]
    normalised = sparse.csr_matrix(normalise(small.X)).expm1()
    adata.raw = ad.AnnData(normalised, obs=small.obs, var=small.var)
    with pytest.raises(InputError, match=r"pass use_raw=True and scale='recover'\."):
        open_query(adata, GENES)
    opened = open_query(adata, GENES, use_raw=True, scale="recover")
    np.testing.assert_array_equal(read(opened), expected(small))
    with pytest.raises(InputError, match=r"pass hdi\.pp\.recover_counts\(adata, use_raw=True\)\."):
        open_counts(adata, arguments={"layer": "layer"})


def test_raw_that_holds_no_counts_is_not_read(small, normalise):
    adata = scanpy_object(small, normalise, "counts")
    adata.raw = ad.AnnData(normalise(small.X) - 0.5, obs=small.obs, var=small.var)
    assert open_query(adata, GENES, warn=False).input_report.layer == "X"


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_antibodies_are_in_nothing_that_is_read(small):
    beside = ad.AnnData(
        sparse.hstack([small.X, 50 * small.X[:, :3]], format="csr"),
        obs=small.obs,
        var=pd.DataFrame(
            {"feature_types": ["Gene Expression"] * 60 + ["Antibody Capture"] * 3},
            index=[*small.var_names, *GENES[:3]],
        ),
    )
    opened, kept = open_query(beside, GENES), []
    chunks = [counts for _, counts in opened.chunks(20, keep=kept)]
    np.testing.assert_array_equal(sparse.vstack(chunks).toarray(), expected(small))
    np.testing.assert_array_equal(sparse.vstack(kept).toarray(), small.X.toarray())
    assert opened.query_genes == list(small.var_names)
    np.testing.assert_array_equal(read(opened.subset([5, 3])), expected(small)[[5, 3]])
    first = beside[:, [60, 61, 62, *range(60)]].copy()  # the genes get numbers instead
    for separator in "-.":
        first.var_names_make_unique(separator)
        np.testing.assert_array_equal(read(open_query(first, GENES)), expected(small))


def test_a_reference_whose_genes_are_numbers_is_refused(small):
    small.var_names = [str(i) for i in range(60)]
    with pytest.raises(InputError, match=r"are numbers \(0, 1, 2 and 57 more\)"):
        select_genes(open_counts(small), 10)
    small.var["symbol"] = [f"GENE{i}" for i in range(60)]
    assert all(gene.startswith("GENE") for gene in select_genes(open_counts(small), 10))

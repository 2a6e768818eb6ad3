"""Bad input ends in a clear error or a stated repair, and the user's object unchanged."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from hdeepinsight.data import GeneMatchError, InputError, open_counts

MODEL = [f"GENE{i}" for i in range(40)]


def annotate(adata: ad.AnnData, **options) -> tuple[np.ndarray, list[str]]:
    """What every model does first: open, align, read. Gives the counts and what was said."""
    source = open_counts(adata, **options)
    alignment = source.align(MODEL)
    counts = sparse.vstack([c for _, c in source.chunks(alignment, 32)]).toarray()
    report = source.report
    said = [*report.repairs, *report.problems, *report.notes, *alignment.report.messages]
    return counts, said


def with_x(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[ad.AnnData], ad.AnnData]:
    def changed(adata: ad.AnnData) -> ad.AnnData:
        return ad.AnnData(change(adata.X.toarray()), obs=adata.obs, var=adata.var)

    return changed


def with_value(value: float) -> Callable[[ad.AnnData], ad.AnnData]:
    def put(x: np.ndarray) -> np.ndarray:
        x[50, 7] = value
        return x

    return with_x(put)


def renamed(rename: Callable[[int, str], str]) -> Callable[[ad.AnnData], ad.AnnData]:
    def changed(adata: ad.AnnData) -> ad.AnnData:
        names = [rename(i, name) for i, name in enumerate(adata.var_names)]
        return ad.AnnData(adata.X, obs=adata.obs, var=pd.DataFrame(index=names))

    return changed


def in_common(n: int) -> Callable[[ad.AnnData], ad.AnnData]:
    return renamed(lambda _, name: name if name in MODEL[:n] else f"OTHER{name}")


def log_cp10k(x: np.ndarray) -> np.ndarray:
    return np.log1p(1e4 * x / np.maximum(x.sum(1, keepdims=True), 1)).astype(np.float32)


def standardised(x: np.ndarray) -> np.ndarray:
    logged = log_cp10k(x)
    return (logged - logged.mean(0)) / logged.std(0)


def imputed(x: np.ndarray) -> np.ndarray:
    return log_cp10k(x) @ np.random.default_rng(0).dirichlet(np.ones(60), size=60).T


REFUSED = [
    pytest.param(lambda a: a[:0].copy(), InputError, "0 cells × 60 genes", id="no_cells"),
    pytest.param(lambda a: a[:, :0].copy(), InputError, "97 cells × 0 genes", id="no_genes"),
    pytest.param(with_x(np.zeros_like), InputError, "no values but zeros", id="zeros_only"),
    pytest.param(in_common(0), GeneMatchError, "0 of the model's 40 genes", id="no_gene_in_common"),
    pytest.param(
        in_common(2), GeneMatchError, r"2 of .*\(5\.0%.*At least 10%", id="5_percent_in_common"
    ),
    pytest.param(
        renamed(lambda _, name: name.capitalize()),
        GeneMatchError,
        "looks like mouse.*human",
        id="mouse",
    ),
    pytest.param(
        renamed(lambda i, _: f"ENSG{i:011d}"),
        GeneMatchError,
        "ensembl names and the model symbol",
        id="ensembl",
    ),
    pytest.param(with_x(standardised), InputError, "looks scaled.*before scaling", id="scaled"),
    pytest.param(
        with_x(imputed), InputError, "looks log1p:.*Pass the counts", id="log_without_counts"
    ),
    pytest.param(
        with_x(lambda x: 0.9 * x + 0.07 * (x > 3)),
        InputError,
        "looks fractional_counts.*as_is",
        id="fractions",
    ),
    pytest.param(with_value(np.nan), InputError, "1 NaN.*cannot be guessed", id="nan"),
    pytest.param(with_value(np.inf), InputError, "1 infinite", id="inf"),
    pytest.param(with_value(-2), InputError, r"1 value is negative \(down to -2\)", id="negative"),
]


@pytest.mark.parametrize(("spoil", "error", "message"), REFUSED)
def test_is_refused_with_a_reason_and_left_as_it_was(small, fingerprint, spoil, error, message):
    adata = spoil(small)
    before = fingerprint(adata)
    with pytest.raises(error, match=message) as caught:
        annotate(adata)
    assert fingerprint(adata) == before
    for part in (caught.value.found, caught.value.valid, caught.value.do_next):
        assert part.endswith(".") or part.endswith(")."), part


def doubled(adata: ad.AnnData) -> ad.AnnData:
    both = ad.AnnData(sparse.hstack([adata.X, adata.X], format="csr"), obs=adata.obs)
    both.var_names = [*adata.var_names, *adata.var_names]
    return both


REPAIRED = [
    pytest.param(lambda a: a[:, ::-1].copy(), 1, None, id="permuted_genes"),
    pytest.param(doubled, 2, "same gene name are summed", id="duplicated_names"),
    pytest.param(with_x(lambda x: x.astype(">f4")), 1, None, id="foreign_byte_order"),
    pytest.param(with_x(log_cp10k), 1, "Counts are recovered", id="log_of_counts"),
    pytest.param(with_x(lambda x: x), 1, "1 cell holds zeros only", id="an_empty_cell"),
]


@pytest.mark.parametrize(("change", "times", "message"), REPAIRED)
def test_is_repaired_and_said_so(small, fingerprint, change, times, message):
    adata = change(small)
    before = fingerprint(adata)
    counts, said = annotate(adata)
    assert fingerprint(adata) == before
    np.testing.assert_array_equal(counts, times * annotate(small)[0])
    assert message is None or any(message in text for text in said), said


def test_one_cell_gets_what_it_gets_among_others(small):
    np.testing.assert_array_equal(annotate(small[[40]])[0], annotate(small)[0][[40]])


def test_fractions_are_used_when_asked_for(small):
    adata = with_x(lambda x: 0.9 * x + 0.07 * (x > 3))(small)
    counts, said = annotate(adata, scale="as_is")
    whole = annotate(small)[0]
    np.testing.assert_allclose(counts, 0.9 * whole + 0.07 * (whole > 3), rtol=1e-6)
    assert said[0].startswith("The fractional_counts values are used unchanged")


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
@pytest.mark.parametrize("scale", ["auto", "counts", "recover", "as_is"])
def test_no_setting_takes_nan_infinite_or_negative_values(small, value, scale):
    with pytest.raises(InputError):
        open_counts(with_value(value)(small), scale=scale)


@pytest.mark.parametrize(
    ("change", "scale", "message"),
    [
        pytest.param(
            with_x(log_cp10k),
            "counts",
            "looks log1p_counts.*Pass the raw counts",
            id="logs_as_counts",
        ),
        pytest.param(
            with_x(lambda x: x), "recover", "looks counts.*Use scale='auto'", id="counts_to_recover"
        ),
        pytest.param(
            with_x(imputed), "recover", "looks log1p:.*only divided", id="imputed_to_recover"
        ),
    ],
)
def test_an_explicit_scale_must_fit(small, change, scale, message):
    with pytest.raises(InputError, match=message):
        open_counts(change(small), scale=scale)


@pytest.mark.parametrize("scale", ["as-is", "AUTO", None])
def test_an_unknown_scale_is_refused_and_does_not_switch_the_checks_off(small, scale):
    adata = with_x(imputed)(small)
    with pytest.raises(ValueError, match=r"one of 'auto', 'counts', 'recover', 'as_is', got"):
        open_counts(adata, scale=scale)


def test_values_that_were_not_logged_are_recovered_when_asked_for(small):
    adata = with_x(lambda x: np.expm1(log_cp10k(x).astype(float)))(small)
    with pytest.raises(InputError, match=r"looks normalized.*scale='recover'"):
        open_counts(adata)
    counts, said = annotate(adata, scale="recover")
    np.testing.assert_array_equal(counts, annotate(small)[0])
    assert any("recovered from the normalised values" in text for text in said)


def test_the_error_names_a_layer_with_counts(small):
    adata = with_x(standardised)(small)
    adata.layers["counts"] = small.X
    with pytest.raises(InputError, match="pass layer='counts'"):
        open_counts(adata)


def test_what_does_not_exist_is_said_with_what_does(small, tmp_path: Path):
    small.layers["spliced"] = small.X
    with pytest.raises(
        InputError, match=r"no layers\['counts'\].*It holds: X, layers\['spliced'\]"
    ):
        open_counts(small, layer="counts")
    with pytest.raises(InputError, match=r"no \.raw"):
        open_counts(small, use_raw=True)
    with pytest.raises(InputError, match="one of them"):
        open_counts(small, layer="spliced", use_raw=True)
    with pytest.raises(InputError, match="does not exist"):
        open_counts(tmp_path / "nowhere.h5ad")
    with pytest.raises(InputError, match="data is a list"):
        open_counts([1, 2])


def test_an_anndata_without_x_is_refused(small):
    empty = ad.AnnData(obs=small.obs, var=small.var, layers={"counts": small.X})
    with pytest.raises(InputError, match=r"holds no X.*layers\['counts'\]"):
        open_counts(empty)
    assert open_counts(empty, layer="counts").n_obs == 97


@pytest.mark.parametrize("name", ["broken.h5ad", "broken.zarr"])
def test_a_file_that_is_no_anndata_is_refused(tmp_path, name):
    path = tmp_path / name
    if name.endswith("zarr"):
        path.mkdir()
    else:
        path.write_text("not a file of this kind")
    with pytest.raises(InputError, match=r"cannot be opened|not an AnnData"):
        open_counts(path)


def test_a_foreign_hdf5_file_is_refused(tmp_path):
    import h5py

    path = tmp_path / "foreign.h5ad"
    with h5py.File(path, "w") as file:
        file["numbers"] = [1, 2, 3]
    with pytest.raises(InputError, match=r"no obs and no var.*write_h5ad"):
        open_counts(path)


def test_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(InputError("Found.", "Valid.", "Do.")))
    assert (str(error), error.do_next) == ("Found. Valid. Do.", "Do.")


def test_reports_are_plain_after_every_repair(small):
    report = open_counts(with_x(log_cp10k)(small)).report
    assert json.loads(json.dumps(report.to_dict()))["scale"] == "log1p_counts"

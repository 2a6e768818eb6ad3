"""Output files, and the annotated copy of a query."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from annotated_files import cells, saved

from hdeepinsight.annotation import Annotation
from hdeepinsight.cli._console import UsageProblem
from hdeepinsight.cli._files import (
    check_output,
    default_output,
    prepare_output,
    require_writable,
)
from hdeepinsight.data import open_store, write_fast_store
from hdeepinsight.taxonomy import Taxonomy


def test_folder_without_a_store_is_never_replaced(tmp_path):
    out = tmp_path / "out.zarr"
    out.mkdir()
    with pytest.raises(UsageProblem, match="not a zarr store, so it is not replaced"):
        check_output(out, source=tmp_path / "query.h5ad", overwrite=True)
    (out / "zarr.json").write_text("{}")
    check_output(out, source=tmp_path / "query.h5ad", overwrite=True)


def test_output_below_a_file_raises_early(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    for out in (file / "out.csv", file / "deep" / "out.csv"):
        with pytest.raises(UsageProblem, match=r"--out .*notes\.txt is not a folder\. Choose"):
            check_output(out, source=tmp_path / "query.h5ad", overwrite=False)
    assert file.read_text() == "mine"


def test_full_drive_raises_early(tmp_path, monkeypatch):
    query = saved(cells(3), tmp_path / "query.h5ad")
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    source, how = tmp_path / "query.h5ad", {"source": tmp_path / "query.h5ad", "key_added": "hdi"}
    with pytest.raises(UsageProblem, match=r"0\.0 GB are free there.*--out labels\.csv"):
        prepare_output(open_store(source), out=tmp_path / "new" / "copy.h5ad", **how)
    labels = pd.Series(["T", "B", "T"], index=query.obs_names)
    result = Annotation.from_labels(labels, Taxonomy.from_nested(["T", "B"]))
    prepare_output(open_store(source), out=tmp_path / "labels.csv", **how)(result)
    assert (tmp_path / "labels.csv").is_file()


def test_read_only_folder_raises_early(tmp_path, monkeypatch):
    require_writable(tmp_path / "new" / "model")
    locked = tmp_path / "locked"
    locked.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked)
    with pytest.raises(UsageProblem, match="locked is not writable"):
        require_writable(locked / "new" / "model")


# anndata 0.12 announces the defaults of its next version whenever it writes zarr.
@pytest.mark.filterwarnings("ignore:.*in the next minor release:UserWarning")
def test_copy_contains_colours_ids_and_annotation(tmp_path_factory):
    for out in [".h5ad", ".zarr"]:
        for source in [".h5ad", ".zarr"]:
            tmp_path = tmp_path_factory.mktemp("case")
            tree = Taxonomy.from_nested(
                {"T": ["CD4", "CD8"], "B": []}, level_names=("lineage", "cell_type")
            ).with_annotations(ontology_ids={"T": "CL:0000084", "B": "CL:0000236"})
            query, path = cells(4), tmp_path / f"query{source}"
            query.uns["note"] = "kept"
            query = saved(query, path)
            labels = pd.Series(["CD4", "T", "B", None], index=query.obs_names)
            result = Annotation.from_labels(labels, tree, confidence=[0.9, 0.8, 0.7, 0.0])
            copy_path = tmp_path / f"copy{out}"
            prepare_output(open_store(path), source=path, out=copy_path, key_added="hdi")(result)
            copy = ad.read_h5ad(copy_path) if out == ".h5ad" else ad.read_zarr(copy_path)
            assert copy.uns["note"] == "kept"
            np.testing.assert_array_equal(copy.X, query.X)
            ids = ["CL:0000084", "CL:0000084", "CL:0000236", "unknown"]
            assert copy.obs["hdi_cell_type_ontology_term_id"].astype(str).tolist() == ids
            for name in ("lineage", "cell_type", "stop_label"):
                categories = copy.obs[f"hdi_{name}"].cat.categories
                wanted = [result.colors[label] for label in categories]
                assert list(copy.uns[f"hdi_{name}_colors"]) == wanted
            read = Annotation.from_adata(copy)
            assert read.labels["stop_label"].astype(str).tolist() == ["CD4", "T", "B", "Unknown"]
            np.testing.assert_array_equal(read.node_probabilities, result.node_probabilities)


@pytest.mark.filterwarnings("ignore:.*in the next minor release:UserWarning")
def test_entries_of_the_query_are_not_replaced(tmp_path_factory):
    for part, name in [
        ("obsm", "hdi_probabilities"),
        ("uns", "hdi"),
        ("uns", "hdi_level_1_colors"),
    ]:
        for ending in [".h5ad", ".zarr"]:
            tmp_path = tmp_path_factory.mktemp("case")
            query, path, out = cells(3), tmp_path / f"query{ending}", tmp_path / f"copy{ending}"
            getattr(query, part)[name] = np.arange(3.0)[:, None] if part == "obsm" else ["mine"]
            query = saved(query, path)
            tree = Taxonomy.from_nested({"T": [], "B": []})
            result = Annotation.from_labels(pd.Series(["T", "B", "T"], index=query.obs_names), tree)
            store = open_store(path)
            with pytest.raises(UsageProblem, match=f"already has {part}/{name}.*Pass another name"):
                prepare_output(store, source=path, out=out, key_added="hdi")
            assert [found.name for found in tmp_path.iterdir()] == [path.name]
            named = replace(store, obs=store.obs.rename_axis("hdi_lineage"), obsm={}, uns=())
            with pytest.raises(UsageProblem, match="already has obs/hdi_lineage"):
                prepare_output(named, source=path, out=out, key_added="hdi")
            prepare_output(store, source=path, out=out, key_added="other")(result)
            copy = ad.read_h5ad(out) if ending == ".h5ad" else ad.read_zarr(out)
            np.testing.assert_array_equal(getattr(copy, part)[name], getattr(query, part)[name])


@pytest.mark.filterwarnings("ignore:.*in the next minor release:UserWarning")
def test_columns_of_the_query_are_unchanged(tmp_path_factory):
    for out in [".h5ad", ".zarr"]:
        for source in [".h5ad", ".zarr"]:
            tmp_path = tmp_path_factory.mktemp("case")
            columns = {
                "text": pd.array(["a", None, "c"], dtype="string"),
                "whole": pd.array([1, None, 3], dtype="Int64"),
                "truth": pd.array([True, None, False], dtype="boolean"),
                "ordered": pd.Categorical(["lo", "hi", None], ["lo", "mid", "hi"], ordered=True),
            }
            path, copy_path = tmp_path / f"query{source}", tmp_path / f"copy{out}"
            with ad.settings.override(allow_write_nullable_strings=True):
                query = saved(cells(3, **columns), path)
            result = Annotation.from_labels(
                pd.Series(["T", "B", "T"], index=query.obs_names), Taxonomy.from_nested(["T", "B"])
            )
            prepare_output(open_store(path), source=path, out=copy_path, key_added="hdi")(result)
            copy = ad.read_h5ad(copy_path) if out == ".h5ad" else ad.read_zarr(copy_path)
            pd.testing.assert_frame_equal(copy.obs[list(columns)], query.obs)


@pytest.mark.filterwarnings("ignore:.*in the next minor release:UserWarning")
def test_entries_of_an_earlier_result_are_replaced(tmp_path_factory):
    for ending in [".h5ad", ".zarr"]:
        folder = tmp_path_factory.mktemp("case")
        query = saved(cells(3), folder / f"query{ending}")
        results = [
            Annotation.from_labels(pd.Series(labels, index=query.obs_names), tree)
            for labels, tree in (
                (["CD4", "B", "T"], Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})),
                (["NK", "B", "NK"], Taxonomy.from_nested(["NK", "B"])),
            )
        ]
        chain = [f"{name}{ending}" for name in ("query", "first", "both", "second")]
        chain = [folder / name for name in chain]
        for source, out, key, result in (
            (chain[0], chain[1], "hdi", results[0]),
            (chain[1], chain[2], "hdi_other", results[0]),  # stays, as does its name
            (chain[2], chain[3], "hdi", results[1]),
        ):
            prepare_output(open_store(source), source=source, out=out, key_added=key)(result)
        copy = (ad.read_h5ad if ending == ".h5ad" else ad.read_zarr)(chain[3])
        results[0].to_adata(query, key_added="hdi_other")
        results[1].to_adata(query)
        for part in ("obs", "obsm", "uns"):
            assert set(getattr(copy, part)) == set(getattr(query, part))
        assert copy.obs["hdi_stop_label"].tolist() == ["NK", "B", "NK"]
        assert copy.obs["hdi_other_stop_label"].tolist() == ["CD4", "B", "T"]


def test_default_output_is_next_to_the_query():
    for query, out in [
        ("run.h5", "run.annotated.h5ad"),
        ("RUN.H5AD", "RUN.annotated.h5ad"),
        ("query.h5ad.gz", "query.annotated.h5ad"),
        ("a.b.csv", "a.b.annotated.h5ad"),
        ("filtered_feature_bc_matrix", "filtered_feature_bc_matrix.annotated.h5ad"),
        ("sample.1", "sample.1.annotated.h5ad"),
    ]:
        assert default_output(Path("data") / query, ".annotated.h5ad") == Path("data") / out


@pytest.mark.filterwarnings("ignore:.*in the next minor release:UserWarning")
def test_unwritable_tables_are_renamed_or_raise_early(tmp_path, capsys):
    query = saved(cells(3), tmp_path / "query.h5ad")
    with h5py.File(tmp_path / "query.h5ad", "r+") as file:
        query.raw = query.copy()
        ad.io.write_elem(file, "raw", query.raw)
        file["raw/var"].attrs["_index"] = "features"
        ad.io.write_elem(file["raw/var"], "features", np.arange(query.n_vars).astype(str))
        file["raw/var"].attrs["column-order"] = ["_index"]
    source, out = tmp_path / "query.h5ad", tmp_path / "copy.h5ad"
    store = open_store(source)
    labels = pd.Series(["T", "B", "T"], index=store.obs.index)
    result = Annotation.from_labels(labels, Taxonomy.from_nested(["T", "B"]))
    prepare_output(store, source=source, out=out, key_added="hdi")(result)
    assert ad.read_h5ad(out).obs["hdi_stop_label"].tolist() == ["T", "B", "T"]
    out = tmp_path / "copy.zarr"
    prepare_output(store, source=source, out=out, key_added="hdi")(result)
    assert "raw columns that .zarr cannot store are renamed: '_index'" in capsys.readouterr().err
    copy = ad.read_zarr(out)
    assert copy.obs["hdi_stop_label"].tolist() == ["T", "B", "T"]
    assert copy.raw.var["index"].tolist() == list(query.var_names)
    write_fast_store(source, tmp_path / "fast.zarr")
    assert ad.read_zarr(tmp_path / "fast.zarr").raw.var["index"].tolist() == list(query.var_names)
    saved(cells(3, donor="a", Donor="b"), source)
    with pytest.raises(UsageProblem, match=r"zarr mixes up the columns donor, Donor"):
        prepare_output(open_store(source), source=source, out=tmp_path / "c.zarr", key_added="hdi")
    query = saved(cells(3, donor="a"), source)
    with h5py.File(source, "r+") as file:
        file["uns/bytes"] = np.void(b"abc")
    with pytest.raises(UsageProblem, match=r"uns of the query cannot be stored"):
        prepare_output(open_store(source), source=source, out=tmp_path / "c.zarr", key_added="hdi")

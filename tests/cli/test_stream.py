"""Streamed labels: the same bytes after an interruption, a resumption and a merge of parts."""

import shutil

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from hdeepinsight.models import Annotator

N_CELLS = 9000


@pytest.fixture(scope="module")
def large(files, tmp_path_factory):
    """A query of three blocks."""
    small = ad.read_h5ad(files.query)
    rows = np.random.default_rng(0).integers(0, small.n_obs, N_CELLS)
    obs = pd.DataFrame(index=[f"cell {i}" for i in range(N_CELLS)])
    path = tmp_path_factory.mktemp("large") / "query.h5ad"
    ad.AnnData(sparse.csr_matrix(small.X)[rows], obs=obs, var=small.var[[]]).write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def expected(files, large, hdeepinsight):
    out = large.with_name("whole.csv")
    done = hdeepinsight("annotate", large, "-m", files.model, "-o", out, "--fast")
    assert done.exit_code == 0, done.output
    return out.read_bytes()


@pytest.fixture
def stream(files, large, hdeepinsight, tmp_path):
    def run(*options, query=large, out=tmp_path / "labels.csv", model=files.model):
        return hdeepinsight("annotate", query, "-m", model, "-o", out, "--stream", *options)

    return run


def stopped_after(n: int, error: BaseException):
    annotate_blocks = Annotator.annotate_blocks

    def stopped(*args, **kwargs):
        for k, block in enumerate(annotate_blocks(*args, **kwargs)):
            if k == n:
                raise error
            yield block

    return stopped


def test_streamed_labels_equal_unstreamed_ones(stream, expected, tmp_path):
    done = stream()
    assert done.exit_code == 0, done.output
    assert "labelled independently; the verdict is based on 2,000 cells." in done.output
    assert (tmp_path / "labels.csv").read_bytes() == expected
    names = ["labels.csv", "labels.csv.settings.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert "already exists" in stream().output
    written = (tmp_path / "labels.csv").stat().st_mtime_ns
    for part in [(), ("--part", "2/2")]:
        done = stream("--resume", *part)
        assert done.exit_code == 0, done.output
        assert "labels.csv is complete" in " ".join(done.output.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert (tmp_path / "labels.csv").stat().st_mtime_ns == written
    done = stream("--resume", "--threshold", "0.7")
    assert done.exit_code == 2
    assert "settings in options" in " ".join(done.output.split())
    assert stream("--overwrite").exit_code == 0
    (tmp_path / "labels.csv").write_text("precious")
    assert "settings in output" in " ".join(stream("--resume").output.split())


def test_resumed_run_writes_the_same_bytes(stream, expected, tmp_path, monkeypatch):
    full = OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(Annotator, "annotate_blocks", stopped_after(2, full))
        done = stream()
    assert done.exit_code == 1
    assert "No space left" in done.output
    assert not (tmp_path / "labels.csv").exists()
    blocks = sorted((tmp_path / "labels.csv.blocks").glob("*.csv"))
    assert [path.name for path in blocks] == ["000000000000.csv", "000000004096.csv"]
    assert len(pd.read_csv(blocks[1])) == 4096
    done = stream()
    assert done.exit_code == 2
    assert "already holds 2 of 3 blocks" in done.output
    written = blocks[0].stat().st_mtime_ns
    seen = []
    annotate_blocks = Annotator.annotate_blocks

    def watched(*args, **kwargs):
        for block in annotate_blocks(*args, **kwargs):
            seen.append(len(block))
            assert blocks[0].stat().st_mtime_ns == written
            yield block

    monkeypatch.setattr(Annotator, "annotate_blocks", watched)
    done = stream("--resume")
    assert done.exit_code == 0, done.output
    assert seen == [N_CELLS - 2 * 4096]
    assert (tmp_path / "labels.csv").read_bytes() == expected


def test_blocks_of_another_run_are_not_resumed(stream, files, large, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop = stopped_after(1, OSError("stopped"))
        patch.setattr(Annotator, "annotate_blocks", stop)
        assert stream().exit_code == 1
    done = stream("--resume", "--threshold", "0.7")
    assert done.exit_code == 2
    assert "differs in options" in done.output
    assert "differs in query" in stream("--resume", query=files.query).output
    assert "differs in model" in stream("--resume", model="pbmc").output
    changed = tmp_path / "changed.h5ad"  # the same cells, genes and size
    shutil.copy(large, changed)
    with h5py.File(changed, "r+") as root:
        root["X/data"][...] = root["X/data"][...][::-1]
    assert "differs in query" in stream("--resume", query=changed).output
    precious = tmp_path / "labels.csv.blocks" / "notes.txt"
    precious.write_text("mine")
    assert stream("--overwrite", "--threshold", "0.7").exit_code == 0
    assert [path.name for path in precious.parent.iterdir()] == ["notes.txt"]


def test_parts_are_merged_to_the_same_bytes(stream, expected, hdeepinsight, tmp_path):
    out = tmp_path / "labels.csv"
    assert "No blocks of" in hdeepinsight("merge", out).output
    assert stream("--part", "2/2").exit_code == 0
    done = hdeepinsight("merge", out)
    assert done.exit_code == 2
    assert "1 of 3 blocks not written yet, the first is 000000000000.csv" in done.output
    done = stream("--part", "1/2")
    assert f"hdeepinsight merge {out}" in done.output.replace("\n", "")
    assert stream("--part", "1/2", "--resume").exit_code == 0
    done = hdeepinsight("merge", out)
    assert done.exit_code == 0, done.output
    assert out.read_bytes() == expected


def test_no_output_if_the_scale_changes_midway(stream, large, tmp_path):
    path = tmp_path / "spoiled.h5ad"
    path.write_bytes(large.read_bytes())
    with h5py.File(path, "r+") as root:
        values, indptr = root["X"]["data"], root["X"]["indptr"]
        values[indptr[8200] : indptr[8203]] = 0.5
    out = tmp_path / "spoiled.csv"
    done = stream(query=path, out=out)
    assert done.exit_code == 1
    assert "looks fractional_counts" in done.output
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--adapt", "on"], "--adapt on needs all cells at once"),
        (["--vote", "auto"], "--vote needs all cells at once"),
        (["--report", "page.html"], "--report needs all cells at once"),
        (["--part", "3/2"], "such as 3/8"),
    ],
)
def test_options_that_need_all_cells_raise(stream, options, message, tmp_path):
    done = stream(*options)
    assert done.exit_code == 2
    assert message in done.output
    assert not list(tmp_path.iterdir())


def test_only_tables_can_be_streamed(stream, tmp_path):
    done = stream(out=tmp_path / "labels.h5ad")
    assert done.exit_code == 2
    assert "must end in .parquet or .csv" in done.output


def test_parquet_equals_csv(files, large, hdeepinsight, expected, tmp_path):
    pytest.importorskip("pyarrow")
    out = tmp_path / "labels.parquet"
    done = hdeepinsight("annotate", large, "-m", files.model, "-o", out)
    assert done.exit_code == 0, done.output
    (tmp_path / "whole.csv").write_bytes(expected)
    table = pd.read_parquet(out).set_index("cell")
    whole = pd.read_csv(tmp_path / "whole.csv", index_col="cell")
    assert table.index.tolist() == whole.index.tolist()
    assert table.columns.tolist() == whole.columns.tolist()
    for name in whole:
        if whole[name].dtype.kind in "fi":
            np.testing.assert_allclose(table[name], whole[name])
        else:
            assert table[name].fillna("").tolist() == whole[name].fillna("").tolist()

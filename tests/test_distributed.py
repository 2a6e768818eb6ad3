"""Queries on the workers of a dask cluster: what one process says of them, whatever is lost."""

import importlib.metadata
import os
import signal
import warnings
from pathlib import Path

import anndata as ad
import dask.array
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from typer.testing import CliRunner

import hdeepinsight as hdi
from hdeepinsight import _distributed
from hdeepinsight.cli import app
from hdeepinsight.models import Annotator

distributed = pytest.importorskip("distributed", reason="needs the extra distributed")

N_CELLS = 3 * 4096 + 100
PLAIN = {"adapt": "off", "refine": "off"}

pytestmark = [
    pytest.mark.filterwarnings("ignore::hdeepinsight.data.GeneCoverageWarning"),
    # dask closes what it opened a little late
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def query(tmp_path_factory):
    """A file of four blocks."""
    demo = hdi.datasets.demo().query
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(demo.X)[rng.integers(0, demo.n_obs, N_CELLS)]
    obs = pd.DataFrame({"well": rng.choice(list("abcd"), N_CELLS)}, dtype="category")
    obs.index = [f"cell {i}" for i in range(N_CELLS)]
    path = tmp_path_factory.mktemp("distributed") / "query.h5ad"
    ad.AnnData(counts, obs=obs, var=demo.var[[]]).write_h5ad(path, compression="gzip")
    return path


@pytest.fixture(scope="module")
def expected(query):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return hdi.annotate(query, **PLAIN)


@pytest.fixture(scope="module")
def threads():
    """A cluster of two workers in this process."""
    options = {"processes": False, "dashboard_address": ":0"}
    with distributed.LocalCluster(n_workers=2, threads_per_worker=2, **options) as cluster:
        yield cluster


@pytest.fixture
def client(threads, monkeypatch):
    monkeypatch.setattr(_distributed, "JOB_BLOCKS", 1)
    with distributed.Client(threads) as client:
        yield client


def assert_same(found, expected):
    np.testing.assert_array_equal(found.node_probabilities, expected.node_probabilities)
    pd.testing.assert_frame_equal(found.labels, expected.labels)
    pd.testing.assert_frame_equal(found.novelty, expected.novelty)
    assert found.stop_reason.tolist() == expected.stop_reason.tolist()
    assert found.verdict == expected.verdict


def test_labels_are_those_of_one_process(client, query, expected):
    found = hdi.annotate(query, adapt="off", client=client)
    assert_same(found, expected)
    (decision,) = found.decisions
    assert not decision.applied
    assert "spread over workers" in decision.reason


def test_a_vote_by_a_column_is_taken_of_the_gathered_result(client, query):
    found = hdi.annotate(query, client=client, vote="well", **PLAIN)
    here = hdi.annotate(query, vote="well", **PLAIN)
    np.testing.assert_array_equal(found.node_probabilities, here.node_probabilities)


@pytest.mark.slow
def test_a_model_in_memory_and_a_dask_array_are_sent(client, query, expected):
    cells = ad.read_h5ad(query)
    parts = [cells.X[start : start + 5000] for start in range(0, N_CELLS, 5000)]
    empty = sparse.csr_matrix((0, 0), dtype=np.float32)
    cells.X = dask.array.concatenate(
        [dask.array.from_delayed(dask.delayed(p), p.shape, p.dtype, meta=empty) for p in parts]
    )
    found = hdi.annotate(cells, hdi.hub.pull("pbmc"), client=client, **PLAIN)
    assert_same(found, expected)


def test_a_small_query_is_annotated_here(client, tmp_path):
    small = hdi.datasets.demo().query
    small.write_h5ad(tmp_path / "small.h5ad")
    found = hdi.annotate(tmp_path / "small.h5ad", client=client, **PLAIN)
    np.testing.assert_array_equal(
        found.node_probabilities, hdi.annotate(small, **PLAIN).node_probabilities
    )


def test_what_needs_all_cells_at_once_is_refused(client, query):
    for asked in ({"refine": "on"}, {"vote": True}, {"markers": "blood"}):
        with pytest.raises(ValueError, match="cannot be combined with client="):
            hdi.annotate(query, client=client, **asked)
    with pytest.raises(hdi.data.InputError, match="in the memory of this process"):
        hdi.annotate(ad.read_h5ad(query), client=client)
    with pytest.raises(TypeError, match=r"client must be a distributed\.Client"):
        hdi.annotate(query, client=3)


def test_a_scale_that_changes_is_told_as_by_one_process(client, query, tmp_path):
    path = tmp_path / "spoiled.h5ad"
    cells = ad.read_h5ad(query)
    cells.X.data[cells.X.indptr[8200] : cells.X.indptr[8203]] = 0.5
    cells.write_h5ad(path)
    with pytest.raises(hdi.data.InputError) as one:
        hdi.annotate(path, **PLAIN)
    with pytest.raises(hdi.data.InputError) as several:
        hdi.annotate(path, client=client, **PLAIN)
    assert str(several.value) == str(one.value)
    as_is = {"scale": "as_is", **PLAIN}
    found = hdi.annotate(path, client=client, **as_is)
    np.testing.assert_array_equal(
        found.node_probabilities, hdi.annotate(path, **as_is).node_probabilities
    )


def test_a_scheduler_that_is_not_there(query, monkeypatch):
    monkeypatch.setattr(_distributed, "TIMEOUT", 1)
    with pytest.raises(ConnectionError, match="The dask scheduler at tcp:"):
        hdi.annotate(query, client="tcp://127.0.0.1:9")
    done = CliRunner().invoke(
        app, ["annotate", str(query), "-o", "x.csv", "--scheduler", "tcp://a"]
    )
    assert done.exit_code == 1
    assert "The dask scheduler at tcp://a cannot be reached" in done.output


def test_a_cluster_without_workers(query, monkeypatch):
    monkeypatch.setattr(_distributed, "TIMEOUT", 1)
    options = {"processes": False, "dashboard_address": ":0"}
    with (
        distributed.LocalCluster(n_workers=0, **options) as cluster,
        distributed.Client(cluster) as client,
        pytest.raises(RuntimeError, match="had no workers for 1 seconds"),
    ):
        hdi.annotate(query, client=client)


def test_workers_with_another_version_or_none(client, query, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(_distributed, "__version__", "9.9")
        with pytest.raises(
            RuntimeError, match=rf"has hdeepinsight {hdi.__version__}, this machine has 9.9"
        ):
            hdi.annotate(query, client=client)

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(RuntimeError, match="has no hdeepinsight, this machine has"):
        _distributed.check_workers(client)


def test_a_file_that_a_worker_does_not_see(client):
    with pytest.raises(FileNotFoundError, match="does not find"):
        _distributed.check_workers(client, Path("/nowhere/query.h5ad"))


@pytest.fixture
def write(query, tmp_path, monkeypatch):
    """Run the command line in the folder of its output."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "query.h5ad").symlink_to(query)

    def run(*options):
        done = CliRunner().invoke(app, ["annotate", "query.h5ad", "-o", *map(str, options)])
        assert done.exit_code == 0, done.output
        return (tmp_path / options[0]).read_bytes()

    return run


@pytest.mark.slow
def test_blocks_that_workers_write_are_those_of_one_process(client, write, tmp_path, monkeypatch):
    expected = write("one.csv", "--stream")
    address = client.scheduler.address
    assert write("several.csv", "--scheduler", address) == expected
    tracked = _distributed.tracked

    def stopped(items, *words, **named):
        for k, item in enumerate(tracked(items, *words, **named)):
            yield item
            if k == 1:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hdeepinsight.cli._stream.tracked", stopped)
        with pytest.raises(AssertionError):
            write("again.csv", "--scheduler", address)
    there = list((tmp_path / "again.csv.blocks").glob("*.csv"))
    assert len(there) >= 2
    written = {path: path.stat().st_mtime_ns for path in there}
    kept = []
    monkeypatch.setattr(
        "hdeepinsight.cli._stream.merge_blocks",
        lambda out: kept.extend(p.stat().st_mtime_ns == t for p, t in written.items()),
    )
    with pytest.raises(FileNotFoundError):
        write("again.csv", "--scheduler", address, "--resume")
    assert all(kept)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["merge", "again.csv"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "again.csv").read_bytes() == expected


@pytest.mark.slow  # processes import torch
def test_a_worker_that_is_lost_midway_is_replaced(query, expected, monkeypatch):
    monkeypatch.setattr(_distributed, "JOB_BLOCKS", 1)
    options = {"threads_per_worker": 1, "dashboard_address": ":0"}
    with (
        distributed.LocalCluster(n_workers=2, **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert_same(hdi.annotate(query, client=cluster.scheduler_address, **PLAIN), expected)
        lost = []
        tracked = _distributed.tracked

        def killing(items, *words, **named):
            for item in tracked(items, *words, **named):
                if not lost:  # after the first job
                    lost.extend(client.run(os.getpid).values())
                    os.kill(lost[0], signal.SIGKILL)
                yield item

        monkeypatch.setattr(_distributed, "tracked", killing)
        assert_same(hdi.annotate(query, client=client, **PLAIN), expected)
        assert len(lost) == 2
        assert lost[0] not in client.run(os.getpid, on_error="ignore").values()


def test_an_annotator_of_a_model_annotates_as_it_does():
    model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query
    light = Annotator.of(model)
    np.testing.assert_array_equal(
        light.annotate(query).node_probabilities, model.annotate(query).node_probabilities
    )

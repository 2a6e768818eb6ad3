"""Blocks of cells: parallel processing, each thread with one torch thread, and memory."""

import threading
import tracemalloc

import anndata as ad
import numpy as np
import pytest
import torch

import hdeepinsight as hdi
from hdeepinsight.models._base._reader import in_order


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_items_come_in_order_from_several_threads(three_threads):
    started = threading.Barrier(2, timeout=10)

    def job(n):
        started.wait()
        return threading.get_ident(), torch.get_num_threads()

    found = list(in_order(job, range(6), n_workers=2))
    assert [item for item, _ in found] == list(range(6))
    assert len({thread for _, (thread, _) in found}) == 2
    assert {n_threads for _, (_, n_threads) in found} == {1}
    assert torch.get_num_threads() == 3


def test_the_number_of_threads_is_restored(three_threads):
    first, second = (in_order(float, range(5), n_workers=2) for _ in range(2))
    next(first), next(second)
    first.close()
    assert torch.get_num_threads() == 1
    second.close()
    assert torch.get_num_threads() == 3


def test_an_error_of_a_worker_reaches_the_caller(three_threads):
    def job(n):
        if n == 2:
            raise ValueError("block 2")
        return n

    with pytest.raises(ValueError, match="block 2"):
        list(in_order(job, range(1000), n_workers=2))
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("n_workers", [1, 2])
def test_no_items_give_no_results(n_workers):
    assert list(in_order(np.sum, [], n_workers)) == []


@pytest.mark.filterwarnings("ignore::hdeepinsight.data.GeneCoverageWarning")
def test_memory_of_blocks_does_not_grow_with_the_matrix(tmp_path):
    few, model = hdi.datasets.demo().query, hdi.hub.load_annotator("pbmc")

    def measure(n_cells):
        rows = np.random.default_rng(0).integers(few.n_obs, size=n_cells)
        cells = ad.AnnData(few.X[rows].astype(np.float32), var=few.var[[]])
        cells.write_h5ad(tmp_path / "cells.h5ad")
        tracemalloc.start()
        assert sum(map(len, model.annotate_blocks(tmp_path / "cells.h5ad"))) == n_cells
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return cells.X.data.nbytes + cells.X.indices.nbytes, peak

    (small, least), (large, most) = measure(8_000), measure(24_000)
    assert most - least < (large - small) / 5

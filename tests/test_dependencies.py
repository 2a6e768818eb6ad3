"""The bounds in ``pyproject.toml`` keep a clean install working at the sizes that people have."""

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import torch
import torchvision

N_NEIGHBORS = 15


@pytest.mark.slow
@pytest.mark.parametrize("n_cells", [10_000, 100_000])
def test_neighbours_work_past_the_size_where_scanpy_turns_to_pynndescent(n_cells):
    coordinates = np.random.default_rng(0).normal(size=(n_cells, 5)).astype(np.float32)
    adata = ad.AnnData(X=np.zeros((n_cells, 1), dtype=np.float32), obsm={"X_pca": coordinates})

    sc.pp.neighbors(adata, n_neighbors=N_NEIGHBORS, use_rep="X_pca")

    found = adata.obsp["distances"]
    recalled = [
        np.isin(exact_neighbours(coordinates, cell), found[cell].indices).mean()
        for cell in range(100)
    ]
    assert np.mean(recalled) > 0.9


def exact_neighbours(coordinates, cell):
    """Nearest other cells by brute force, one fewer than scanpy counts (it counts the cell)."""
    distance = np.linalg.norm(coordinates - coordinates[cell], axis=1)
    return np.argsort(distance)[1:N_NEIGHBORS]


def test_torchvision_was_built_for_this_torch():
    # A mismatched pair may import, and fail only at the first compiled operator.
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.9], [2.0, 2.0, 3.0, 3.0]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), iou_threshold=0.5)
    assert kept.tolist() == [0, 2]

"""Training plan of SCE2TM, with neighbours of each cell in two views."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scvi import REGISTRY_KEYS
from torch import Tensor

from hdeepinsight.models._base._plan import OneCyclePlan
from hdeepinsight.models._base._unlabeled import SIZE_FACTOR
from hdeepinsight.models.sce2tm._module import EMBEDDING, NEIGHBOR, POSITION


class NeighborPlan(OneCyclePlan):
    """Training plan with a random neighbour of each cell in expression and in the embedding.

    Parameters
    ----------
    module
        Module to train.
    arrays
        Counts, embedding and optional size factors of all cells, by their names in mini-batches.
    lists
        Neighbours of each cell in expression and in the embedding, each of shape ``(n_cells, k)``,
        padded with -1; see :func:`hdeepinsight.graph.mutual_neighbors`. By default no neighbours
        are used.
    **kwargs
        Passed to :class:`~hdeepinsight.models.OneCyclePlan`.
    """

    def __init__(
        self,
        module: Any,
        arrays: dict[str, Any] | None = None,
        lists: tuple[np.ndarray, np.ndarray] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(module, **kwargs)
        self.arrays, self.lists = arrays or {}, lists

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the loss of a mini-batch with its neighbours."""
        if self.lists is not None:
            cells = batch[POSITION].long().ravel().cpu().numpy()
            near, near_embedding = (draw_from(lists[cells]) for lists in self.lists)
            rows = {REGISTRY_KEYS.X_KEY: near, SIZE_FACTOR: near, EMBEDDING: near_embedding}
            for name, array in self.arrays.items():
                values: Any = array[rows[name]]
                values = values.toarray() if isinstance(values, csr_matrix) else values
                batch[name + NEIGHBOR] = torch.from_numpy(values).to(self.device, torch.float32)
        loss: Tensor = super().training_step(batch, batch_idx)
        return loss


def draw_from(lists: np.ndarray) -> np.ndarray:
    """Draw one entry of each list uniformly, ignoring entries of -1."""
    n_listed = (lists >= 0).sum(axis=1)
    place = (torch.rand(len(lists)).numpy() * n_listed).astype(np.int64)
    found: np.ndarray = lists[np.arange(len(lists)), np.minimum(place, n_listed - 1)]
    return found

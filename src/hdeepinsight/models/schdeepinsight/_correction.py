"""Batch-corrected expression on its way into the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from hdeepinsight.data import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hdeepinsight.data import AlignedQuery
    from hdeepinsight.nn import CountNormalizer
    from hdeepinsight.pp import StacasResult

_CELLS = 2048


@dataclass(frozen=True, eq=False, repr=False)
class ModelNormalizer:
    """Log values of counts, exactly as a model computes them before its per-gene scale.

    Parameters
    ----------
    genes
        Genes of the model, in its order.
    module
        The normalisation that was fitted on the reference.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from hdeepinsight.nn import CountNormalizer
    >>> counts = sp.csr_matrix([[8.0, 2.0], [4.0, 6.0]] * 50)
    >>> normalizer = ModelNormalizer(("CD3D", "NKG7"), CountNormalizer(2).fit(counts))
    >>> normalizer.log_normalize(counts[:1], np.ones(2)).toarray().round(3)
    array([[2.197, 1.099]], dtype=float32)
    """

    genes: tuple[str, ...]
    module: CountNormalizer

    def __repr__(self) -> str:
        target = float(self.module.target_sum)
        return f"ModelNormalizer({len(self.genes):,} genes, log1p of counts per {target:,.0f})"

    def log_normalize(self, counts: sp.csr_matrix, measured: np.ndarray) -> sp.csr_matrix:
        """Log values, CSR float32, shape ``(n_cells, n_genes)``.

        Parameters
        ----------
        counts
            Raw counts in the order of ``genes``, CSR, shape ``(n_cells, n_genes)``.
        measured
            Whether each gene was measured, shape ``(n_genes,)``.
        """
        device = self.module.scale.device
        mask = torch.as_tensor(np.asarray(measured, dtype=np.float32), device=device)
        empty = sp.csr_matrix((0, len(self.genes)), dtype=np.float32)
        parts = [empty]
        for start in range(0, counts.shape[0], _CELLS):
            block = torch.from_numpy(counts[start : start + _CELLS].toarray()).to(mask)
            parts.append(sp.csr_matrix(self.module.log_normalize(block, mask).cpu().numpy()))
        return sp.vstack(parts, format="csr")

    def is_like(self, other: object) -> bool:
        """Whether another normalizer gives the same log values, whatever the counts."""
        if not isinstance(other, ModelNormalizer) or self.genes != other.genes:
            return False
        mine, theirs = self.module, other.module
        return all(
            torch.equal(getattr(mine, name).cpu(), getattr(theirs, name).cpu())
            for name in ("library_gene", "mean_share", "target_sum")
        )


def shift_of(
    corrected: StacasResult, normalizer: ModelNormalizer, opened: AlignedQuery
) -> Callable[[slice], np.ndarray]:
    """Return what gives the shift that a batch correction makes, ``(n_cells, n_genes)``.

    Raises
    ------
    InputError
        If it was made with another normalisation or for other cells.
    """
    if not normalizer.is_like(corrected.datasets[0].reading.normalizer):
        raise InputError(
            f"{corrected!r} was not computed with the normalisation of this model.",
            "A correction must be one of the log values that the model itself computes.",
            "Call hdi.pp.stacas(..., normalizer=model.normalizer).",
        )
    names = opened.obs_names
    owners = [name for name in corrected.queries if corrected.cells_of(name).equals(names)]
    if not owners:
        raise InputError(
            f"The correction holds {', '.join(corrected.queries)}, not these {len(names):,} cells.",
            "It must be of the query itself, with its cells in the same order.",
            "Pass that query, or correct these cells by result.transform.",
        )
    columns = pd.Index(normalizer.genes).get_indexer(list(corrected.genes))

    def shift(rows: slice) -> np.ndarray:
        change = corrected.correction(rows, dataset=owners[0])
        shifted = np.zeros((len(change), len(normalizer.genes)), dtype=np.float32)
        shifted[:, columns] = change
        return shifted

    return shift

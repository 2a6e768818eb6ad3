"""Genes of a query in the order of a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from hdeepinsight.data._matrix import Block
from hdeepinsight.data._names import examples

__all__ = ["GeneAlignment", "GeneReport"]


@dataclass(frozen=True)
class GeneReport:
    """How the genes of a query match those of a model.

    Parameters
    ----------
    n_model
        Genes of the model.
    n_query
        Columns of the query.
    n_measured
        Model genes that the query has.
    coverage
        Share of the reference's expression that these genes carry, in ``[0, 1]``; the share of
        genes if no weights were given.
    missing
        Model genes that the query lacks, in model order.
    duplicated
        Model genes that several columns of the query carry; their counts are summed.
    n_extra
        Columns of the query that the model does not use.
    column
        Column of ``var`` that the names came from; ``None`` for ``var_names``.
    messages
        Sentences about what was repaired and what needs care.

    Examples
    --------
    >>> from hdeepinsight.data import align_genes
    >>> print(align_genes(["NKG7", "CD3D", "ACTB"], ["CD3D", "MS4A1", "NKG7"]).report)
    2 of 3 model genes measured (coverage 66.7%), 1 of 3 columns unused
      missing   MS4A1
    """

    n_model: int
    n_query: int
    n_measured: int
    coverage: float
    missing: tuple[str, ...] = ()
    duplicated: tuple[str, ...] = ()
    n_extra: int = 0
    column: str | None = None
    messages: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{self.n_measured:,} of {self.n_model:,} model genes measured "
            f"(coverage {self.coverage:.1%}), {self.n_extra:,} of {self.n_query:,} columns unused"
        ]
        if self.missing:
            lines.append(f"  missing   {examples(self.missing, 5)}")
        lines += [f"  note      {text}" for text in self.messages]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only (numbers, strings, lists), as JSON takes them.

        Examples
        --------
        >>> from hdeepinsight.data import align_genes
        >>> align_genes(["NKG7", "CD3D"], ["CD3D", "MS4A1", "NKG7"]).report.to_dict()["missing"]
        ['MS4A1']
        """
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


@dataclass(frozen=True, eq=False)
class GeneAlignment:
    """Map from the columns of a query to the genes of a model.

    Parameters
    ----------
    source
        First column of every model gene, int64, shape ``(n_genes,)``; -1 where it is missing.
    target
        Model gene of every column, int64, shape ``(n_vars,)``; -1 where the model does not use it.
    measured
        Whether the query has the gene, bool, shape ``(n_genes,)``.
    report
        The same in words.

    Examples
    --------
    >>> from hdeepinsight.data import align_genes
    >>> alignment = align_genes(["NKG7", "CD3D", "ACTB"], ["CD3D", "MS4A1", "NKG7"])
    >>> alignment.target.tolist(), alignment.measured.tolist()
    ([2, 0, -1], [True, False, True])
    """

    source: np.ndarray[Any, np.dtype[np.int64]]
    target: np.ndarray[Any, np.dtype[np.int64]]
    measured: np.ndarray[Any, np.dtype[np.bool_]]
    report: GeneReport

    def __post_init__(self) -> None:
        for array in (self.source, self.target, self.measured):
            array.setflags(write=False)

    def apply(self, block: Block) -> sp.csr_matrix:
        """Bring counts into model order; genes that the query lacks are 0.

        Parameters
        ----------
        block
            Counts, shape ``(n_cells, n_vars)``, dense or CSR. Not changed.

        Returns
        -------
        CSR float32 with sorted indices, shape ``(n_cells, n_genes)``. Columns that carry the same
        model gene are summed.

        Examples
        --------
        >>> import numpy as np
        >>> from hdeepinsight.data import align_genes
        >>> alignment = align_genes(["CD3D", "NKG7", "ACTB"], ["NKG7", "CD3D"])
        >>> alignment.apply(np.array([[1, 2, 3]])).toarray()
        array([[2., 1.]], dtype=float32)
        """
        if block.shape[1] != len(self.target):
            msg = (
                f"The block has {block.shape[1]} columns. This alignment was made for "
                f"{len(self.target)}. Align the genes of this matrix first."
            )
            raise ValueError(msg)
        target = self.target.astype(np.int32)
        if not sp.issparse(block):
            used = np.flatnonzero(target >= 0)
            block, target = sp.csr_matrix(block[:, used]), target[used]
        return _map_columns(block, target, len(self.source))


def _map_columns(
    rows: sp.csr_matrix, target: np.ndarray[Any, np.dtype[np.int32]], n_genes: int
) -> sp.csr_matrix:
    """Rename columns; much faster than a sparse product or fancy indexing with a sort."""
    renamed = target[rows.indices]
    kept = np.flatnonzero(renamed >= 0)
    indptr = np.searchsorted(kept, rows.indptr)
    stored = (rows.data[kept].astype(np.float32, copy=False), renamed[kept], indptr)
    result = sp.csr_matrix(stored, shape=(rows.shape[0], n_genes))
    if not result.has_sorted_indices:
        result = result.tocsc().tocsr()  # two bucket sorts: linear in the stored values
    result.sum_duplicates()
    if np.count_nonzero(result.data) < len(result.data):
        result.eliminate_zeros()
    return result

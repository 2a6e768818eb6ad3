"""What `stacas` returns: corrected values, read in chunks, and what they rest on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hdeepinsight.data import DataLike, InputError, examples
from hdeepinsight.pp._stacas._config import StacasConfig
from hdeepinsight.pp._stacas._datasets import Dataset, open_dataset
from hdeepinsight.pp._stacas._plan import Outcome
from hdeepinsight.pp._stacas._report import StacasReport
from hdeepinsight.pp._stacas._steps import Step, composed_shift
from hdeepinsight.pp._stacas._support import Support
from hdeepinsight.pp._stacas._tables import anchor_table, cell_table, dataset_table
from hdeepinsight.pp._stacas._tree import GuideTree

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["StacasResult"]

Ints = NDArray[np.int64]
CHUNK_SIZE = 10_000
_AT_ONCE = 1000


@dataclass(frozen=True, eq=False, repr=False)
class StacasResult:
    """Corrected values of one or more datasets; made by `stacas`.

    Nothing is written to the datasets, and corrected values are computed when they are asked for.

    Parameters
    ----------
    datasets
        The datasets, references first.
    genes
        Genes that are corrected.
    features
        Genes that anchors were looked for with.
    config
        Settings.
    outcome
        Anchors and steps, with numbers instead of names.
    support
        Anchor cells.
    queries
        Names of the datasets that may move.
    n_shared
        Genes that all datasets measured.

    Examples
    --------
    >>> import anndata as ad
    >>> import hdeepinsight as hdi
    >>> import numpy as np
    >>> import pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> var = pd.DataFrame(index=[f"GENE{i}" for i in range(40)])
    >>> ref, query = (ad.AnnData(rng.poisson(2.0, (150, 40)) * 1.0, var=var) for _ in range(2))
    >>> result = hdi.pp.stacas(ref, query)
    >>> result
    StacasResult(reference (150), query (150); ... anchors, 40 genes)
    """

    datasets: tuple[Dataset, ...]
    genes: tuple[str, ...]
    features: tuple[str, ...]
    config: StacasConfig
    outcome: Outcome
    support: Support
    queries: tuple[str, ...]
    n_shared: int

    def __repr__(self) -> str:
        anchors = int((self.outcome.anchors["score"] > 0).sum())
        names = ", ".join(f"{one.name} ({one.n_obs:,})" for one in self.datasets)
        return f"StacasResult({names}; {anchors:,} anchors, {len(self.genes):,} genes)"

    @cached_property
    def starts(self) -> Ints:
        """Number of the first cell of each dataset, and of all cells."""
        return np.cumsum([0, *(one.n_obs for one in self.datasets)])

    def cells_of(self, dataset: str | None = None) -> pd.Index:
        """Names of the cells of a dataset; of the only query by default.

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import numpy as np
        >>> import pandas as pd
        >>> rng = np.random.default_rng(0)
        >>> var = pd.DataFrame(index=[f"GENE{i}" for i in range(40)])
        >>> ref, query = (ad.AnnData(rng.poisson(2.0, (150, 40)) * 1.0, var=var) for _ in range(2))
        >>> hdi.pp.stacas(ref, query).cells_of().equals(query.obs_names)
        True
        """
        return self.datasets[self._index(dataset)].obs_names

    @cached_property
    def anchors(self) -> pd.DataFrame:
        """Anchors that were used, with names of datasets and cells.

        Columns ``dataset_1``, ``cell_1``, ``dataset_2``, ``cell_2``, ``distance``,
        ``neighborhood_score``, ``score``, ``consistent``.
        """
        return anchor_table(self.outcome.anchors, self.datasets, self.starts)

    @property
    def tree(self) -> GuideTree | None:
        """Order in which datasets were joined; ``None`` where a reference was fixed."""
        return self.outcome.tree

    @cached_property
    def report(self) -> StacasReport:
        """What was done to every cell and dataset; computes all corrections once."""
        cells = [
            cell_table(self, self._index(name), self._shift_lengths(name)) for name in self.queries
        ]
        return StacasReport(pd.concat(cells), dataset_table(self))

    def correction(
        self, rows: slice | None = None, *, dataset: str | None = None
    ) -> NDArray[np.float64]:
        """Compute what is added to the log values of some cells.

        Parameters
        ----------
        rows
            Consecutive cells of the dataset; all by default.
        dataset
            Name of the dataset; the only query by default.

        Returns
        -------
        Array of shape ``(n_cells, n_genes)``, genes as in ``genes``.

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import numpy as np
        >>> import pandas as pd
        >>> rng = np.random.default_rng(0)
        >>> var = pd.DataFrame(index=[f"GENE{i}" for i in range(40)])
        >>> ref, query = (ad.AnnData(rng.poisson(2.0, (150, 40)) * 1.0, var=var) for _ in range(2))
        >>> hdi.pp.stacas(ref, query).correction(slice(0, 3)).shape
        (3, 40)
        """
        index = self._index(dataset)
        start, stop, _ = (rows or slice(None)).indices(self.datasets[index].n_obs)
        change = np.zeros((max(stop - start, 0), len(self.genes)))
        for first in range(start, stop, _AT_ONCE):
            here = np.arange(first, min(first + _AT_ONCE, stop))
            shift = composed_shift(
                self.outcome.steps, here + self.starts[index], int(self.starts[-1])
            )
            change[here - start] = self.support.combine(shift)
        return change

    def corrected(
        self, dataset: str | None = None, *, chunk_size: int = CHUNK_SIZE
    ) -> Iterator[tuple[pd.Index, NDArray[np.float32]]]:
        """Read corrected log values in chunks.

        Parameters
        ----------
        dataset
            Name of the dataset; the only query by default. A fixed reference comes back unchanged.
        chunk_size
            Cells in a chunk, which is dense; what a cell gets does not depend on it.

        Yields
        ------
        Names of the cells, and their values, float32, shape ``(n_cells, n_genes)``.

        Raises
        ------
        InputError
            If the values of the dataset changed since the correction was computed.

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import numpy as np
        >>> import pandas as pd
        >>> rng = np.random.default_rng(0)
        >>> var = pd.DataFrame(index=[f"GENE{i}" for i in range(40)])
        >>> ref, query = (ad.AnnData(rng.poisson(2.0, (150, 40)) * 1.0, var=var) for _ in range(2))
        >>> result = hdi.pp.stacas(ref, query)
        >>> [values.shape for names, values in result.corrected(chunk_size=100)]
        [(100, 40), (50, 40)]
        """
        if chunk_size < 1:
            msg = f"chunk_size is {chunk_size}. Valid are whole numbers from 1 up. Pass 10_000."
            raise ValueError(msg)
        one = self.datasets[self._index(dataset)]
        for rows, values in one.blocks(self.genes, chunk_size):
            total = values.toarray() + self.correction(rows, dataset=one.name)
            yield one.obs_names[rows], total.astype(np.float32)

    def to_adata(self, adata: AnnData, layer: str = "stacas", dataset: str | None = None) -> None:
        """Write corrected values to an object; the only call here that writes.

        Parameters
        ----------
        adata
            Object with the cells of a dataset, in its order. ``layers[layer]`` gets log values,
            float32, shape ``(n_obs, n_vars)``, NaN for genes that were not corrected, which
            ``var[f"{layer}_corrected"]`` tells apart.
        layer
            Name of the layer; one that is there is replaced.
        dataset
            Name of the dataset; by default the one whose cells these are.

        Raises
        ------
        InputError
            If no dataset, or more than one, has these cells.

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import numpy as np
        >>> import pandas as pd
        >>> rng = np.random.default_rng(0)
        >>> var = pd.DataFrame(index=[f"GENE{i}" for i in range(40)])
        >>> ref, query = (ad.AnnData(rng.poisson(2.0, (150, 40)) * 1.0, var=var) for _ in range(2))
        >>> hdi.pp.stacas(ref, query).to_adata(query, dataset="query")
        >>> query.layers["stacas"].shape, int(query.var["stacas_corrected"].sum())
        ((150, 40), 40)
        """
        name = dataset or self._owner(adata.obs_names)
        self._require_cells(name, adata.obs_names)
        one = self.datasets[self._index(name)]
        place = pd.Index(self.genes)
        columns = place.get_indexer(pd.Index(one.genes)[one.alignment.target])
        columns[one.alignment.target < 0] = -1
        known = columns >= 0
        written = np.full(adata.shape, np.nan, dtype=np.float32)
        start = 0
        for names, values in self.corrected(name):
            written[start : start + len(names), known] = values[:, columns[known]]
            start += len(names)
        adata.layers[layer] = written
        adata.var[f"{layer}_corrected"] = known

    def transform(self, adata_new: DataLike, *, dataset: str | None = None) -> StacasResult:
        """Correct later cells of the same batch by the anchors that were found.

        Parameters
        ----------
        adata_new
            Cells of the batch of a query, with all corrected genes, stored as the query was.
        dataset
            Name of that query; the only one by default.

        Returns
        -------
        A result whose only query holds these cells. Earlier results stay as they are.

        Raises
        ------
        InputError
            If genes are missing, or the query was left as it is.
        ValueError
            If the result has no fixed reference.

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import numpy as np
        >>> import pandas as pd
        >>> rng = np.random.default_rng(0)
        >>> var = pd.DataFrame(index=[f"GENE{i}" for i in range(40)])
        >>> ref, query = (ad.AnnData(rng.poisson(2.0, (150, 40)) * 1.0, var=var) for _ in range(2))
        >>> later = ad.AnnData(rng.poisson(2.0, (10, 40)) * 1.0, var=var)
        >>> hdi.pp.stacas(ref, query).transform(later).correction().shape
        (10, 40)
        """
        step = self._step_of(dataset)
        reading = self.datasets[0].reading
        name = f"new_{len(self.datasets)}"  # the number keeps names apart
        new = open_dataset(adata_new, name, reading, like=self.genes)
        self._require_genes(new)
        weights = step.weigher(new.gather(self.features))
        cells = self.starts[-1] + np.arange(new.n_obs)
        before = self.outcome.steps[: len(self.outcome.steps) - len(self.outcome.step_of)]
        moved = replace(step, cells=cells, operator=weights)
        index = len(self.datasets)
        outcome = replace(
            self.outcome,
            steps=(*before, moved),
            step_of={index: len(before)},
            left={},
        )
        return replace(self, datasets=(*self.datasets, new), outcome=outcome, queries=(name,))

    def _shift_lengths(self, name: str) -> NDArray[np.float64]:
        n_obs = self.datasets[self._index(name)].n_obs
        blocks = [slice(i, min(i + _AT_ONCE, n_obs)) for i in range(0, n_obs, _AT_ONCE)]
        lengths = [np.linalg.norm(self.correction(b, dataset=name), axis=1) for b in blocks]
        return np.concatenate([np.zeros(0), *lengths])

    def _index(self, dataset: str | None) -> int:
        names = [one.name for one in self.datasets]
        if dataset is None and len(self.queries) == 1:
            return names.index(self.queries[0])
        if dataset is None or dataset not in names:
            found = "No dataset was named" if dataset is None else f"No dataset is {dataset!r}"
            raise ValueError(f"{found}. Valid are {names}. Pass one of them as `dataset`.")
        return names.index(dataset)

    def _owner(self, obs_names: pd.Index) -> str:
        owners = [one.name for one in self.datasets if one.obs_names.equals(obs_names)]
        if len(owners) != 1:
            raise InputError(
                f"{len(owners)} datasets of this result have the cells of this object.",
                f"Valid is an object with the cells of one of {[d.name for d in self.datasets]}.",
                "Pass the object that was corrected, or name the dataset.",
            )
        return owners[0]

    def _require_cells(self, name: str, obs_names: pd.Index) -> None:
        one = self.datasets[self._index(name)]
        if not one.obs_names.equals(obs_names):
            raise InputError(
                f"The {len(obs_names):,} cells given are not the {one.n_obs:,} of {name!r}.",
                "Valid are the same cells in the same order.",
                "Pass the object that was corrected, or use transform for further cells.",
            )

    def _require_genes(self, new: Dataset) -> None:
        there = {gene for gene, m in zip(new.genes, new.alignment.measured, strict=True) if m}
        missing = [
            gene for gene in dict.fromkeys((*self.genes, *self.features)) if gene not in there
        ]
        if missing:
            raise InputError(
                f"The new cells lack {len(missing):,} genes: {examples(missing)}.",
                f"Valid are cells with all {len(self.genes):,} genes of the correction.",
                "Pass cells of the same batch, measured alike.",
            )

    def _step_of(self, dataset: str | None) -> Step:
        index = self._index(dataset)
        if index not in self.outcome.step_of:
            reason = self.outcome.left.get(index, "it has no step of its own")
            raise ValueError(
                f"{self.datasets[index].name!r} has no anchors to take weights from: {reason}. "
                "Valid is a query that mode='project' moved. Name another dataset."
            )
        return self.outcome.steps[self.outcome.step_of[index]]

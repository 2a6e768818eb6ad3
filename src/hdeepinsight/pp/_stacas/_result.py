"""What `stacas` returns: corrected values, read in chunks, and what they rest on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from hdeepinsight._errors import check_integer, invalid
from hdeepinsight.data import DataLike, InputError, examples
from hdeepinsight.pp._stacas._anchors import Ints, StacasConfig
from hdeepinsight.pp._stacas._correction import GuideTree, Outcome, composed_shift
from hdeepinsight.pp._stacas._datasets import OpenedDataset, open_dataset

if TYPE_CHECKING:
    from anndata import AnnData

    from hdeepinsight.nn import ModelNormalizer

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
    anchor_cells
        Numbers of the anchor cells, which all corrections are made of, among all cells.
    anchor_values
        Their log values, CSR, shape ``(n_anchor_cells, n_genes)``.
    queries
        Names of the datasets that may move.

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

    datasets: tuple[OpenedDataset, ...]
    genes: tuple[str, ...]
    features: tuple[str, ...]
    config: StacasConfig
    outcome: Outcome
    anchor_cells: Ints
    anchor_values: sp.csr_matrix
    queries: tuple[str, ...]

    def __repr__(self) -> str:
        names = ", ".join(f"{one.name} ({one.source.n_obs:,})" for one in self.datasets)
        return f"StacasResult({names}; {len(self._used):,} anchors, {len(self.genes):,} genes)"

    @cached_property
    def starts(self) -> Ints:
        """Number of the first cell of each dataset, and of all cells."""
        return np.cumsum([0, *(one.source.n_obs for one in self.datasets)])

    def cells_of(self, dataset: str | None = None) -> pd.Index:
        """Return the names of the cells of a dataset; of the only query by default.

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
        return self.datasets[self._index(dataset)].source.obs_names

    @cached_property
    def anchors(self) -> pd.DataFrame:
        """Anchors that were used, with names of datasets and cells.

        Columns ``dataset_1``, ``cell_1``, ``dataset_2``, ``cell_2``, ``distance``,
        ``neighborhood_score``, ``score``, ``consistent``.
        """
        used = self._used
        columns: dict[str, object] = {}
        names = np.concatenate(
            [one.source.obs_names.to_numpy(dtype=object) for one in self.datasets]
        )
        called = np.array([one.name for one in self.datasets], dtype=object)
        called = np.repeat(called, np.diff(self.starts))
        for side in ("1", "2"):
            cells = used[f"cell_{side}"].to_numpy()
            columns |= {f"dataset_{side}": called[cells], f"cell_{side}": names[cells]}
        kept = ["distance", "neighborhood_score", "score", "consistent"]
        return pd.DataFrame(columns).join(used[kept])

    @cached_property
    def _used(self) -> pd.DataFrame:
        """Anchors in use, with numbers."""
        anchors = self.outcome.anchors
        return anchors[anchors["score"] > 0].reset_index(drop=True)

    @property
    def tree(self) -> GuideTree | None:
        """Order in which datasets were joined; ``None`` where a reference was fixed."""
        return self.outcome.tree

    @cached_property
    def report(self) -> StacasReport:
        """What was done to every cell and dataset; computes all corrections once."""
        found, used, starts = self.outcome.anchors, self._used, self.starts
        n_anchors = np.bincount(
            used[["cell_1", "cell_2"]].to_numpy().ravel(), minlength=int(starts[-1])
        )
        nearest, effective = np.full((2, int(starts[-1])), np.nan)
        for correction in self.outcome.corrections:
            nearest[correction.cells] = correction.weights.nearest
            effective[correction.cells] = correction.weights.n_effective
        cells, datasets = [], {}
        for index, one in enumerate(self.datasets):
            own, n_cells = slice(starts[index], starts[index + 1]), one.source.n_obs
            here = found[(found[["dataset_1", "dataset_2"]] == index).any(axis=1)]
            n_genes = int(one.alignment.measured.sum())
            skipped = self.outcome.skipped.get(index, "")
            datasets[one.name] = {
                "n_cells": n_cells,
                "n_genes": n_genes,
                "genes_lost": n_genes - len(self.genes),
                "n_anchors": int((here["score"] > 0).sum()),
                "share_anchored": float((n_anchors[own] > 0).mean()),
                "share_inconsistent": float((~here["consistent"]).sum() / max(len(here), 1)),
                "flag": skipped,
            }
            if one.name not in self.queries:
                continue
            unmoved = np.where(np.isnan(nearest[own]), "empty", "no weight")
            blocks = [slice(i, i + _AT_ONCE) for i in range(0, n_cells, _AT_ONCE)]
            lengths = [np.linalg.norm(self.correction(b, dataset=one.name), axis=1) for b in blocks]
            columns = {
                "dataset": one.name,
                "n_anchors": n_anchors[own],
                "nearest_anchor": nearest[own],
                "effective_anchors": effective[own],
                "shift": np.concatenate([np.zeros(0), *lengths]),
                "flag": skipped or np.where(effective[own] == 0, unmoved, ""),
            }
            table = pd.DataFrame(columns, index=one.source.obs_names)
            cells.append(table.astype({"flag": object}))
        return StacasReport(pd.concat(cells), pd.DataFrame.from_dict(datasets, orient="index"))

    def correction(
        self, rows: slice | Ints | None = None, *, dataset: str | None = None
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
        cells = np.arange(self.datasets[index].source.n_obs)[slice(None) if rows is None else rows]
        change = np.zeros((len(cells), len(self.genes)))
        for first in range(0, len(cells), _AT_ONCE):
            here = slice(first, first + _AT_ONCE)
            shift = composed_shift(
                self.outcome.corrections, cells[here] + self.starts[index], int(self.starts[-1])
            )
            # Added and taken away apart, so that equal values cancel to 0.
            weights = shift[:, self.anchor_cells]
            change[here] += (weights.maximum(0) @ self.anchor_values).toarray()
            change[here] -= ((-weights).maximum(0) @ self.anchor_values).toarray()
        return change

    def shift_for(
        self, normalizer: ModelNormalizer, obs_names: pd.Index
    ) -> Callable[[Ints], NDArray[np.float32]]:
        """Return what gives the shift of consecutive cells of a query, in the genes of a model.

        Parameters
        ----------
        normalizer
            Normalisation of the model, by which the correction has to be computed.
        obs_names
            Names of the cells of the query, which has to be one of this result.

        Returns
        -------
        A function from a slice of cells to an array of shape ``(n_cells, n_genes)``, with zeros
        for genes that are not corrected.

        Raises
        ------
        InputError
            If it was made with another normalisation or for other cells.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> import numpy as np
        >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query
        >>> parts = (query[::2].copy(), query[1::2].copy())
        >>> result = hdi.pp.stacas(*parts, normalizer=model.normalizer)
        >>> result.shift_for(model.normalizer, parts[1].obs_names)(slice(0, 3)).shape
        (3, 2048)
        """
        if not normalizer.is_like(self.datasets[0].normalizer):
            raise InputError(
                f"{self!r} was not computed with the normalisation of this model.",
                "A correction must be one of the log values that the model itself computes.",
                "Call hdi.pp.stacas(..., normalizer=model.normalizer).",
            )
        owners = [name for name in self.queries if self.cells_of(name).equals(obs_names)]
        if not owners:
            raise InputError(
                f"The correction holds {', '.join(self.queries)}, not these {len(obs_names):,} "
                "cells.",
                "It must be of the query itself, with its cells in the same order.",
                "Pass that query, or correct these cells by result.transform.",
            )
        columns = pd.Index(normalizer.genes).get_indexer(list(self.genes))

        def shift(rows: Ints) -> NDArray[np.float32]:
            change = self.correction(rows, dataset=owners[0])
            shifted = np.zeros((len(change), len(normalizer.genes)), dtype=np.float32)
            shifted[:, columns] = change
            return shifted

        return shift

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
        check_integer("chunk_size", chunk_size, hint="Omit it to use the default.")
        one = self.datasets[self._index(dataset)]
        for rows, values in one.blocks(self.genes, chunk_size):
            total = values.toarray() + self.correction(rows, dataset=one.name)
            yield one.source.obs_names[rows], total.astype(np.float32)

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
        asked = self.datasets if dataset is None else [self.datasets[self._index(dataset)]]
        owners = [one for one in asked if one.source.obs_names.equals(adata.obs_names)]
        if len(owners) != 1:
            raise InputError(
                f"{len(owners)} datasets of {[one.name for one in asked]} have the "
                f"{adata.n_obs:,} cells of this object.",
                "One must have the same cells in the same order.",
                "Pass the object that was corrected, name the dataset if several have these cells, "
                "or use transform for further cells.",
            )
        one = owners[0]
        columns = pd.Index(self.genes).get_indexer(pd.Index(one.genes)[one.alignment.target])
        known = (columns >= 0) & (one.alignment.target >= 0)
        written = np.full(adata.shape, np.nan, dtype=np.float32)
        values = np.concatenate([values for _, values in self.corrected(one.name)])
        written[:, known] = values[:, columns[known]]
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
        index = self._index(dataset)
        if index not in self.outcome.correction_of:
            reason = self.outcome.skipped.get(index, "it has no correction of its own")
            raise ValueError(
                f"{self.datasets[index].name!r} has no anchors to take weights from: {reason}. It "
                "must be a query that mode='project' moved. Name another dataset."
            )
        correction = self.outcome.corrections[self.outcome.correction_of[index]]
        name = f"new_{len(self.datasets)}"  # the number keeps names apart
        first = self.datasets[0]
        new = open_dataset(adata_new, name, first.layer, first.normalizer, like=self.genes)
        there = set(new.measured_genes)
        if missing := [gene for gene in self.genes if gene not in there]:
            raise InputError(
                f"The new cells lack {len(missing):,} genes: {examples(missing)}.",
                f"They must have all {len(self.genes):,} genes of the correction.",
                "Pass cells of the same batch, measured alike.",
            )
        moved = replace(
            correction,
            cells=self.starts[-1] + np.arange(new.source.n_obs),
            weights=correction.anchors.weigh(new.gather(self.features)),
        )
        n_before = len(self.outcome.corrections) - len(self.outcome.correction_of)
        outcome = replace(
            self.outcome,
            corrections=(*self.outcome.corrections[:n_before], moved),
            correction_of={len(self.datasets): n_before},
            skipped={},
        )
        return replace(self, datasets=(*self.datasets, new), outcome=outcome, queries=(name,))

    def _index(self, dataset: str | None) -> int:
        names = [one.name for one in self.datasets]
        if dataset is None and len(self.queries) == 1:
            return names.index(self.queries[0])
        if dataset is None or dataset not in names:
            raise invalid("dataset", dataset, f"one of {names}", "Name the one that you mean.")
        return names.index(dataset)


@dataclass(frozen=True, eq=False)
class StacasReport:
    """Tables that say where the correction rests on much, and where on little.

    Parameters
    ----------
    cells
        One row per cell that could move, indexed by cell: ``dataset``; ``n_anchors`` that it is
        part of; ``nearest_anchor``, the distance to the nearest anchor cell; ``effective_anchors``,
        the inverse of the sum of squared weights; ``shift``, the Euclidean length of the correction
        over all corrected genes; ``flag``, why it was left as it is: ``"too few cells"``,
        ``"no anchors"`` (of its dataset), ``"no weight"`` (near it), ``"empty"`` (no value in any
        anchor feature), or empty text.
    datasets
        One row per dataset: ``n_cells``, ``n_genes``, ``genes_lost`` (not in all datasets),
        ``n_anchors`` (used), ``share_anchored`` (cells in one), ``share_inconsistent`` (anchors
        found whose labels disagree), ``flag``.

    Examples
    --------
    >>> import anndata as ad
    >>> import hdeepinsight as hdi
    >>> import numpy as np
    >>> import pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> var = pd.DataFrame(index=[f"GENE{i}" for i in range(40)])
    >>> ref, query = (ad.AnnData(rng.poisson(2.0, (150, 40)) * 1.0, var=var) for _ in range(2))
    >>> report = hdi.pp.stacas(ref, query).report
    >>> report.datasets["n_cells"].tolist(), report.cells.shape
    ([150, 150], (150, 6))
    """

    cells: pd.DataFrame
    datasets: pd.DataFrame

    def __str__(self) -> str:
        lines = [
            f"{name}: {row.n_cells:,} cells, {row.n_anchors:,} anchors in "
            f"{row.share_anchored:.0%} of them, {row.share_inconsistent:.1%} of those found with "
            f"labels that disagree, {row.genes_lost:,} of {row.n_genes:,} genes not shared"
            + (f"; left as it is: {row.flag}" if row.flag else "")
            for name, row in self.datasets.iterrows()
        ]
        return "\n".join(lines)

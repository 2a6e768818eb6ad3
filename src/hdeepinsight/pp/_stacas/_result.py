"""Result of `stacas`: corrected values in chunks, anchors, and a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray
from sklearn.utils import gen_batches

from hdeepinsight._errors import invalid
from hdeepinsight.data import DataLike, InputError, examples
from hdeepinsight.nn import ModelNormalizer
from hdeepinsight.pp._stacas._anchors import Ints, StacasConfig
from hdeepinsight.pp._stacas._correction import GuideTree, Outcome, composed_shift
from hdeepinsight.pp._stacas._datasets import OpenedDataset, open_dataset

CHUNK_SIZE = 10_000
_AT_ONCE = 1000


@dataclass(frozen=True, eq=False, repr=False)
class StacasResult:
    """Batch correction of one or more datasets, computed by `stacas`.

    The datasets are not modified, and corrected values are computed on request.

    Parameters
    ----------
    datasets
        Datasets, references first.
    genes
        Corrected genes.
    features
        Genes used to find anchors.
    config
        Numbers of dimensions and neighbours.
    outcome
        Anchors and corrections, with indices instead of names.
    anchor_cells
        Indices of the anchor cells among all cells.
    anchor_values
        Log values of the anchor cells, CSR, shape ``(n_anchor_cells, n_genes)``.
    queries
        Names of the datasets that may be corrected.

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
        """Index of the first cell of each dataset, and number of all cells."""
        return np.cumsum([0, *(one.source.n_obs for one in self.datasets)])

    def cells_of(self, dataset: str | None = None) -> pd.Index:
        """Return the names of the cells of a dataset, by default of a single query.

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
        """Used anchors, with names of datasets and cells.

        Columns ``dataset_1``, ``cell_1``, ``dataset_2``, ``cell_2``, ``distance``,
        ``neighborhood_score``, ``score``, ``consistent``.
        """
        table = self._used.copy()
        names = np.concatenate([one.source.obs_names.astype(object) for one in self.datasets])
        dataset_names = np.array([one.name for one in self.datasets], dtype=object)
        for side in ("1", "2"):
            table[f"dataset_{side}"] = dataset_names[table[f"dataset_{side}"]]
            table[f"cell_{side}"] = names[table[f"cell_{side}"]]
        return table

    @cached_property
    def _used(self) -> pd.DataFrame:
        """Used anchors, with indices."""
        anchors = self.outcome.anchors
        return anchors[anchors["score"] > 0].reset_index(drop=True)

    @property
    def tree(self) -> GuideTree | None:
        """Order in which datasets were merged; ``None`` with a single reference."""
        return self.outcome.tree

    @cached_property
    def report(self) -> StacasReport:
        """Report on all cells and datasets; computing it computes all corrections once."""
        found, used, starts = self.outcome.anchors, self._used, self.starts
        ends = used[["cell_1", "cell_2"]].to_numpy().ravel()
        n_anchors = np.bincount(ends, minlength=int(starts[-1]))
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
            unchanged = np.where(np.isnan(nearest[own]), "empty", "no weight")
            blocks = (self.correction(b, dataset=one.name) for b in gen_batches(n_cells, _AT_ONCE))
            columns = {
                "dataset": one.name,
                "n_anchors": n_anchors[own],
                "nearest_anchor": nearest[own],
                "effective_anchors": effective[own],
                "shift": np.concatenate([[], *(np.linalg.norm(part, axis=1) for part in blocks)]),
                "flag": skipped or np.where(effective[own] == 0, unchanged, ""),
            }
            table = pd.DataFrame(columns, index=one.source.obs_names)
            cells.append(table.astype({"flag": object}))
        return StacasReport(pd.concat(cells), pd.DataFrame.from_dict(datasets, orient="index"))

    def correction(
        self, rows: slice | Ints | None = None, *, dataset: str | None = None
    ) -> NDArray[np.float64]:
        """Compute the correction of the log values of some cells.

        Parameters
        ----------
        rows
            Consecutive cells of the dataset; all cells by default.
        dataset
            Name of the dataset; a single query by default.

        Returns
        -------
        Difference of corrected and original values, shape ``(n_cells, n_genes)``, genes as in
        ``genes``.

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
        for here in gen_batches(len(cells), _AT_ONCE):
            rows_of_all = cells[here] + self.starts[index]
            shift = composed_shift(self.outcome.corrections, rows_of_all, int(self.starts[-1]))
            # Positive and negative weights separately, so that equal values cancel to 0.
            weights = shift[:, self.anchor_cells]
            change[here] += (weights.maximum(0) @ self.anchor_values).toarray()
            change[here] -= ((-weights).maximum(0) @ self.anchor_values).toarray()
        return change

    def shift_for(
        self, normalizer: ModelNormalizer, obs_names: pd.Index
    ) -> Callable[[Ints], NDArray[np.float32]]:
        """Return a function that computes the correction of a query for the genes of a model.

        Parameters
        ----------
        normalizer
            Normaliser of the model, which must be the one of this result.
        obs_names
            Names of the cells of the query, which must be a query of this result.

        Returns
        -------
        Function from a slice of cells to an array of shape ``(n_cells, n_genes)``, with zeros for
        genes that are not corrected.

        Raises
        ------
        InputError
            If the result has another normaliser or other cells.

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
                "The correction must use the log values of the model.",
                "Call hdi.pp.stacas(..., normalizer=model.normalizer).",
            )
        owners = [name for name in self.queries if self.cells_of(name).equals(obs_names)]
        if not owners:
            found = f"The correction is for {', '.join(self.queries)}, not for these"
            raise InputError(
                f"{found} {len(obs_names):,} cells.",
                "It must be for the same cells in the same order.",
                "Pass that query, or correct these cells with result.transform.",
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
        """Compute corrected log values in chunks.

        Parameters
        ----------
        dataset
            Name of the dataset; a single query by default. A fixed reference is returned unchanged.
        chunk_size
            Cells per chunk, which is dense; results do not depend on it.

        Yields
        ------
        Names of the cells, and their values, float32, shape ``(n_cells, n_genes)``.

        Notes
        -----
        The counts of the dataset are read again, so they must not be modified after `stacas`.

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
        one = self.datasets[self._index(dataset)]
        for rows, values in one.blocks(self.genes, chunk_size):
            total = values.toarray() + self.correction(rows, dataset=one.name)
            yield one.source.obs_names[rows], total.astype(np.float32)

    def to_adata(self, adata: AnnData, layer: str = "stacas", dataset: str | None = None) -> None:
        """Write corrected values to an AnnData; no other method modifies an object.

        Parameters
        ----------
        adata
            AnnData with the cells of a dataset, in the same order. Corrected log values are written
            to ``layers[layer]``, float32, shape ``(n_obs, n_vars)``, with NaN for genes that were
            not corrected, for which ``var[f"{layer}_corrected"]`` is ``False``.
        layer
            Name of the layer; an existing one is replaced.
        dataset
            Name of the dataset; by default the one with these cells.

        Raises
        ------
        InputError
            If not exactly one dataset has these cells.

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
        given = self.datasets if dataset is None else [self.datasets[self._index(dataset)]]
        owners = [one for one in given if one.source.obs_names.equals(adata.obs_names)]
        if len(owners) != 1:
            found = f"{len(owners)} datasets of {[one.name for one in given]} have the"
            raise InputError(
                f"{found} {adata.n_obs:,} cells of this object.",
                "Exactly one must have the same cells in the same order.",
                "Pass the corrected object, name the dataset, or use transform for other cells.",
            )
        one = owners[0]
        columns = pd.Index(self.genes).get_indexer(pd.Index(one.genes)[one.alignment.target])
        is_corrected = (columns >= 0) & (one.alignment.target >= 0)
        written = np.full(adata.shape, np.nan, dtype=np.float32)
        values = np.concatenate([values for _, values in self.corrected(one.name)])
        written[:, is_corrected] = values[:, columns[is_corrected]]
        adata.layers[layer] = written
        adata.var[f"{layer}_corrected"] = is_corrected

    def transform(self, adata_new: DataLike, *, dataset: str | None = None) -> StacasResult:
        """Correct new cells of the same batch with the same anchors.

        Parameters
        ----------
        adata_new
            Cells of the batch of a query, with all corrected genes, in the same format.
        dataset
            Name of that query; a single query by default.

        Returns
        -------
        Result with these cells as its only query. This result is not changed.

        Raises
        ------
        InputError
            If genes are missing.
        ValueError
            If the query was not corrected, or the result has no fixed reference.

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
        corrections = {one.query: one for one in self.outcome.corrections}
        if index not in corrections:
            reason = self.outcome.skipped.get(index, "it was not projected")
            expected = f"a query that mode='project' corrected ({reason})"
            name = self.datasets[index].name
            raise invalid("dataset", name, expected, "Pass the name of another dataset.")
        name = f"new_{len(self.datasets)}"
        first = self.datasets[0]
        new = open_dataset(adata_new, name, first.layer, first.normalizer, like=self.genes)
        measured = set(new.measured_genes)
        if missing := [gene for gene in self.genes if gene not in measured]:
            raise InputError(
                f"The new cells lack {len(missing):,} genes: {examples(missing)}.",
                f"They must have all {len(self.genes):,} genes of the correction.",
                "Pass cells of the same batch with the same genes.",
            )
        corrected = replace(
            corrections[index],
            query=len(self.datasets),
            cells=self.starts[-1] + np.arange(new.source.n_obs),
            weights=corrections[index].anchors.weigh(new.gather(self.features)),
        )
        before = [one for one in self.outcome.corrections if one.query is None]
        outcome = replace(self.outcome, corrections=(*before, corrected), skipped={})
        return replace(self, datasets=(*self.datasets, new), outcome=outcome, queries=(name,))

    def _index(self, dataset: str | None) -> int:
        names = [one.name for one in self.datasets]
        if dataset is None and len(self.queries) == 1:
            return names.index(self.queries[0])
        if dataset is None or dataset not in names:
            raise invalid("dataset", dataset, f"one of {names}", "Pass the name of a dataset.")
        return names.index(dataset)


@dataclass(frozen=True, eq=False)
class StacasReport:
    """Report on the support of a batch correction, per cell and per dataset.

    Parameters
    ----------
    cells
        One row per query cell: ``dataset``; ``n_anchors``, the number of its anchors;
        ``nearest_anchor``, the distance to the nearest anchor cell; ``effective_anchors``, the
        inverse of the sum of squared weights; ``shift``, the Euclidean norm of the correction over
        all corrected genes; ``flag``, the reason if it was not corrected: ``"too few cells"``,
        ``"no anchors"`` (in its dataset), ``"no weight"`` (no anchors nearby), ``"empty"`` (no
        expressed anchor feature), or an empty string.
    datasets
        One row per dataset: ``n_cells``, ``n_genes``, ``genes_lost`` (not in all datasets),
        ``n_anchors`` (used), ``share_anchored`` (cells with an anchor), ``share_inconsistent``
        (anchors with inconsistent labels), ``flag``.

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
        return "\n".join(
            f"{name}: {row.n_cells:,} cells, {row.share_anchored:.0%} of them with anchors; "
            f"{row.n_anchors:,} anchors used, {row.share_inconsistent:.1%} of all have inconsistent"
            f" labels; {row.genes_lost:,} of {row.n_genes:,} genes not shared"
            + (f"; not corrected: {row.flag}" if row.flag else "")
            for name, row in self.datasets.iterrows()
        )

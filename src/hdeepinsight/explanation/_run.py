"""Explain the cells of a query, mini-batch by mini-batch, and put the parts together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor

from hdeepinsight.adaptation import freeze_norms
from hdeepinsight.data import AlignedQuery, InputError
from hdeepinsight.explanation._explanation import Explanation, GeneTotals, Scope
from hdeepinsight.explanation._gradients import balanced_draws, expected_gradients
from hdeepinsight.explanation._targets import Background, Targets

#: Cells between two additions to the result, each held once for every target.
CELLS = 128


class ExplanationRun:
    """Explain mini-batches of cells that were measured in the same genes.

    Parameters
    ----------
    module
        The network, which is not changed. It has a ``normalizer`` of raw counts,
        ``read(values, measured)`` with ``"logits"`` per edge, ``generative(logits)`` with
        ``"conditional"`` log-probabilities per edge, a ``temperature`` per level and a ``tree``
        (:class:`~hdeepinsight.taxonomy.TreeAlgebra`).
    measured
        Whether the query has each gene, shape ``(n_genes,)``.
    targets
        What is explained.
    background
        Cells to compare with.
    batch
        Batch whose adapters take part, where the network has adapters; -1 for none.
    every
        Explain every target for every cell; otherwise each cell is explained for its own node.
    n_samples, seed, batch_size
        As in :meth:`~hdeepinsight.models.SCHDeepInsight.explain`.

    Examples
    --------
    >>> import warnings
    >>> import hdeepinsight as hdi
    >>> from hdeepinsight.explanation import ExplanationRun, Targets, background_from_profiles
    >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
    >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query[:5]
    >>> opened, targets = model.open(query), Targets.of(model.taxonomy, "B")
    >>> background = background_from_profiles(model.profiles_, per_type=2, seed=0)
    >>> run = ExplanationRun(model.module, opened.measured, targets, background, n_samples=4)
    >>> run.explain(opened.read().toarray())["values"].shape
    (5, 2048)
    """

    def __init__(
        self,
        module: Any,
        measured: np.ndarray,
        targets: Targets,
        background: Background,
        *,
        batch: int = -1,
        every: bool = True,
        n_samples: int = 50,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> None:
        self.module = deepcopy(module).eval().requires_grad_(False)
        freeze_norms(self.module, batch)  # which makes them quick to differentiate
        device = module.temperature.device
        self.measured = torch.tensor(measured, dtype=torch.float32, device=device)
        self.targets, self.every = targets, every
        self.batch_size = batch_size or (256 if device.type == "cpu" else 8192)
        self.n_samples, self.seed = n_samples, seed
        self.strata = background.per_type, background.n_types
        self.weights = torch.from_numpy(targets.weights).to(device)
        self.background = self._normalize(background.counts.toarray())
        base_values = self._read(self.background)[0].mean(0) @ self.weights.T
        self.base_values = base_values.cpu().numpy()

    def explain(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Explain a mini-batch of raw counts, shape ``(n_cells, n_genes)``.

        Returns
        -------
        What :meth:`AttributionAccumulator.add` takes, by name.
        """
        values, tree = self._normalize(counts), self.module.tree
        scores, conditional = self._read(values)
        leaves = tree.node_log_probs(conditional)[:, tree.leaf_index].argmax(dim=1).cpu().numpy()
        n_cells, n_targets = len(counts), len(self.targets)
        is_member = self.targets.is_member[leaves]
        cell, target = np.arange(n_cells), is_member.argmax(axis=1)
        if self.every:
            cell, target = np.tile(cell, n_targets), np.repeat(np.arange(n_targets), n_cells)
        weights = self.weights[torch.from_numpy(target).to(values.device)]
        weights = weights.view(-1, n_cells, weights.shape[1])
        draws = balanced_draws(counts, *self.strata, n_samples=self.n_samples, seed=self.seed)
        found = expected_gradients(
            lambda points: self._outputs(points)[0],
            values,
            self.background,
            draws,
            weights,
            batch_size=self.batch_size,
        )
        return {
            "target": target,
            "cell": cell,
            "own": is_member[cell, target],
            "values": found.flatten(0, 1).cpu().numpy(),
            "outputs": (scores * weights).sum(2).flatten().cpu().numpy(),
            "base_values": self.base_values[target],
            "expression": values.cpu().numpy(),
        }

    @torch.no_grad()
    def _normalize(self, counts: np.ndarray) -> Tensor:
        """Scale raw counts as the network does for the query's genes."""
        raw = torch.from_numpy(counts.astype(np.float32, copy=False)).to(self.measured)
        values: Tensor = self.module.normalizer(raw, self.measured)
        return values

    def _outputs(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return what targets weigh, and conditional log-probabilities, ``(n_cells, n_edges)``."""
        logits = self.module.read(values, self.measured)["logits"]
        conditional = self.module.generative(logits)["conditional"]
        if self.targets.kind != "logit":
            return conditional, conditional
        return logits / self.module.temperature[self.module.tree.edge_depth - 1], conditional

    @torch.no_grad()
    def _read(self, values: Tensor) -> list[Tensor]:
        """Compute both outputs of many cells."""
        parts = [self._outputs(some) for some in torch.split(values, self.batch_size)]
        return [torch.cat(part) for part in zip(*parts, strict=True)]


class AttributionAccumulator:
    """Totals and, if wanted, attributions of all cells.

    Parameters
    ----------
    targets
        What is explained.
    obs_names, genes
        Names.
    every
        Whether every cell gets every target; one target each otherwise.
    keep_values
        Keep the attributions of single cells.

    Examples
    --------
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> from hdeepinsight.explanation import AttributionAccumulator, Targets
    >>> targets = Targets.of(hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []}), "B")
    >>> found = AttributionAccumulator(targets, ["cell 1"], ["CD3D", "CD79A"])
    >>> row, values = np.zeros(1, dtype=int), np.array([[0.0, 1.0]])
    >>> chunk = {"cell": row, "target": row, "own": row == 0, "values": values}
    >>> found.add(row, chunk | {"outputs": row + 1.0, "base_values": row, "expression": values})
    >>> found.finish(background_expression=np.zeros(2)).ranking().index[0]
    'CD79A'
    """

    def __init__(
        self,
        targets: Targets,
        obs_names: Sequence[str] | pd.Index,
        genes: Sequence[str] | pd.Index,
        *,
        every: bool = True,
        keep_values: bool = True,
    ) -> None:
        self.targets, self.every, self.kept = targets, every, keep_values
        self.obs_names, self.genes = pd.Index(obs_names), pd.Index(genes)
        n_rows = len(obs_names) * (len(targets) if every else 1)
        kinds = {"cell": int, "target": int, "own": bool}
        kinds |= dict.fromkeys(("outputs", "base_values", "sums"), float)
        self.rows: dict[str, Any] = {name: np.zeros(n_rows, kind) for name, kind in kinds.items()}
        if keep_values:
            self.rows["values"] = np.zeros((n_rows, len(genes)), dtype=np.float32)
        self.is_filled = np.zeros(n_rows, dtype=bool)
        self.cells: list[np.ndarray] = [np.zeros(0, dtype=int)]
        # The first row is that of cells without expression.
        self.expression = [sparse.csr_matrix((1, len(genes)), dtype=np.float32)]
        self.totals = {scope: GeneTotals(len(targets), len(genes)) for scope in get_args(Scope)}

    def add(self, cells: np.ndarray, chunk: Mapping[str, np.ndarray]) -> None:
        """Add a mini-batch: rows of one target each, and of one of its cells.

        Parameters
        ----------
        cells
            Positions of its cells in the query, shape ``(n_cells,)``.
        chunk
            ``"cell"`` within the mini-batch and ``"target"`` of every row, whether the cell is of
            the node (``"own"``), the explained ``"outputs"`` and their mean over the background
            (``"base_values"``), all ``(n_rows,)``; attributions (``"values"``), ``(n_rows,
            n_genes)``; and scaled ``"expression"`` of the cells, ``(n_cells, n_genes)``.
        """
        target, values, at = chunk["target"], chunk["values"], cells[chunk["cell"]]
        rows = at + target * len(self.obs_names) if self.every else at
        found = {**chunk, "cell": at, "sums": values.sum(axis=1, dtype=np.float64)}
        for name, filled in self.rows.items():
            filled[rows] = found[name]
        self.is_filled[rows] = True
        if self.kept:
            self.cells.append(cells)
            self.expression.append(sparse.csr_matrix(chunk["expression"]))
        for each in np.unique(target):
            for scope, totals in self.totals.items():
                chosen = (target == each) & (chunk["own"] | (scope == "all"))
                expression = chunk["expression"][chunk["cell"][chosen]]
                totals.add(int(each), values[chosen], expression)

    def finish(self, **about: Any) -> Explanation:
        """Return the result; cells that were not added have no rows in it.

        Parameters
        ----------
        **about
            ``background_expression``, ``background`` and ``note`` of the result.
        """
        expression = None
        if self.kept:
            place = np.zeros(len(self.obs_names), dtype=int)
            order = np.concatenate(self.cells)
            place[order] = np.arange(1, len(order) + 1)
            expression = sparse.vstack(self.expression, "csr")[place]
        rows = slice(None) if self.is_filled.all() else self.is_filled
        about |= {name: values[rows] for name, values in self.rows.items()}
        about |= {"obs_names": self.obs_names, "genes": self.genes, "totals": self.totals}
        return Explanation(targets=self.targets, expression=expression, **about)


def explain_cells(
    module: Any,
    query: AlignedQuery,
    targets: Targets,
    background: Background,
    *,
    batch: np.ndarray | None = None,
    keep_values: bool = True,
    note: str = "",
    **options: Any,
) -> Explanation:
    """Explain all cells of a query.

    Parameters
    ----------
    module, targets, background
        As in :class:`ExplanationRun`.
    query
        The query, aligned to the genes of the network.
    batch
        Number of each cell's batch, of which the network has adapters, shape ``(n_cells,)``; -1
        for cells that are read without.
    keep_values
        Keep the attributions of single cells.
    note
        What the result says beside its figures.
    **options
        Further options of :class:`ExplanationRun`: ``every``, ``n_samples``, ``seed`` and
        ``batch_size``.

    Returns
    -------
    The explanation. Cells without counts in the model's genes have nothing to explain; the note
    says how many were left out.

    Raises
    ------
    InputError
        If the background lacks genes of the query.

    Examples
    --------
    >>> import warnings
    >>> import hdeepinsight as hdi
    >>> from hdeepinsight.explanation import Targets, background_from_profiles, explain_cells
    >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
    >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query[:5]
    >>> opened, targets = model.open(query), Targets.of(model.taxonomy, "B")
    >>> background = background_from_profiles(model.profiles_, per_type=2, seed=0)
    >>> explain_cells(model.module, opened, targets, background, n_samples=4).values.shape
    (5, 2048)
    """
    # The absence of a gene would count as not expressed, and the gene as a reason.
    if len(lacking := np.flatnonzero(query.measured & ~background.measured)):
        listed = ", ".join(query.genes[i] for i in lacking[:5])
        raise InputError(
            f"The background lacks {len(lacking):,} genes that the query has ({listed}).",
            "It must have every gene of the query.",
            "Pass other cells, or a query without these genes.",
        )
    names, every = (query.obs_names, query.genes), options.get("every", True)
    found = AttributionAccumulator(targets, *names, every=every, keep_values=keep_values)
    batch = np.full(len(query.obs_names), -1) if batch is None else batch
    runs = {
        number: ExplanationRun(module, query.measured, targets, background, batch=number, **options)
        for number in [-1, *np.unique(batch[batch >= 0]).tolist()]
    }
    n_empty = 0
    for rows, counts in query.chunks():
        cells = np.arange(rows.start, rows.stop)
        is_empty = np.asarray(counts.sum(axis=1)).ravel() == 0
        n_empty += int(is_empty.sum())
        for number, run in runs.items():
            chosen = np.flatnonzero(~is_empty & (batch[cells] == number))
            for some in np.split(chosen, range(CELLS, len(chosen), CELLS)):
                if len(some):
                    found.add(cells[some], run.explain(counts[some].toarray()))
    if n_empty:
        note += f" {n_empty:,} of {len(batch):,} cells have no counts and were left out."
    return found.finish(
        background_expression=runs[-1].background.mean(0).cpu().numpy(),
        background=str(background),
        note=note.strip(),
    )

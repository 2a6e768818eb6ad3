"""Compute expected gradients for the cells of a query in mini-batches."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor

from hdeepinsight._errors import check_integer
from hdeepinsight.adaptation import freeze_norms
from hdeepinsight.data import AlignedQuery, InputError
from hdeepinsight.explanation._explanation import Explanation, GeneTotals, Scope
from hdeepinsight.explanation._targets import Background, Targets

#: Golden ratio: points at multiples of it, modulo 1, are evenly distributed for any number of them.
GOLDEN = (5**0.5 - 1) / 2


def balanced_draws(
    content: np.ndarray, per_stratum: int, n_strata: int, *, n_samples: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Draw points between explained and background cells, balanced over types and positions.

    Parameters
    ----------
    content
        Counts of the explained cells, shape ``(n_cells, n_genes)``.
    per_stratum, n_strata
        Shape of the background: row ``i * n_strata + j`` is cell ``i`` of type ``j``.
    n_samples
        Number of points per cell.
    seed
        Random seed.

    Returns
    -------
    rows, times
        Background cell of each point, int64, and its position from 0 (background) to 1 (explained
        cell), both of shape ``(n_cells, n_samples)``.

    Notes
    -----
    The ``n_samples`` points of a cell are distributed equally (up to one point) over the types of
    the background, and over the background cells of each type. Positions start at random and
    continue in steps of the golden ratio modulo 1, from one background cell to the next. They cover
    [0, 1] evenly, overall and for each background cell. Each single point is uniformly distributed,
    so that estimates are unbiased and have a smaller variance than with independent points. Draws
    are determined by the seed and the counts of the cell, and do not depend on other cells or on
    the mini-batches.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.explanation import balanced_draws
    >>> rows, times = balanced_draws(np.ones((1, 4)), 2, 3, n_samples=6, seed=0)
    >>> rows[0].tolist(), times.shape
    ([0, 1, 2, 3, 4, 5], torch.Size([1, 6]))
    """
    check_integer("n_samples", n_samples, hint="Use 50.")
    table = np.arange(per_stratum * n_strata).reshape(per_stratum, n_strata)
    rows, times = np.empty((2, len(content), n_samples))
    for i, cell in enumerate(np.ascontiguousarray(content)):
        rng = np.random.default_rng([seed, zlib.crc32(cell.data)])
        shuffled = [
            # Permute the cells of each type over rounds, then the order of types in each round.
            rng.permuted(rng.permuted(table, axis=0), axis=1).ravel()
            for _ in range(-(-n_samples // table.size))
        ]
        rows[i] = np.sort(np.concatenate(shuffled)[:n_samples])
        times[i] = (rng.random() + GOLDEN * np.arange(n_samples)) % 1.0
    return torch.from_numpy(rows).long(), torch.from_numpy(times).float()


def expected_gradients(
    scores: Callable[[Tensor], Tensor],
    cells: Tensor,
    background: Tensor,
    draws: tuple[Tensor, Tensor],
    weights: Tensor,
    *,
    batch_size: int = 1024,
) -> Tensor:
    r"""Attribute the difference of scores between each cell and the background to genes.

    Parameters
    ----------
    scores
        Differentiable function from expression ``(n, n_genes)`` to scores ``(n, n_scores)`` that
        treats rows independently.
    cells
        Expression of the cells to explain, shape ``(n_cells, n_genes)``.
    background
        Expression of the background cells, shape ``(n_background, n_genes)``.
    draws
        Points at which gradients are computed, as from :func:`balanced_draws`.
    weights
        Weights of the scores per target, shape ``(n_targets, n_cells, n_scores)``.
    batch_size
        Maximum number of points per forward pass.

    Returns
    -------
    torch.Tensor
        Attributions, shape ``(n_targets, n_cells, n_genes)``.

    Notes
    -----
    With :math:`F = \sum_j w_j \, \mathrm{score}_j`,

    .. math::
        \varphi_g = \mathrm{E}_{s', t}\Bigl[(s_g - s'_g)\,
        \frac{\partial F}{\partial s_g}\bigl(s' + t (s - s')\bigr)\Bigr]

    (Erion et al. 2021, doi:10.1038/s42256-021-00343-w), the mean of integrated gradients over the
    background. :class:`shap.GradientExplainer` estimates the same quantity. Here, cells are
    processed in batches, and all targets share points and forward passes, so that their
    attributions are exactly additive.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.explanation import expected_gradients
    >>> slope = torch.tensor([[2.0], [-1.0]])
    >>> draws = torch.tensor([[0]]), torch.tensor([[0.3]])
    >>> cell, background = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 3.0]])
    >>> expected_gradients(lambda s: s @ slope, cell, background, draws, torch.ones(1, 1, 1))
    tensor([[[2., 2.]]])
    """
    total = cells.new_zeros(len(weights), *cells.shape)
    rows, times = (part.to(cells.device) for part in draws)
    n_cells, n_samples = rows.shape
    several = max(1, batch_size // n_samples)  # number of cells per forward pass
    blocks = [
        (slice(start, start + several), slice(first, first + batch_size))
        for start in range(0, n_cells, several)
        for first in range(0, n_samples, batch_size)
    ]
    for some, part in blocks:
        start = background[rows[some, part]]
        change = cells[some].unsqueeze(1) - start
        points = torch.addcmul(start, change, times[some, part].unsqueeze(2))
        flat = points.flatten(0, 1).requires_grad_()
        with torch.enable_grad():
            found = scores(flat)
        for target, weight in enumerate(weights[:, some]):
            repeated = weight.repeat_interleave(points.shape[1], dim=0)
            last = target == len(weights) - 1
            (slope,) = torch.autograd.grad(found, flat, repeated, retain_graph=not last)
            total[target, some] += torch.einsum("csg,csg->cg", slope.view_as(points), change)
    return total / n_samples


#: Number of cells per call of `ExplanationRun.explain`.
CELLS = 128


class ExplanationRun:
    """Expected gradients of a network for mini-batches of cells with the same measured genes.

    Parameters
    ----------
    module
        Network, which is not modified. It has a ``normalizer`` of raw counts,
        ``read(values, measured)`` that returns ``"logits"`` per edge, ``generative(logits)`` that
        returns ``"conditional"`` log-probabilities per edge, a ``temperature`` per level and a
        ``tree`` (:class:`~hdeepinsight.taxonomy.TreeAlgebra`).
    measured
        Whether each gene was measured in the query, shape ``(n_genes,)``.
    targets
        Nodes to explain.
    background
        Background cells.
    batch
        Batch of a query with adapters; -1 to use none.
    every
        Explain each target for each cell; otherwise each cell only for its own node.
    n_samples, seed, batch_size
        As in :meth:`~hdeepinsight.models.SCHDeepInsight.explain`.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> from hdeepinsight.explanation import ExplanationRun, Targets, background_from_profiles
    >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
    >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query[:5]
    >>> opened, targets = model.open(query), Targets.of(model.taxonomy, "B")
    >>> background = background_from_profiles(model.profiles_, per_type=2, seed=0)
    >>> run = ExplanationRun(model.module, opened.measured, targets, background, n_samples=4)
    >>> run.explain(opened.read().toarray(), np.zeros(5, dtype=int))["values"].shape
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
        freeze_norms(self.module, batch)  # makes gradients faster
        device = module.temperature.device
        self.measured = torch.tensor(measured, dtype=torch.float32, device=device)
        self.targets, self.every = targets, every
        self.batch_size = batch_size or (256 if device.type == "cpu" else 8192)
        self.n_samples, self.seed = n_samples, seed
        self.strata = background.per_type, background.n_types
        self.weights = torch.from_numpy(targets.weights).to(device)
        self.background = self._normalize(background.counts.toarray())
        base_values = self._read(self.background).mean(0) @ self.weights.T
        self.base_values = base_values.cpu().numpy()

    def explain(self, counts: np.ndarray, leaves: np.ndarray) -> dict[str, np.ndarray]:
        """Explain a mini-batch of cells.

        Parameters
        ----------
        counts
            Raw counts, shape ``(n_cells, n_genes)``.
        leaves
            Predicted leaf of each cell, as its number among the leaves.

        Returns
        -------
        dict of str to numpy.ndarray
            Input of :meth:`AttributionAccumulator.add`.
        """
        values = self._normalize(counts)
        scores = self._read(values)
        cell, target, own = self.targets.pairs(leaves, every=self.every)
        weights = self.weights[torch.from_numpy(target).to(values.device)]
        weights = weights.view(-1, len(counts), weights.shape[1])
        draws = balanced_draws(counts, *self.strata, n_samples=self.n_samples, seed=self.seed)
        found = expected_gradients(
            self._scores,
            values,
            self.background,
            draws,
            weights,
            batch_size=self.batch_size,
        )
        return {
            "target": target,
            "cell": cell,
            "own": own,
            "values": found.flatten(0, 1).cpu().numpy(),
            "outputs": (scores * weights).sum(2).flatten().cpu().numpy(),
            "base_values": self.base_values[target],
            "expression": values.cpu().numpy(),
        }

    @torch.no_grad()
    def _normalize(self, counts: np.ndarray) -> Tensor:
        """Normalise raw counts like the network, given the genes of the query."""
        raw = torch.from_numpy(counts.astype(np.float32, copy=False)).to(self.measured)
        values: Tensor = self.module.normalizer(raw, self.measured)
        return values

    def _scores(self, values: Tensor) -> Tensor:
        """Return the scores of edges, shape ``(n_cells, n_edges)``."""
        return self.targets.scores(self.module, self.module.read(values, self.measured)["logits"])

    @torch.no_grad()
    def _read(self, values: Tensor) -> Tensor:
        """Compute the scores of edges in mini-batches."""
        return torch.cat([self._scores(some) for some in torch.split(values, self.batch_size)])


class AttributionAccumulator:
    """Collector of attributions that builds an `Explanation` from mini-batches.

    Parameters
    ----------
    targets
        Explained nodes.
    obs_names, genes
        Names of cells and genes.
    every
        Whether each cell is explained for each target; otherwise for a single target.
    keep_values
        Store the attributions of individual cells.

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
        # The first row is used for cells without counts.
        self.expression = [sparse.csr_matrix((1, len(genes)), dtype=np.float32)]
        self.totals = {scope: GeneTotals(len(targets), len(genes)) for scope in get_args(Scope)}

    def add(self, cells: np.ndarray, chunk: Mapping[str, np.ndarray]) -> None:
        """Add a mini-batch, whose rows are pairs of a cell and a target.

        Parameters
        ----------
        cells
            Positions of the cells in the query, shape ``(n_cells,)``.
        chunk
            ``"cell"`` in the mini-batch and ``"target"`` of each row, whether the cell is predicted
            at or below the node (``"own"``), the explained ``"outputs"`` and their mean over the
            background (``"base_values"``), all ``(n_rows,)``; attributions (``"values"``),
            ``(n_rows, n_genes)``; and scaled ``"expression"`` of the cells, ``(n_cells, n_genes)``.
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
        """Return the result, without rows for cells that were not added.

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
    leaves: np.ndarray,
    batch: np.ndarray | None = None,
    keep_values: bool = True,
    note: str = "",
    **options: Any,
) -> Explanation:
    """Explain all cells of a query by expected gradients.

    Parameters
    ----------
    module, targets, background
        As in :class:`ExplanationRun`.
    query
        Query, aligned to the genes of the network.
    leaves
        Predicted leaf of each cell, as its number among the leaves, shape ``(n_cells,)``.
    batch
        Batch of each cell for a network with adapters, shape ``(n_cells,)``; -1 for cells to which
        no adapter is applied.
    keep_values
        Store the attributions of individual cells.
    note
        Remark for the result.
    **options
        Further options of :class:`ExplanationRun`: ``every``, ``n_samples``, ``seed`` and
        ``batch_size``.

    Returns
    -------
    Explanation
        Attributions. Cells without counts in the model's genes are omitted, and their number is
        added to the note.

    Raises
    ------
    InputError
        If the background lacks genes of the query.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> from hdeepinsight.explanation import Targets, background_from_profiles, explain_cells
    >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
    >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query[:5]
    >>> opened, targets = model.open(query), Targets.of(model.taxonomy, "B")
    >>> background = background_from_profiles(model.profiles_, per_type=2, seed=0)
    >>> given = model.module, opened, targets, background
    >>> explain_cells(*given, leaves=np.zeros(5, dtype=int), n_samples=4).values.shape
    (5, 2048)
    """
    # A gene that is missing in the background would be read as not expressed, with attributions.
    if len(lacking := np.flatnonzero(query.measured & ~background.measured)):
        listed = ", ".join(query.genes[i] for i in lacking[:5])
        raise InputError(
            f"The background lacks {len(lacking):,} genes that the query has ({listed}).",
            "It must have all genes of the query.",
            "Pass other cells, or a query without these genes.",
        )
    numbers = [] if batch is None else np.unique(batch[batch >= 0]).tolist()
    runs = {
        number: ExplanationRun(module, query.measured, targets, background, batch=number, **options)
        for number in [-1, *numbers]
    }
    return collect_attributions(
        query,
        targets,
        lambda number, *cells: runs[number].explain(*cells),
        leaves=leaves,
        batch=batch,
        every=options.get("every", True),
        keep_values=keep_values,
        background_expression=runs[-1].background.mean(0).cpu().numpy(),
        background=str(background),
        note=note,
    )


def collect_attributions(
    query: AlignedQuery,
    targets: Targets,
    attribute: Callable[[int, np.ndarray, np.ndarray], Mapping[str, np.ndarray]],
    *,
    leaves: np.ndarray,
    batch: np.ndarray | None = None,
    every: bool = True,
    keep_values: bool = True,
    n_cells: int = CELLS,
    note: str = "",
    **about: Any,
) -> Explanation:
    """Attribute the outputs of all cells of a query by a function of mini-batches.

    Parameters
    ----------
    query
        Query, aligned to the genes of the network.
    targets
        Explained nodes.
    attribute
        Function from a batch, and the raw counts ``(n, n_genes)`` and leaves ``(n,)`` of some of
        its cells, to the input of :meth:`AttributionAccumulator.add`.
    leaves
        Predicted leaf of each cell, as its number among the leaves, shape ``(n_cells,)``.
    batch
        Batch of each cell, shape ``(n_cells,)``; -1 for cells to which no adapter is applied, by
        default all.
    every
        Explain each target for each cell; otherwise each cell only for its own node.
    keep_values
        Store the attributions of individual cells.
    n_cells
        Maximum number of cells per mini-batch.
    note
        Remark for the result, to which the number of cells without counts is added.
    **about
        ``background_expression`` and ``background`` of the result.

    Examples
    --------
    >>> import warnings
    >>> import hdeepinsight as hdi
    >>> from hdeepinsight.explanation import Targets, collect_attributions
    >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
    >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query[:2]
    >>> opened, targets = model.open(query), Targets.of(model.taxonomy, "B")
    >>> def depth(batch, counts, leaves):
    ...     cell, total = np.arange(len(counts)), counts.sum(axis=1)
    ...     each = {"cell": cell, "target": 0 * cell, "own": cell == 0, "outputs": total}
    ...     return each | {"base_values": 0 * cell, "values": counts, "expression": counts}
    >>> about = {"background": "nothing", "background_expression": np.zeros(len(opened.genes))}
    >>> about["leaves"] = np.array([0, 1])
    >>> found = collect_attributions(opened, targets, depth, **about)
    >>> bool(np.allclose(found.values.sum(axis=1), found.outputs))
    True
    """
    names = query.obs_names, query.genes
    found = AttributionAccumulator(targets, *names, every=every, keep_values=keep_values)
    batch = np.full(query.n_obs, -1) if batch is None else batch
    n_empty = 0
    for rows, counts in query.chunks():
        cells = np.arange(rows.start, rows.stop)
        is_empty = np.asarray(counts.sum(axis=1)).ravel() == 0
        n_empty += int(is_empty.sum())
        for number in np.unique(batch[cells]).tolist():
            chosen = np.flatnonzero(~is_empty & (batch[cells] == number))
            for some in np.split(chosen, range(n_cells, len(chosen), n_cells)):
                if len(some):
                    here = cells[some]
                    found.add(here, attribute(number, counts[some].toarray(), leaves[here]))
    if n_empty:
        note += f" {n_empty:,} of {len(batch):,} cells have no counts and were left out."
    return found.finish(note=note.strip(), **about)

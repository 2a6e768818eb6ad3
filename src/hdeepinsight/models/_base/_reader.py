"""Annotate the cells of a query block by block, with several threads and the folded network."""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor

from hdeepinsight._errors import check_integer, invalid
from hdeepinsight._progress import tracked
from hdeepinsight.adaptation import Adapter, QueryCells
from hdeepinsight.annotation import Annotation, QueryComparison, assess_query, marker_predictor
from hdeepinsight.data import CHUNK_CELLS, AlignedQuery
from hdeepinsight.models._base._setup import PANEL_KEY
from hdeepinsight.nn import LeafProfiles, ProfileEnsemble

if TYPE_CHECKING:
    from hdeepinsight.pp import StacasResult

Item = TypeVar("Item")
Found = TypeVar("Found")
Outputs: TypeAlias = "dict[str, np.ndarray]"

#: Cells that are read and predicted at a time: few on a CPU, which saves memory at the same speed;
#: more by a folded network on a GPU (yet more are no faster on an H100, where the host prepares
#: the cells).
CPU_CELLS, GPU_CELLS = 1024, CHUNK_CELLS
#: Threads on a GPU: some prepare cells or copy results back while others compute.
GPU_WORKERS = 4
#: Inputs that a folded network does not accept.
PLAIN_INPUTS = {"shift", "member"}


class QueryReader:
    """Predictions of a model for the cells of a query, and their annotation.

    Parameters
    ----------
    model
        Trained model.
    opened
        Query aligned to the model.
    corrected
        Batch correction of the whole query, whose shift is added to the input of the network.
    **how
        ``decoder``, ``threshold`` and ``reject`` of :meth:`AnnotatingMixin.annotate`.
    """

    def __init__(
        self, model: Any, opened: AlignedQuery, corrected: StacasResult | None = None, **how: Any
    ) -> None:
        self.model, self.opened, self.how = model, opened, how
        #: Comparison with the reference, and results for a sample from which it was computed.
        self.comparison: QueryComparison | None = None
        self.sampled: dict[str, Any] = {}
        self.rows: Any = slice(0, opened.n_obs)
        self.shift: Callable[[Any], np.ndarray] | None = None
        if corrected is not None:
            if not hasattr(corrected, "shift_for"):
                hint = "Pass normalizer=model.normalizer to that function."
                raise invalid(
                    "corrected", type(corrected).__name__, "a result of hdi.pp.stacas", hint
                )
            self.shift = corrected.shift_for(model.normalizer, opened.obs_names)
        self.measured, self.panel = opened.measured, None
        known = model.known_panels(opened.obs)
        if known is not None:
            present, codes = np.unique(known.codes, return_inverse=True)
            table = known.measured[present] & opened.measured
            self.measured, self.panel = (table, codes) if len(table) > 1 else (table[0], None)
        profiles = model.combined_profiles
        self.network = CellReader(model.module, model.adapter_, self.measured, profiles)

    def subset(self, rows: np.ndarray) -> QueryReader:
        """Return a reader of some of the cells."""
        found = copy.copy(self)
        found.opened, found.rows = self.opened.subset(rows), rows
        return found

    def portable(self, columns: Sequence[str] = ()) -> QueryReader:
        """Return a copy to send to other processes; see :meth:`AlignedQuery.portable`."""
        found = copy.copy(self)
        found.opened = self.opened.portable(columns)
        return found

    def chunks(
        self,
        names: Sequence[str],
        batch_size: int | None = None,
        *,
        counts: list[sparse.csr_matrix] | None = None,
        keep: list[sparse.csr_matrix] | None = None,
    ) -> Iterator[tuple[slice, Outputs]]:
        """Iterate over chunks: rows, and outputs by name.

        With a comparison, which requires probabilities, its measures are included. The counts of
        the model's genes are appended to ``counts``, those of all genes to ``keep``.
        """
        check_integer("batch_size", batch_size, optional=True)
        batch = self.network.adapter.batch_of(self.opened.obs)
        numbers = np.arange(self.rows.stop) if isinstance(self.rows, slice) else self.rows

        def outputs(chunk: tuple[slice, sparse.csr_matrix]) -> Outputs:
            rows, block = chunk
            own = self.opened.extra[rows]
            extra = dict(own.arrays)
            if self.shift is not None:
                extra["shift"] = self.shift(numbers[rows])
            if self.panel is not None:
                extra[PANEL_KEY] = self.panel[numbers[rows]]
            cells = QueryCells(block, batch[rows], np.zeros_like(batch[rows]), extra, own.has_rna)
            found = self.network(cells, names, batch_size)
            if self.comparison is not None:
                found |= self.comparison.measure(block, found["probabilities"])
            return found

        chunks = self.opened.chunks(self.network.n_cells, keep=keep)
        chunks = tracked(chunks, "Annotating", self.opened.n_obs)
        for (rows, block), found in in_order(outputs, chunks, self.network.n_workers):
            if counts is not None:
                counts.append(block)
            yield rows, found

    def read(self, names: Sequence[str], batch_size: int | None = None, **lists: Any) -> Outputs:
        """Return outputs of all cells by name; ``lists`` as in `chunks`."""
        return gather(self.chunks(names, batch_size, **lists), self.opened.n_obs)

    def annotate(
        self, batch_size: int | None = None, *, keep: list[sparse.csr_matrix] | None = None
    ) -> Annotation:
        """Annotate the query in one pass; compare all cells, or a sample, with the reference.

        The counts of all genes are appended to ``keep``.
        """
        compares_all = self.model.bank_ is not None and self.opened.n_obs <= CHUNK_CELLS
        if not compares_all:
            self.compare_sample()
        counts: list[sparse.csr_matrix] | None = [] if compares_all else None
        found = self.read(self._names, batch_size, counts=counts, keep=keep)
        if counts:
            read = sparse.vstack(counts, format="csr"), found["probabilities"]
            self.comparison = self.compare(*read)
            found |= {} if self.comparison is None else self.comparison.measure(*read)
        return self._annotation(self.opened, found)

    def compare_sample(self) -> Self:
        """Compare a sample of the cells with the reference, for a verdict on the query."""
        if self.model.bank_ is not None:
            sample = self.subset(self.opened.sample_rows())
            found = sample.annotate()
            self.comparison = sample.comparison
            self.sampled = {"verdict": found.verdict, "gene_report": found.gene_report}
        return self

    def annotations(
        self, rows: range | None = None, names: pd.Index | None = None
    ) -> Iterator[Annotation]:
        """Annotate some cells, by default all, 4,096 at a time; ``names`` replaces their names."""
        reader = self if rows is None else self.subset(np.arange(rows.start, rows.stop))
        first, parts = 0, []
        for read, part in reader.chunks(self._names):
            parts.append((slice(read.start - first, read.stop - first), part))
            if read.stop - first < CHUNK_CELLS and read.stop < reader.opened.n_obs:
                continue
            place, found = slice(first, read.stop), gather(parts, read.stop - first)
            first, parts = read.stop, []
            opened = reader.opened.subset(place)
            opened = opened if names is None else opened.named(names[place])
            yield self._annotation(opened, found, **self.sampled)

    def outputs(self, rows: range) -> Outputs:
        """Return the outputs for some cells as arrays by name, for `whole`."""
        return self.subset(np.arange(rows.start, rows.stop)).read(self._names)

    def whole(self, parts: Iterable[tuple[slice, Outputs]]) -> Annotation:
        """Combine the `outputs` of all parts into the annotation of the query."""
        return self._annotation(self.opened, gather(parts, self.opened.n_obs))

    @property
    def _names(self) -> tuple[str, ...]:
        is_ensemble = getattr(self.model.module, "n_members", 1) > 1
        return ("probabilities", "seen", *(["disagreement"] if is_ensemble else []))

    def _annotation(self, opened: AlignedQuery, found: Outputs, **whole: Any) -> Annotation:
        """Return the annotation of cells from their outputs, with results for the whole query."""
        probabilities = found.pop("probabilities", np.zeros((0, 0)))
        model, disagreement = self.model, found.pop("disagreement", None)
        how = {
            "taxonomy": model.taxonomy,
            "opened": opened,
            "seen": found.pop("seen", np.ones(0, dtype=bool)),
            "reject": self.how.get("reject", "auto"),
        }
        about = assess_query(self.comparison, found, probabilities, **how)
        about |= {name: value for name, value in self.how.items() if name != "reject"}
        return Annotation(
            taxonomy=model.taxonomy,
            node_probabilities=probabilities,
            disagreement=disagreement,
            recipe=model.recipe,
            calibration=model.calibration,
            **about | whole,
        )

    def compare(
        self, counts: sparse.csr_matrix, probabilities: np.ndarray
    ) -> QueryComparison | None:
        """Compare some cells with the reference.

        ``None`` without stored cells or RNA counts, or if the cells have different gene panels.
        """
        model, measured = self.model, self.measured
        if model.bank_ is None or not counts.nnz or self.panel is not None:
            return None

        def network(cells: sparse.csr_matrix) -> np.ndarray:
            read = as_cells(cells.astype(np.float32), np.zeros(cells.shape[0], dtype=np.int64))
            return self.network(read, ("probabilities",))["probabilities"]

        markers = marker_predictor(model.profiles_, model.taxonomy, measured)
        known = model.bank_, model.taxonomy, measured
        how: dict[str, Any] = {"adapted": self.network.adapter.is_applied, "seed": model.seed}
        return QueryComparison(*known, counts, probabilities, network, markers, **how)


def gather(parts: Iterable[tuple[slice | np.ndarray, Outputs]], n_cells: int) -> Outputs:
    """Assemble the outputs of all cells from those of parts, in any order."""
    found: Outputs = {}
    for rows, part in parts:
        for name, values in part.items():
            if name not in found:
                found[name] = np.empty((n_cells, *values.shape[1:]), dtype=values.dtype)
            found[name][rows] = values
    return found


def as_cells(
    counts: sparse.csr_matrix, nodes: np.ndarray, extra: dict[str, np.ndarray] | None = None
) -> QueryCells:
    """Return cells of a reference in memory."""
    return QueryCells(counts, np.full(len(nodes), -1), nodes, extra or {})


class CellReader:
    """Thread-safe forward pass of a network and its adapter, for the genes of one query.

    Cells of several gene panels are predicted with the genes of their panel (``panel`` in
    ``extra``).

    Parameters
    ----------
    module
        Network. If it has a method ``folded``, the network that this returns is used, if any.
    adapter
        Adapter of a query.
    measured
        Whether the query has each gene, shape ``(n_genes,)``; of several gene panels,
        ``(n_panels, n_genes)``.
    profiles
        Mean profiles to combine the network with; none by default.
    """

    def __init__(
        self,
        module: Any,
        adapter: Adapter | None,
        measured: np.ndarray,
        profiles: LeafProfiles | None = None,
    ) -> None:
        self.module, self.adapter = module.eval(), adapter or Adapter()
        device = module.temperature.device
        measured = np.atleast_2d(measured)
        self.measured = torch.tensor(measured, dtype=torch.float32, device=device)
        can_fold = hasattr(module, "folded")
        self.folded = [module.folded(mask) if can_fold else None for mask in self.measured]
        self.has_head = module.tree is not None  # otherwise only latent features can be read
        if self.has_head:
            logits = torch.zeros(1, module.tree.taxonomy.n_edges, device=device)
            self.equal = module.tree(logits).exp()
        self.profiles = profiles
        self.ensembles: list[ProfileEnsemble | None] = [None] * len(measured)
        if profiles is not None:
            how = module.normalizer, self.adapter.query_profiles
            each = (ProfileEnsemble(profiles, mask, *how) for mask in self.measured.cpu())
            self.ensembles = [ensemble.to(device) for ensemble in each]

    def __reduce__(self) -> tuple[Any, ...]:
        """Fold the network again in another process: the folded layout is specific to a machine."""
        measured = self.measured.cpu().numpy()
        return CellReader, (self.module, self.adapter, measured, self.profiles)

    @property
    def n_workers(self) -> int:
        """Number of threads that give the highest throughput."""
        is_cpu = self.measured.device.type == "cpu"
        return torch.get_num_threads() if is_cpu else GPU_WORKERS

    @property
    def n_cells(self) -> int:
        """Default number of cells per forward pass."""
        is_cpu = self.measured.device.type == "cpu"
        return CPU_CELLS if is_cpu or self.folded[0] is None else GPU_CELLS

    def __call__(
        self, cells: QueryCells, names: Sequence[str], batch_size: int | None = None
    ) -> Outputs:
        """Return outputs by name; ``logits`` are computed without the adapter.

        ``seen`` is ``True`` for cells with at least one count that the network reads; in the other
        cells all siblings are equally likely.
        """
        if PANEL_KEY not in cells.extra:
            return self._read(cells, names, batch_size)
        extra = {name: values for name, values in cells.extra.items() if name != PANEL_KEY}
        panel, cells = cells.extra[PANEL_KEY], replace(cells, extra=extra)
        rows = {int(each): np.flatnonzero(panel == each) for each in np.unique(panel)}
        parts = ((own, self._read(cells[own], names, batch_size, at)) for at, own in rows.items())
        return gather(parts, len(cells))

    @torch.inference_mode()
    def _read(
        self, cells: QueryCells, names: Sequence[str], batch_size: int | None, panel: int = 0
    ) -> Outputs:
        """Return outputs of cells of one gene panel."""
        measured, ensemble = self.measured[panel], self.ensembles[panel]
        is_folded = self.folded[panel] is not None and not PLAIN_INPUTS & set(cells.extra)
        network: Any = self.folded[panel] if is_folded else self.module
        device, parts = self.measured.device, []
        with _own_stream(device):
            for _, part in cells.parts(batch_size or self.n_cells):
                inputs = part.tensors(measured, sparse=is_folded)
                if "logits" in names or not self.has_head:
                    found = network.inference(**inputs)
                else:
                    how: Any = {"batch": part.batch, "ensemble": ensemble}
                    found = self.adapter.predict(network, **how, **inputs)
                if not is_folded:
                    found["seen"] = inputs["counts"].any(1)
                    if "proteins_measured" in inputs:
                        found["seen"] |= inputs["proteins_measured"].any(1)
                if "probabilities" in found:
                    seen = found["seen"].unsqueeze(1)
                    found["probabilities"] = found["probabilities"].where(seen, self.equal)
                parts.append([as_array(found[name]) for name in names])
        arrays = (np.concatenate(each) for each in zip(*parts, strict=True))
        return dict(zip(names, arrays, strict=True))


def as_array(tensor: Tensor) -> np.ndarray:
    """Convert a tensor to an array; floating point values become float32."""
    return np.asarray((tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy())


@contextmanager
def _own_stream(device: torch.device) -> Iterator[None]:
    """Use a separate CUDA stream, so that the work of several threads overlaps."""
    if device.type != "cuda":
        yield
        return
    stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.default_stream(device))
    with torch.cuda.stream(stream):
        yield


class _OneThread:
    """Limit torch operators to one thread while at least one caller requests it."""

    lock = threading.Lock()
    n_users = 0
    n_threads = 1

    @classmethod
    @contextmanager
    def each(cls) -> Iterator[None]:
        with cls.lock:
            if not cls.n_users:
                cls.n_threads = torch.get_num_threads()
                torch.set_num_threads(1)
            cls.n_users += 1
        try:
            yield
        finally:
            with cls.lock:
                cls.n_users -= 1
                if not cls.n_users:
                    torch.set_num_threads(cls.n_threads)


def in_order(
    job: Callable[[Item], Found], items: Iterable[Item], n_workers: int
) -> Iterator[tuple[Item, Found]]:
    """Apply a function to items in several threads, and yield items and results in order.

    Each thread uses one torch thread: threads within operators would wait for each other at the
    end of each operator. The number of torch threads is restored at the end.

    Examples
    --------
    >>> list(in_order(lambda n: n * n, range(4), n_workers=2))
    [(0, 0), (1, 1), (2, 4), (3, 9)]
    """
    if n_workers == 1:
        with _OneThread.each():  # in case another thread is about to restore torch's number
            for item in items:
                yield item, job(item)
        return
    waiting: deque[tuple[Item, Future[Found]]] = deque()
    pool = ThreadPoolExecutor(n_workers)
    try:
        with _OneThread.each():
            for item in items:
                waiting.append((item, pool.submit(job, item)))
                if len(waiting) > n_workers:
                    item, future = waiting.popleft()
                    yield item, future.result()
            while waiting:
                item, future = waiting.popleft()
                yield item, future.result()
    finally:
        pool.shutdown(cancel_futures=True)

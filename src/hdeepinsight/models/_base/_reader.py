"""Queries through a network: folded where it can be, in blocks, by several workers; and judged."""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from hdeepinsight._errors import check_integer
from hdeepinsight._progress import tracked
from hdeepinsight.adaptation import Adapter, QueryCells
from hdeepinsight.annotation import QueryJudge, marker_opinion
from hdeepinsight.data import CHUNK_CELLS
from hdeepinsight.nn import ProfileEnsemble

if TYPE_CHECKING:
    from hdeepinsight.data import AlignedQuery
    from hdeepinsight.nn import LeafProfiles
    from hdeepinsight.pp import StacasResult

Item = TypeVar("Item")
Found = TypeVar("Found")

#: Cells in one pass: plainly, what stays in the caches of a CPU; folded, a chunk, which the network
#: divides itself on a CPU. On an H100, larger ones are read no faster: hosts prepare the cells.
PLAIN_CELLS, FOLDED_CELLS = 1024, CHUNK_CELLS
#: Some prepare cells while others compute and bring results back.
GPU_WORKERS = 4
#: Inputs that a folded network does not take.
PLAIN_INPUTS = {"shift", "member"}


class QueryReader:
    """Read the cells of a query by a model, in one pass, and judge them.

    Parameters
    ----------
    model
        Model that reads them.
    opened
        Query, opened for the model.
    corrected
        Correction of the whole query, whose shift is added to what the network reads.
    """

    def __init__(
        self, model: Any, opened: AlignedQuery, corrected: StacasResult | None = None
    ) -> None:
        self.model, self.opened = model, opened
        self.rows: Any = slice(0, opened.n_obs)
        self.shift: Callable[[Any], np.ndarray] | None = None
        if corrected is not None:
            self.shift = corrected.shift_for(model.normalizer, opened.obs_names)
        profiles = model.combined_profiles
        self.network = CellReader(model.module, model.adapter_, opened.measured, profiles)

    @property
    def is_small(self) -> bool:
        """Whether the query is read as one block."""
        return self.opened.n_obs <= CHUNK_CELLS

    def of(self, rows: np.ndarray) -> QueryReader:
        """Return what reads some of the cells."""
        found = copy.copy(self)
        found.opened, found.rows = self.opened.subset(rows), rows
        return found

    def sample(self) -> QueryReader:
        """Return what reads the cells by which the query is judged."""
        return self.of(self.opened.sample_rows())

    def chunks(
        self,
        names: Sequence[str],
        batch_size: int | None = None,
        *,
        keep: list[sparse.csr_matrix] | None = None,
        judge: QueryJudge | None = None,
    ) -> Iterator[tuple[slice, sparse.csr_matrix, dict[str, np.ndarray]]]:
        """Read by chunks: rows, counts, and outputs by name.

        Those of a judge, who needs probabilities, are among them.
        """
        check_integer("batch_size", batch_size, optional=True)
        batch = self.network.adapter.batch_of(self.opened.obs)
        numbers = np.arange(self.rows.stop) if isinstance(self.rows, slice) else self.rows

        def outputs(chunk: tuple[slice, sparse.csr_matrix]) -> dict[str, np.ndarray]:
            rows, counts = chunk
            cells = query_cells(self.opened, rows, counts, batch[rows])
            if self.shift is not None:
                extra = {**cells.extra, "shift": self.shift(numbers[rows])}
                cells = replace(cells, extra=extra)
            found = self.network(cells, names, batch_size)
            return found | ({} if judge is None else judge.measure(counts, found["probabilities"]))

        chunks = tracked(self.opened.chunks(keep=keep), "Annotating", self.opened.n_obs)
        for (rows, counts), found in in_order(outputs, chunks, self.network.n_workers):
            yield rows, counts, found

    def read(
        self,
        names: Sequence[str],
        batch_size: int | None = None,
        *,
        counts: list[sparse.csr_matrix] | None = None,
        **how: Any,
    ) -> dict[str, np.ndarray]:
        """Return outputs of all cells by name; what was read is appended to ``counts``."""
        found: dict[str, np.ndarray] = {}
        for rows, block, part in self.chunks(names, batch_size, **how):
            for name, values in part.items():
                if name not in found:
                    shape = self.opened.n_obs, *values.shape[1:]
                    found[name] = np.empty(shape, dtype=values.dtype)
                found[name][rows] = values
            if counts is not None:
                counts.append(block)
        return found

    def judge(self, counts: sparse.csr_matrix, probabilities: np.ndarray) -> QueryJudge | None:
        """Judge the query by some of its cells; ``None`` without a bank, or without any RNA."""
        model, measured = self.model, self.opened.measured
        if model.bank_ is None or not counts.nnz:
            return None

        def network(cells: sparse.csr_matrix) -> np.ndarray:
            read = as_cells(cells.astype(np.float32), np.zeros(cells.shape[0], dtype=np.int64))
            return self.network(read, ("probabilities",))["probabilities"]

        markers = marker_opinion(model.profiles_, model.taxonomy, measured)
        known = model.bank_, model.taxonomy, measured
        how: dict[str, Any] = {"adapted": self.network.adapter.is_applied, "seed": model.seed}
        return QueryJudge(*known, counts, probabilities, network, markers, **how)


def query_cells(
    opened: AlignedQuery,
    rows: Any,
    counts: sparse.csr_matrix,
    batch: np.ndarray,
    nodes: np.ndarray | None = None,
) -> QueryCells:
    """Return some cells of a query in memory, with what was measured beside their counts."""
    extra = opened.extra[rows]
    nodes = np.zeros(len(batch), dtype=np.int64) if nodes is None else nodes
    return QueryCells(counts, batch, nodes, extra.arrays, extra.has_rna)


def as_cells(
    counts: sparse.csr_matrix, nodes: np.ndarray, extra: dict[str, np.ndarray] | None = None
) -> QueryCells:
    """Return cells of a reference in memory."""
    return QueryCells(counts, np.full(len(nodes), -1), nodes, extra or {})


class CellReader:
    """Read cells by a network and its adapter, for the genes of one query.

    Threads may read with it at the same time.

    Parameters
    ----------
    module
        Network; one that has ``folded`` is read by what that returns, if it is something.
    adapter
        What it learned about a query.
    measured
        Whether the query has each gene, shape ``(n_genes,)``.
    profiles
        Mean profiles that the network is combined with; none by default.
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
        self.measured = torch.tensor(measured, dtype=torch.float32, device=device)
        self.folded = module.folded(self.measured) if hasattr(module, "folded") else None
        logits = torch.zeros(1, module.tree.taxonomy.n_edges, device=device)
        self.equal = module.tree(logits).exp()
        self.ensemble = None
        if profiles is not None:
            each = profiles, self.measured.cpu(), module.normalizer, module.tree
            self.ensemble = ProfileEnsemble(*each).to(device)

    @property
    def n_workers(self) -> int:
        """Blocks of cells that are best read at the same time."""
        is_cpu = self.measured.device.type == "cpu"
        return torch.get_num_threads() if is_cpu else GPU_WORKERS

    @torch.inference_mode()
    def __call__(
        self, cells: QueryCells, names: Sequence[str], batch_size: int | None = None
    ) -> dict[str, np.ndarray]:
        """Return outputs by name; ``logits`` are those without the adapter.

        ``seen`` tells in which cells anything that the network reads was counted; in the others all
        siblings are equally likely.
        """
        is_folded = self.folded is not None and not PLAIN_INPUTS & set(cells.extra)
        network: Any = self.folded if is_folded else self.module
        device, parts = self.measured.device, []
        if batch_size is None:
            batch_size = FOLDED_CELLS if is_folded else PLAIN_CELLS
        with _own_stream(device):
            for _, part in cells.parts(batch_size):
                inputs = part.tensors(self.measured, sparse=is_folded)
                if "logits" in names:
                    found = network.inference(**inputs)
                else:
                    how: Any = {"batch": part.batch, "ensemble": self.ensemble}
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
    """Return a tensor as an array in memory, half precision raised to single."""
    return np.asarray((tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy())


@contextmanager
def _own_stream(device: torch.device) -> Iterator[None]:
    """Let a thread's work on a GPU overlap with that of others."""
    if device.type != "cuda":
        yield
        return
    stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.default_stream(device))
    with torch.cuda.stream(stream):
        yield


class _OneThread:
    """Operators of torch on one thread, until the last one that wanted it is done."""

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
    """Give items with what a job makes of them, in their order, by so many workers.

    Threads within operators wait for each other at the end of every one; workers do not, so each
    has one thread of torch, whose number of threads is as before when the last item was given.

    Examples
    --------
    >>> list(in_order(lambda n: n * n, range(4), n_workers=2))
    [(0, 0), (1, 1), (2, 4), (3, 9)]
    """
    if n_workers == 1:
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

"""A query on the workers of a dask cluster: blocks are the jobs, the result is that of one process.

What was found out about the query, its judge and the network go to each worker once. Workers read
the cells from where they are stored, and what a lost one was doing is done again by another.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from hdeepinsight import __version__
from hdeepinsight._errors import examples, need_extra
from hdeepinsight._io import sha256
from hdeepinsight._progress import tracked
from hdeepinsight.data import CHUNK_CELLS, UnlikeSample
from hdeepinsight.models import Annotator

if TYPE_CHECKING:
    import pandas as pd

    from hdeepinsight.annotation import Annotation
    from hdeepinsight.data import AlignedQuery

Found = TypeVar("Found")

#: Blocks of a job: about a second of work.
JOB_BLOCKS = 4
#: Seconds to wait for a scheduler, and for its first worker.
PATIENCE = 30
#: Bytes that a worker may keep, and from which on an array is mapped, by the numbers of glibc.
_KEPT_MEMORY = {-1: 2**27, -3: 2**25}
#: Jobs for each thread of the workers that are handed out at a time.
AHEAD = 3


def _dask() -> Any:
    return need_extra("distributed", "distributed", "Annotating on several machines")


@contextmanager
def connected(client: Any) -> Iterator[Any]:
    """Give the client of a cluster, of itself or of the address of its scheduler; none of none.

    Raises
    ------
    ConnectionError
        If there is no scheduler at the address.
    TypeError
        If it is neither.
    """
    if client is None:
        yield None
        return
    distributed = _dask()
    if isinstance(client, distributed.Client):
        yield client
        return
    if not isinstance(client, str):
        expected = "a distributed.Client, or the address of a scheduler such as tcp://host:8786"
        raise TypeError(f"client must be {expected}, got a {type(client).__name__}.")
    try:
        own = distributed.Client(client, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"There is no dask scheduler at {client} ({error}). Start one with `dask scheduler`, "
            "or check the address, and that this machine can reach its port."
        ) from error
    with own:
        yield own


def check_workers(client: Any, *paths: Path) -> None:
    """Check that there are workers, with this release, which see some files.

    Raises
    ------
    RuntimeError
        If there are none, or some lack the package or have another version of it.
    FileNotFoundError
        If one does not see a file.
    """
    wanted = [str(path) for path in paths]

    def look() -> tuple[str | None, list[str]]:  # sent as code, where the package may be missing
        from importlib import metadata
        from os.path import exists

        try:
            version = metadata.version("hdeepinsight")
        except metadata.PackageNotFoundError:
            version = None
        return version, [path for path in wanted if not exists(path)]

    first = client.submit(int, pure=False)  # clusters that adapt grow only if there is work
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError as error:
        raise RuntimeError(
            f"The cluster at {client.scheduler.address} has had no worker for {PATIENCE} seconds. "
            f"Start some with `dask worker {client.scheduler.address}`."
        ) from error
    del first
    for address, (version, missing) in client.run(look).items():
        if version != __version__:
            has = "has no hdeepinsight" if version is None else f"has hdeepinsight {version}"
            raise RuntimeError(
                f"The worker at {address} {has}, and this machine has {__version__}. Install "
                "the same version on all machines."
            )
        if missing:
            raise FileNotFoundError(
                f"The worker at {address} does not see {examples(missing)}. Put it where all "
                "machines find it under the same path, such as on a shared file system."
            )


def annotate_on(client: Any, model: Any, opened: AlignedQuery, **how: Any) -> Annotation:
    """Annotate a query as its model does, by the workers of a cluster.

    Parameters
    ----------
    client
        Client of the cluster.
    model
        A trained classifier.
    opened
        Query, opened for it.
    **how
        ``decoder``, ``threshold`` and ``reject`` of its ``annotate``.
    """
    if opened.n_obs <= CHUNK_CELLS:  # which are judged all together
        annotation: Annotation = model.annotate(opened, **how)
        return annotation
    blocks = Annotator.of(model).blocks(opened, **how)
    done = on_workers(client, blocks, jobs_of(opened.n_obs), _outputs)
    parts = tracked(done, "Annotating", opened.n_obs, size=lambda part: len(part[0]))
    whole: Annotation = blocks.whole((slice(rows.start, rows.stop), part) for rows, part in parts)
    return whole


def jobs_of(stop: int, start: int = 0) -> Iterator[range]:
    """Give the cells of one job after the other, whole blocks each.

    Examples
    --------
    >>> list(jobs_of(40_000))
    [range(0, 16384), range(16384, 32768), range(32768, 40000)]
    """
    size = JOB_BLOCKS * CHUNK_CELLS
    return (range(first, min(first + size, stop)) for first in range(start, stop, size))


def on_workers(
    client: Any,
    blocks: Any,
    jobs: Iterable[range],
    do: Callable[[Any, range, pd.Index], Found],
    names: pd.Index | None = None,
) -> Iterator[tuple[range, Found]]:
    """Do something with the blocks of a query on the workers of a cluster.

    Parameters
    ----------
    client
        Client of the cluster.
    blocks
        The blocks of the query, as ``Annotator.blocks`` returns them.
    jobs
        Cells of each job, from the start of a block to the end of one.
    do
        A function, importable on the workers, of the blocks, cells of one job, and their names.
    names
        Names of all cells, where ``do`` needs them.

    Yields
    ------
    Cells of a job and what was returned for it, in the order in which jobs end.

    Raises
    ------
    RuntimeError
        If worker after worker is lost at the same job.
    """
    from dask import config

    distributed = _dask()
    left = {job.start: job for job in jobs}
    with config.set({"distributed.admin.large-graph-warning-threshold": "1GiB"}):
        payload = _packed(blocks)
        # A task, not scattered data: it is there again after the worker that held it was lost.
        sent = client.submit(bytes, payload, key=f"hdeepinsight-{sha256(payload)}")
        done = distributed.as_completed(with_results=True, loop=client.loop)
        try:
            for job in list(left.values()):
                own = None if names is None else names[job.start : job.stop]
                done.add(client.submit(_job, sent, job, own, do, pure=False))
                while done.count() > AHEAD * sum(client.nthreads().values()):
                    rows, found = next(done)[1]
                    yield left.pop(rows.start), found
            for _, (rows, found) in done:
                yield left.pop(rows.start), found
            return
        except distributed.KilledWorker as error:
            raise RuntimeError(
                f"Several workers were lost at the same cells, one after the other ({error}). See "
                "their logs; if they lack memory, give them more, or fewer threads."
            ) from error
        except UnlikeSample:
            done.clear()
    blocks.reader.opened.source.inspection.settle()  # says what is wrong, or that nothing is
    yield from on_workers(client, blocks, left.values(), do, names)


def _packed(blocks: Any) -> bytes:
    """Write blocks for other processes, without names of cells."""
    import cloudpickle

    buffer, key = BytesIO(), blocks.reader.network.adapter.batch_key
    torch.save(blocks.portable([key] if key else []), buffer, pickle_module=cloudpickle)
    return buffer.getvalue()


@lru_cache(2)
def _unpacked(payload: bytes) -> Any:
    with suppress(OSError, AttributeError, TypeError):  # other systems than Linux have no mallopt
        # Nannies have workers give all memory back at once, which takes as long as the network.
        for setting in _KEPT_MEMORY.items():
            ctypes.CDLL(None).mallopt(*setting)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.load(BytesIO(payload), map_location=device, weights_only=False)


def _job(payload: bytes, rows: range, names: Any, do: Callable[..., Found]) -> tuple[range, Found]:
    return rows, do(_unpacked(payload), rows, names)


def _outputs(blocks: Any, rows: range, names: Any) -> Any:
    return blocks.outputs(rows)

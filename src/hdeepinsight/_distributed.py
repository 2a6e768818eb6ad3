"""Annotate a query on the workers of a dask cluster, with exactly the result of a single process.

Each worker receives the network and the results of inspecting the query once, and reads the cells
from storage. Jobs consist of whole blocks; the jobs of a lost worker are repeated by others.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch

from hdeepinsight import __version__
from hdeepinsight._errors import examples, need_extra
from hdeepinsight._io import sha256
from hdeepinsight._progress import tracked
from hdeepinsight.annotation import Annotation
from hdeepinsight.data import CHUNK_CELLS, AlignedQuery, UnlikeSample
from hdeepinsight.models import Annotator

Found = TypeVar("Found")

#: Blocks per job, about one second of work.
JOB_BLOCKS = 4
#: Seconds to wait for the scheduler and for the first worker.
TIMEOUT = 30
#: Parameters of glibc's mallopt: bytes to keep, and smallest allocation that is mapped.
_KEPT_MEMORY = {-1: 2**27, -3: 2**25}
#: Jobs submitted ahead per worker thread.
AHEAD = 3


def _dask() -> Any:
    return need_extra("distributed", "distributed", "Annotating on several machines")


@contextmanager
def connected(client: Any) -> Iterator[Any]:
    """Yield a client, also for the address of its scheduler; ``None`` for ``None``.

    Raises
    ------
    ConnectionError
        If the scheduler cannot be reached.
    TypeError
        If it is neither a client nor an address.
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
        own = distributed.Client(client, timeout=TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"The dask scheduler at {client} cannot be reached ({error}). Start one with `dask "
            "scheduler`, or check the address and whether its port is open."
        ) from error
    with own:
        yield own


def check_workers(client: Any, *paths: Path) -> None:
    """Check that there are workers, that they have this release, and that they find some files.

    Raises
    ------
    RuntimeError
        If there are no workers, or a worker lacks the package or has another version.
    FileNotFoundError
        If a worker does not find a file.
    """
    wanted = [str(path) for path in paths]

    def inspect() -> tuple[str | None, list[str]]:
        # Sent by value and without the package, which workers may lack.
        from importlib import metadata
        from os.path import exists

        try:
            version = metadata.version("hdeepinsight")
        except metadata.PackageNotFoundError:
            version = None
        return version, [path for path in wanted if not exists(path)]

    first = client.submit(int, pure=False)  # adaptive clusters only grow if there are tasks
    try:
        client.wait_for_workers(1, timeout=TIMEOUT)
    except TimeoutError as error:
        raise RuntimeError(
            f"The cluster at {client.scheduler.address} had no workers for {TIMEOUT} seconds. "
            f"Start some with `dask worker {client.scheduler.address}`."
        ) from error
    del first
    for address, found in client.run(inspect, on_error="return").items():
        if isinstance(found, OSError):
            continue  # lost meanwhile, and perhaps replaced
        if isinstance(found, Exception):
            raise found
        version, missing = found
        if version != __version__:
            has = "no hdeepinsight" if version is None else f"hdeepinsight {version}"
            raise RuntimeError(
                f"The worker at {address} has {has}, this machine has {__version__}. Install the "
                "same version on all machines."
            )
        if missing:
            raise FileNotFoundError(
                f"The worker at {address} does not find {examples(missing)}. Use a shared file "
                "system, where the file has the same path on all machines."
            )


def annotate_on(client: Any, model: Any, opened: AlignedQuery, **how: Any) -> Annotation:
    """Annotate a query on the workers of a cluster.

    Parameters
    ----------
    client
        Client of the cluster.
    model
        Trained classifier.
    opened
        Query, opened for the model.
    **how
        ``decoder``, ``threshold`` and ``reject`` of the model's ``annotate``.
    """
    if opened.n_obs <= CHUNK_CELLS:  # a single block
        annotation: Annotation = model.annotate(opened, **how)
        return annotation
    blocks = Annotator.of(model).blocks(opened, **how)
    done = on_workers(client, blocks, jobs_of(opened.n_obs), _outputs)
    parts = tracked(done, "Annotating", opened.n_obs, size=lambda part: len(part[0]))
    whole: Annotation = blocks.whole((slice(rows.start, rows.stop), part) for rows, part in parts)
    return whole


def jobs_of(stop: int, start: int = 0) -> Iterator[range]:
    """Divide cells into jobs of whole blocks.

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
    """Process the blocks of a query on the workers of a cluster.

    Parameters
    ----------
    client
        Client of the cluster.
    blocks
        Result of ``Annotator.blocks``.
    jobs
        Cells of each job, see `jobs_of`.
    do
        Importable function of ``blocks``, the cells of a job and their names.
    names
        Names of all cells, if ``do`` needs them.

    Yields
    ------
    Cells and result of each job, in order of completion.

    Raises
    ------
    RuntimeError
        If several workers are lost during the same job.
    """
    import cloudpickle
    from dask import config

    distributed = _dask()
    left = {job.start: job for job in jobs}
    with config.set({"distributed.admin.large-graph-warning-threshold": "1GiB"}):
        buffer, key = BytesIO(), blocks.network.adapter.batch_key
        torch.save(blocks.portable([key] if key else []), buffer, pickle_module=cloudpickle)
        payload = buffer.getvalue()  # without cell names
        # A task rather than scattered data, so that it is recomputed if its worker is lost.
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
                f"Several workers were lost while processing the same cells ({error}). Check their "
                "logs; if memory ran out, use workers with more memory or fewer threads."
            ) from error
        except UnlikeSample:
            done.clear()
    blocks.opened.source.inspection.settle()  # raises if the values are invalid
    yield from on_workers(client, blocks, left.values(), do, names)


@lru_cache(2)
def _unpacked(payload: bytes) -> Any:
    with suppress(OSError, AttributeError, TypeError):  # mallopt only exists on Linux
        # Nannies make workers return freed memory at once, which takes as long as the network.
        for setting in _KEPT_MEMORY.items():
            ctypes.CDLL(None).mallopt(*setting)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.load(BytesIO(payload), map_location=device, weights_only=False)


def _job(payload: bytes, rows: range, names: Any, do: Callable[..., Found]) -> tuple[range, Found]:
    return rows, do(_unpacked(payload), rows, names)


def _outputs(blocks: Any, rows: range, names: Any) -> Any:
    return blocks.outputs(rows)

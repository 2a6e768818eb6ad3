"""Seeding of torch's global random state, which is locked while a training uses it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_TRAINING = threading.RLock()


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Lock the global random state, waiting for trainings in other threads.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import one_at_a_time
    >>> with one_at_a_time():
    ...     torch.zeros(1)
    tensor([0.])
    """
    with _TRAINING:
        yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch within the block, one thread at a time; restore the random state afterwards.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import seeded
    >>> draws = []
    >>> for _ in range(2):
    ...     with seeded(0):
    ...         draws.append(float(torch.rand(1)))
    >>> draws[0] == draws[1]
    True
    """
    with one_at_a_time(), torch.random.fork_rng():
        torch.manual_seed(seed)
        yield

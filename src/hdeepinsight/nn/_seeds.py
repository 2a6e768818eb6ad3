"""Seeds of one's own, for one training at a time: all draw from the one random state of torch."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_TRAINING = threading.RLock()


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Wait for the trainings of other threads."""
    with _TRAINING:
        yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a seed of one's own, one thread at a time; the global state comes back after."""
    with one_at_a_time(), torch.random.fork_rng():
        torch.manual_seed(seed)
        yield

"""Saves to the folder of a model: what the tests compare, and processes to be killed.

The processes are forked from one that has imported PyTorch, so that hundreds can be started.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from hdeepinsight.models import ModelFolder

#: What a save calls when it changes the folder, but for ``os.fsync``.
CALLS = ("mkdir", "rename", "replace", "unlink", "rmdir", "open")
ROUNDS = 30


def content(generation: int) -> bytes:
    """Bytes of the reference, which tell which model it is of."""
    return b"%08d" % generation * 30_000


def payload(generation: int) -> dict:
    """A model that is as large, and tells which it is."""
    weights = torch.full((60_000,), generation, dtype=torch.int32)
    return {"model_state_dict": {"w": weights}, "attr_dict": {"generation": generation}}


def save(folder: ModelFolder, generation: int) -> None:
    """Save a model, with a reference."""

    def write_reference(path: Path) -> None:
        path.write_bytes(content(generation))

    folder.write(payload(generation), {"adata.h5ad": write_reference})


def save_for_ever(folder: ModelFolder, first: int) -> None:
    """Save until the process is killed."""
    for generation in count(first):
        save(folder, generation)


def save_often(folder: ModelFolder, first: int) -> None:
    """Save some models."""
    for generation in range(first, first + ROUNDS):
        save(folder, generation)


def save_until(folder: ModelFolder, n_steps: int) -> None:
    """Save, but be killed in place of one step."""
    left = n_steps

    def step(call: Callable) -> Callable:
        def run(*arguments, **options):
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return call(*arguments, **options)

        return run

    for name in CALLS:
        setattr(Path, name, step(getattr(Path, name)))
    os.fsync = step(os.fsync)
    save(folder, 2)


class Writer:
    """Another process, which runs one of these functions."""

    def __init__(self, function: Callable, folder: ModelFolder, argument: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["pytest", "torch", "hdeepinsight.models._base._registry"])
        started, to_start = context.Pipe(duplex=False)
        arguments = (to_start, function, folder, argument)
        self.process = context.Process(target=_run, args=arguments, daemon=True)
        self.process.start()
        to_start.close()
        assert started.recv_bytes() == b"started"

    def kill(self) -> None:
        """Kill it, wherever it is."""
        self.process.kill()
        assert self.wait() == -signal.SIGKILL

    def wait(self) -> int:
        """Return its exit code, when it has ended."""
        self.process.join(60)
        return self.process.exitcode

    def has_ended(self) -> bool:
        """Whether it has ended well."""
        return self.process.exitcode == 0


def _run(to_start: Connection, function: Callable, folder: ModelFolder, argument: int) -> None:
    to_start.send_bytes(b"started")
    function(folder, argument)

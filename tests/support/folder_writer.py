"""Saves to the folder of a model: what the tests compare, and a process of its own to be killed.

The process imports what writes folders and nothing else, so that hundreds can be started.
"""

import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

from hdeepinsight.models._file._folder import ModelFolder
from hdeepinsight.models._file._manifest import MODEL_FILES

FORMATS = tuple(MODEL_FILES)
#: What a save calls when it changes the folder, but for ``os.fsync``.
CALLS = ("mkdir", "rename", "replace", "unlink", "rmdir", "open")
ROUNDS = 30


def content(generation: int) -> bytes:
    """Bytes of each file of a model, which tell which model it is."""
    return b"%08d" % generation * 30_000


def save(folder: ModelFolder, generation: int, kind: str) -> None:
    """Save a model of one format, with a reference."""

    def write_reference(path: Path) -> None:
        path.write_bytes(content(generation))

    parts = dict.fromkeys(MODEL_FILES[kind], content(generation))
    folder.write(parts, {"adata.h5ad": write_reference})


def save_for_ever(folder: ModelFolder, first: str) -> None:
    """Save until the process is killed, in both formats by turns."""
    for generation in count(int(first)):
        save(folder, generation, FORMATS[generation % 2])


def save_often(folder: ModelFolder, first: str) -> None:
    """Save some models."""
    for generation in range(int(first), int(first) + ROUNDS):
        save(folder, generation, "torch")


def save_until(folder: ModelFolder, kind: str, n_steps: str) -> None:
    """Save, but be killed in place of one step."""
    left = int(n_steps)

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
    save(folder, 2, kind)


if __name__ == "__main__":
    name, folder, *arguments = sys.argv[1:]
    print("started", flush=True)
    {"save_for_ever": save_for_ever, "save_often": save_often, "save_until": save_until}[name](
        ModelFolder(Path(folder)), *arguments
    )

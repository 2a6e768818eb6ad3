"""The guard of the fuzz targets: what it lets through, and what it reports."""

import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from surfaces import guard
from surfaces.guard import Violation, scratch, watched

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is watched through /proc")


def refuse(text: str) -> None:
    raise ValueError(text)


DEEDS = {
    "executes": lambda: exec("1"),
    "compiles": lambda: compile("1", "x", "eval"),
    "imports": lambda: __import__("this"),
    "starts": lambda: subprocess.run(["true"], check=False),
    "shell": lambda: os.system("true"),
    "connects": lambda: socket.create_connection(("127.0.0.1", 9)),
    "resolves": lambda: socket.getaddrinfo("localhost", 80),
    "reads": lambda: Path("/etc/passwd").read_bytes(),
    "writes": lambda: Path("/tmp/hdi-fuzz-outside").write_bytes(b""),
    "climbs": lambda: (scratch() / "../hdi-fuzz-outside").write_bytes(b""),
    "removes": lambda: os.remove("/tmp/hdi-fuzz-outside"),
    "renames": lambda: os.rename("/tmp/hdi-fuzz-a", str(scratch() / "a")),
    "unpickles": lambda: __import__("pickle").loads(b"cos\nsystem\n."),
}


def test_a_deed_is_reported():
    for deed in DEEDS:
        with pytest.raises(Violation):
            watched(DEEDS[deed], (Exception,))
        assert not Path("/tmp/hdi-fuzz-outside").exists()


def test_a_deed_is_reported_even_where_it_is_hushed_up():
    def hushed() -> None:
        try:
            os.system("true")
        except BaseException:  # noqa: BLE001
            return

    with pytest.raises(Violation, match="system"):
        watched(hushed, ())


def test_time_is_bounded(monkeypatch):
    monkeypatch.setattr(guard, "CPU_SECONDS", 0.2)

    def hangs() -> None:
        while True:
            pass

    with pytest.raises(Violation, match="CPU time"):
        watched(hangs, (Exception,))


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(guard, "PEAK_BYTES", 2**24)
    with pytest.raises(Violation, match="memory grew"):
        watched(lambda: np.ones(2**23).sum(), ())
    with pytest.raises(Violation, match="memory"):
        watched(lambda: np.ones(2**40), ())


def test_an_unclear_error_is_reported():
    for text in ["no", "invalid literal for int()", "Found 3. Valid is 2. " + "x" * 2000 + "."]:
        with pytest.raises(Violation, match="unclear"):
            watched(partial(refuse, text), (ValueError,))


def test_what_is_allowed():
    assert watched(lambda: (scratch() / "a").write_bytes(b"abc"), ()) == 3
    assert watched(lambda: refuse("Found 3. Valid is 2. Pass 2."), (ValueError,)) is None
    with pytest.raises(ValueError, match="another"):
        watched(lambda: refuse("another"), (KeyError,))

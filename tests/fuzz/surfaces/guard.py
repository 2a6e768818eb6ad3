"""Watch one call: it may fail with a documented error, and do nothing else that matters.

Nothing is executed, imported, started, connected to or changed outside a scratch folder; time and
memory are bounded. What breaks this is a `Violation`, which no ``except Exception`` can hide.
"""

import codecs
import os
import re
import resource
import signal
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import networkx as nx

CPU_SECONDS = 5.0
#: What one input may make the process grow by, and the hard limit on its address space beyond that.
PEAK_BYTES = 2**30
ADDRESS_BYTES = 3 * 2**30
_LONGEST_MESSAGE = 1500

#: Audit events that nobody has a reason to raise while data is read; by the start of their names.
FORBIDDEN = (
    "compile",
    "exec",
    "marshal.",
    "pickle.find_class",
    "code.__new__",
    "function.__new__",
    "ctypes.dlopen",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "os.kill",
    "os.putenv",
    "pty.spawn",
    "subprocess.",
    "socket.",
    "ssl.",
    "urllib.",
    "http.",
    "ftplib.",
    "smtplib.",
    "webbrowser.",
    "sqlite3.",
)
#: Audit events that change files, and how many of their arguments are paths: in the scratch folder.
CHANGES = {
    "os.chmod": 1,
    "os.chown": 1,
    "os.link": 2,
    "os.mkdir": 1,
    "os.remove": 1,
    "os.rename": 2,
    "os.rmdir": 1,
    "os.symlink": 2,
    "os.truncate": 1,
    "os.utime": 1,
}
_REPOSITORY = Path(__file__).resolve().parents[3]
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

for _codec in ("utf-8-sig", "utf-16", "utf-16-be", "utf-16-le", "utf-32", "utf-32-be", "utf-32-le"):
    codecs.lookup(_codec)  # loaded at first use, as `json` does
_graph = nx.DiGraph([(0, 1)])  # networkx compiles the wrapper of a function as that is first used
for _function in (nx.is_directed_acyclic_graph, nx.transitive_reduction, nx.topological_sort):
    _function(_graph)
nx.find_cycle(nx.DiGraph([(0, 1), (1, 0)]))


class Violation(BaseException):
    """A promise that was broken; not an `Exception`, so that it gets through."""


class _Watch:
    """What the audit hook may know; a hook can never be removed again."""

    is_on = False
    seen: list[str]
    readable: tuple[str, ...] = ()


def _hook(event: str, args: tuple) -> None:
    if not _Watch.is_on:
        return
    problem = _problem(event, args)
    if problem is not None:
        _Watch.seen.append(problem)
        raise Violation(problem)


def _problem(event: str, args: tuple) -> str | None:
    if event == "open":
        return _opened(*args)
    if event == "import":
        known = args[0] in sys.modules or args[0].startswith("encodings.")
        return None if known else f"import of {args[0]}"
    if event == "compile" and args[1] == "<unknown>":
        return None  # `ast.parse`, with which a traceback finds what to underline
    if event.startswith(FORBIDDEN):
        return f"{event} {str(args)[:200]}"
    for path in args[: CHANGES.get(event, 0)]:
        if not _within(path, args[-1]):
            return f"{event} {str(args)[:200]}"
    return None


def _opened(path: object, mode: str | None, flags: int) -> str | None:
    if isinstance(path, int):
        return None
    writes = bool(flags & _WRITING) or (mode is not None and any(sign in mode for sign in "wax+"))
    if _within(path) or (not writes and _real(path).startswith(_Watch.readable)):
        return None
    return f"open {path!r} {mode} {flags}"


def _within(path: object, folder: object = -1) -> bool:
    if isinstance(folder, int) and folder >= 0 and not os.path.isabs(os.fsdecode(path)):
        path = os.path.join(f"/proc/self/fd/{folder}", os.fsdecode(path))
    home = str(scratch())  # not what the watch holds: a thread may still be reading as it ends
    return _real(path).startswith(f"{home}{os.sep}") or _real(path) == home


def _real(path: object) -> str:
    try:
        return os.path.realpath(os.fsdecode(path))
    except (ValueError, OSError):
        return "/no/such/path"  # a NUL, or longer than any path: nothing can be opened there


def _too_slow(*_: object) -> None:
    _Watch.seen.append(f"more than {CPU_SECONDS} s of CPU time")
    raise Violation(_Watch.seen[-1])


@contextmanager
def _limits() -> Iterator[None]:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + ADDRESS_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    before = signal.signal(signal.SIGPROF, _too_slow)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _memory(key: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{key}:\s+(\d+)", status)[1]) * 1024


@contextmanager
def _peak_checked() -> Iterator[None]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _memory("VmRSS")
    yield
    grown = _memory("VmHWM") - before
    if grown > PEAK_BYTES:
        raise Violation(f"memory grew by {grown >> 20} MB")


_installed = False
_SCRATCH = tempfile.TemporaryDirectory(prefix="hdi-fuzz-")


def scratch() -> Path:
    """Give the only folder that a target may write to."""
    return Path(os.path.realpath(_SCRATCH.name))


def watched(call: Callable[[], object], errors: tuple[type[Exception], ...]) -> object:
    """Run a call; give what it returns, or ``None`` where it ends in one of the errors.

    Raises
    ------
    Violation
        If it does anything that data has no reason to do, raises another error, or says too little.
    """
    global _installed
    if not _installed:
        sys.addaudithook(_hook)
        _installed = True
    roots = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), "/proc/self", "/sys"}
    _Watch.readable = (*map(os.path.realpath, roots), str(_REPOSITORY))
    _Watch.seen = []
    try:
        with _peak_checked(), _limits():
            result = _armed(call, errors)
    except MemoryError as error:
        raise Violation(f"memory: {error}") from error
    if _Watch.seen:  # a violation that somebody caught
        raise Violation(_Watch.seen[0])
    return result


def _armed(call: Callable[[], object], errors: tuple[type[Exception], ...]) -> object:
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _Watch.is_on = True
        try:
            return call()
        except errors as error:
            _Watch.is_on = False
            _check_message(error)
            return None
        finally:
            _Watch.is_on = False
            if time.process_time() - began > CPU_SECONDS:
                raise Violation(f"more than {CPU_SECONDS} s of CPU time")


def _check_message(error: Exception) -> None:
    """Demand what was found, what is valid and what to do next: sentences, but not the input."""
    text = str(error)
    sentences = re.findall(r"[^.:?]{3,}[.:?](?=\s|['\")]|$)", text)
    if len(sentences) < 2 or len(text) > _LONGEST_MESSAGE or text.strip()[-1] not in ".)'\"":
        raise Violation(f"unclear error {type(error).__name__}: {text[:300]!r}") from error

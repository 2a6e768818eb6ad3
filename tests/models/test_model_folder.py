"""A folder holds the old model or the new one, whatever happens while it is written."""

import errno
import os
import signal
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from hdeepinsight.models import ModelFileError
from hdeepinsight.models._file import _folder as module
from hdeepinsight.models._model_file import ModelFolder, read_model, write_model

FORMATS = ("torch", "safetensors")

#: These tests fork, which is safe only with OMP_NUM_THREADS=1; `pytest -m slow` runs them.
pytestmark = pytest.mark.slow


def payload(generation: int) -> dict:
    """A model whose every part tells which one it is."""
    weights = torch.full((300, 200), float(generation))
    return {"model_state_dict": {"w": weights}, "attr_dict": {"generation": generation}}


def save(folder: ModelFolder, generation: int, kind: str) -> None:
    def write_reference(path: Path) -> None:
        path.write_bytes(b"%d" % generation * 1000)

    references = {"adata.h5ad": write_reference}
    write_model(folder, payload(generation), format=kind, references=references)


def generation_of(folder: ModelFolder) -> int:
    """Which model is there; every part has to agree."""
    read = read_model(folder)
    found = read["attr_dict"]["generation"]
    assert (read["model_state_dict"]["w"] == found).all()
    assert folder.reference().read_bytes() == b"%d" % found * 1000
    return found


def hidden(folder: ModelFolder) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir() if path.name.startswith("."))


class Child:
    """A copy of this process, which needs no imports, that runs a function and never returns."""

    def __init__(self, run, *arguments):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking beside other threads
            self.id = os.fork()
        if self.id == 0:
            code = 1
            try:
                run(*arguments)
                code = 0
            finally:
                os._exit(code)

    def kill(self) -> None:
        os.kill(self.id, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.id, 0)[1])


def save_for_ever(folder: ModelFolder, start: int) -> None:
    generation = start
    while True:
        save(folder, generation, FORMATS[generation % 2])
        generation += 1


def check_kills(folder: ModelFolder, n_trials: int) -> None:
    """Kill a process that saves, at a random moment; a loadable model has to be left each time."""
    save(folder, 0, "torch")
    began = time.perf_counter()
    save(folder, 1, "safetensors")
    duration = time.perf_counter() - began
    rng = np.random.default_rng(0)
    last, interrupted = 1, 0
    for _ in range(n_trials):
        child = Child(save_for_ever, folder, last + 1)
        time.sleep(rng.uniform(0, 4 * duration))
        child.kill()
        interrupted += bool(hidden(folder))
        found = generation_of(folder)
        assert found >= last, "an older model came back"
        last = found
    assert last > 1, "no save was ever finished"
    assert interrupted, "no save was ever interrupted"
    save(folder, last + 1, "torch")
    assert generation_of(folder) == last + 1
    assert hidden(folder) == [], "what the killed processes left is removed"
    names = ["adata.h5ad", "manifest.json", "model.pt"]
    assert sorted(path.name for path in folder.path.iterdir()) == names


def test_kills_at_random_moments(tmp_path):
    check_kills(ModelFolder(tmp_path / "model"), 15)


@pytest.mark.slow
def test_200_kills_at_random_moments(tmp_path):
    check_kills(ModelFolder(tmp_path / "model"), 200)


CALLS = ("mkdir", "rename", "replace", "unlink", "rmdir", "open")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("torch", "torch"),
        ("torch", "safetensors"),
        (None, "torch"),
        pytest.param("safetensors", "torch", marks=pytest.mark.slow),
        pytest.param("safetensors", "safetensors", marks=pytest.mark.slow),
        pytest.param(None, "safetensors", marks=pytest.mark.slow),
    ],
)
def test_a_kill_before_any_step_leaves_the_old_or_the_new_model(tmp_path, old, new):
    """Every system call that changes the folder, one after the other, is the last one."""
    n_steps = 0
    while True:
        folder = ModelFolder(tmp_path / str(n_steps))
        if old is not None:
            save(folder, 1, old)
        child = Child(save_until, folder, new, n_steps)
        finished = child.wait() == 0
        if old is None and not any(p for p in folder.path.glob(".*") if p.name.endswith("saved")):
            try:
                assert generation_of(folder) == 2
            except ModelFileError as error:
                assert "There is no model" in str(error)  # noqa: PT017 - either is right
        else:
            assert generation_of(folder) in (1, 2)
        if finished:
            break
        save(folder, 3, old or new)
        assert generation_of(folder) == 3
        assert hidden(folder) == []
        n_steps += 1
    assert generation_of(folder) == 2
    assert n_steps >= 10


def save_until(folder: ModelFolder, kind: str, n_steps: int) -> None:
    """Save, but be killed in place of one step."""
    left = n_steps

    def step(call):
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


def test_several_processes_save_to_one_folder(tmp_path):
    folder = ModelFolder(tmp_path / "model")
    save(folder, 1, "torch")
    children = [Child(save_often, folder, first) for first in (100, 200, 300)]
    seen = set()
    while children:
        seen.add(generation_with_patience(folder))
        children = [child for child in children if not has_ended(child)]
    assert len(seen) > 1
    assert generation_of(folder) in (129, 229, 329)
    assert hidden(folder) == []


def save_often(folder: ModelFolder, first: int) -> None:
    for generation in range(first, first + 30):
        save(folder, generation, "torch")


def generation_with_patience(folder: ModelFolder) -> int:
    """Model and reference are two reads: between them another process may save."""
    read = read_model(folder)
    found = read["attr_dict"]["generation"]
    assert (read["model_state_dict"]["w"] == found).all()
    return found


def has_ended(child: Child) -> bool:
    ended, status = os.waitpid(child.id, os.WNOHANG)
    assert os.waitstatus_to_exitcode(status) == 0 or not ended
    return bool(ended)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("room", [0, 100, 20_000, 239_000, 241_000])
def test_a_full_disk_leaves_the_old_model(tmp_path, kind, room):
    folder = ModelFolder(tmp_path / "model")
    save(folder, 1, kind)
    assert Child(save_on_a_full_disk, folder, kind, room).wait() == 0
    assert generation_of(folder) == 1
    assert hidden(folder) == []


def save_on_a_full_disk(folder: ModelFolder, kind: str, room: int) -> None:
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    try:
        save(folder, 2, kind)
    except OSError as error:
        assert error.errno == errno.EFBIG  # noqa: PT017 - in another process
    else:
        assert room > 240_400, "the disk was not full"
        save(folder, 1, kind)


@pytest.fixture
def public_folder():
    """A folder that others may enter, which the temporary ones of pytest are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield ModelFolder(Path(name) / "model")
        Path(name).chmod(0o755)
        (Path(name) / "model").chmod(0o755)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX users")
def test_a_read_only_folder_is_read_and_not_written(public_folder):
    folder = public_folder
    save(folder, 1, "torch")
    folder.path.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        assert generation_of(folder) == 1
        with pytest.raises(PermissionError):
            save(folder, 2, "torch")
        assert generation_of(folder) == 1
    finally:
        os.seteuid(user)


def test_a_model_that_a_killed_process_left_is_read_without_the_right_to_write(public_folder):
    folder = public_folder
    save(folder, 1, "torch")
    n_steps = 0
    while True:
        assert Child(save_until, folder, "torch", n_steps).wait() != 0
        if ".model-saved" in hidden(folder):
            break
        n_steps += 1
    folder.path.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        assert generation_of(folder) == 2
    finally:
        os.seteuid(user)


def test_files_are_as_readable_as_others(tmp_path):
    before = os.umask(0o022)
    try:
        save(ModelFolder(tmp_path / "model"), 1, "torch")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
    assert modes == {0o644}


def test_litter_of_a_running_process_stays(tmp_path):
    folder = ModelFolder(tmp_path)
    host = module._host()
    running = tmp_path / f".model-saving-{host}-{os.getpid()}-abcd"
    elsewhere = tmp_path / ".model-saving-another.host-1-abcd"
    gone = tmp_path / f".model-saving-{host}-{2**22 + 1}-abcd"
    for path in (running, elsewhere, gone):
        path.mkdir()
    save(folder, 1, "torch")
    assert running.exists()
    assert elsewhere.exists()
    assert not gone.exists()


def test_prefixes_keep_models_apart(tmp_path):
    first, second = ModelFolder(tmp_path, "a_"), ModelFolder(tmp_path, "b_")
    save(first, 1, "torch")
    save(second, 2, "safetensors")
    assert (generation_of(first), generation_of(second)) == (1, 2)
    assert not ModelFolder(tmp_path).holds_model


def test_other_files_in_the_folder_stay(tmp_path):
    save(ModelFolder(tmp_path), 1, "safetensors")
    for name in ("notes.txt", "a_model.pt", "mdata.h5mu"):
        (tmp_path / name).write_text("mine")
    save(ModelFolder(tmp_path), 2, "torch")
    assert not (tmp_path / "model.json").exists()
    assert not (tmp_path / "model.safetensors").exists()
    assert all((tmp_path / n).read_text() == "mine" for n in ("notes.txt", "a_model.pt"))
    assert generation_of(ModelFolder(tmp_path)) == 2
    assert (tmp_path / "mdata.h5mu").read_text() == "mine"

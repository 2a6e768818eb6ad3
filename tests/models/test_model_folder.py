"""A folder holds the old or the new model, whatever happens during writing."""

import errno
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import folder_writer
import numpy as np
import pytest
import torch
from folder_writer import ROUNDS, Writer, content, payload, save

from hdeepinsight.models import ModelFileError, ModelFolder


def generation_of(folder: ModelFolder) -> int:
    """Return which model is in the folder; all parts must agree."""
    found = generation_of_parts(folder)
    assert folder.reference().read_bytes() == content(found)
    return found


def generation_of_parts(folder: ModelFolder) -> int:
    """Which model is there, whatever its reference: that is another read."""
    read = folder.read()
    found = read["attr_dict"]["generation"]
    weights = read["model_state_dict"]["w"]
    assert torch.equal(weights, payload(found)["model_state_dict"]["w"])
    return found


def hidden(folder: ModelFolder) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir() if path.name.startswith("."))


def duration_in_a_process(folder: ModelFolder) -> float:
    """Measure how long a new process takes for a save, its first one included."""
    writer = Writer(folder_writer.save_for_ever, folder, 2)
    began = time.perf_counter()
    while generation_of_parts(folder) < 4:
        assert time.perf_counter() - began < 60
    writer.kill()
    return (time.perf_counter() - began) / 3


def check_kills(folder: ModelFolder, n_trials: int) -> None:
    """Kill a process that saves, at a random moment; a loadable model has to be left each time."""
    save(folder, 1)
    duration = duration_in_a_process(folder)
    first = last = generation_of(folder)
    rng = np.random.default_rng(0)
    interrupted = 0
    for _ in range(n_trials):
        writer = Writer(folder_writer.save_for_ever, folder, last + 1)
        time.sleep(rng.uniform(0, 4 * duration))
        writer.kill()
        interrupted += bool(hidden(folder))
        found = generation_of(folder)
        assert found >= last, "an older model came back"
        last = found
    assert last > first, "no save was ever finished"
    assert interrupted, "no save was ever interrupted"
    save(folder, last + 1)
    assert generation_of(folder) == last + 1
    assert hidden(folder) == [], "what the killed processes left is removed"
    names = ["adata.h5ad", "manifest.json", "model.pt"]
    assert sorted(path.name for path in folder.path.iterdir()) == names


def test_kills_at_random_moments(tmp_path):
    check_kills(ModelFolder(tmp_path / "model"), 15)


@pytest.mark.slow
def test_200_kills_at_random_moments(tmp_path):
    check_kills(ModelFolder(tmp_path / "model"), 200)


@pytest.mark.parametrize("old", [1, None])
def test_a_kill_before_any_step_leaves_the_old_or_the_new_model(tmp_path, old):
    """Every system call that changes the folder, one after the other, is the last one."""
    n_steps = 0
    while True:
        folder = ModelFolder(tmp_path / str(n_steps))
        if old is not None:
            save(folder, old)
        code = Writer(folder_writer.save_until, folder, n_steps).wait()
        assert code in (0, -signal.SIGKILL)
        if old is None and not any(p for p in folder.path.glob(".*") if p.name.endswith("saved")):
            try:
                assert generation_of(folder) == 2
            except ModelFileError as error:
                assert "There is no model" in str(error)  # noqa: PT017 - either is right
        else:
            assert generation_of(folder) in (1, 2)
        if code == 0:
            break
        save(folder, 3)
        assert generation_of(folder) == 3
        assert hidden(folder) == []
        n_steps += 1
    assert generation_of(folder) == 2
    assert n_steps >= 10


def test_several_processes_save_to_one_folder(tmp_path):
    folder = ModelFolder(tmp_path / "model")
    save(folder, 1)
    writers = [Writer(folder_writer.save_often, folder, first) for first in (100, 200, 300)]
    seen = set()
    while writers:
        seen.add(generation_of_parts(folder))
        writers = [writer for writer in writers if not writer.has_ended()]
    assert len(seen) > 1
    assert generation_of(folder) % 100 == ROUNDS - 1
    assert hidden(folder) == []


@contextmanager
def room_on_disk(room: int) -> Iterator[None]:
    """Let this process write files of so many bytes, and not for longer: logs are files too."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_model(tmp_path_factory):
    for room in [0, 100, 20_000, 239_000, 240_010]:
        tmp_path = tmp_path_factory.mktemp("case")
        weights = torch.full((300, 200), 1.0)
        old, new = ({"model_state_dict": {"w": value * weights}} for value in (1, 2))
        folder = ModelFolder(tmp_path / "model")
        folder.write(old)
        with pytest.raises(OSError, match="large") as error, room_on_disk(room):
            folder.write(new)
        assert error.value.errno == errno.EFBIG
        assert (folder.read()["model_state_dict"]["w"] == weights).all()
        assert hidden(folder) == []


@pytest.fixture
def public_folder():
    """A folder that others may enter, which the temporary ones of pytest are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield ModelFolder(Path(name) / "model")
        Path(name).chmod(0o755)
        (Path(name) / "model").chmod(0o755)


@pytest.fixture
def read_only():
    """Take away the right to write, which the superuser would keep, until the test ends."""
    if not hasattr(os, "seteuid"):
        pytest.skip("needs POSIX users")
    user = os.geteuid()

    def take_away(folder: ModelFolder) -> None:
        folder.path.chmod(0o555)
        if user == 0:
            os.seteuid(65534)

    yield take_away
    os.seteuid(user)


def test_a_read_only_folder_is_read_and_not_written(public_folder, read_only):
    folder = public_folder
    save(folder, 1)
    read_only(folder)
    assert generation_of(folder) == 1
    with pytest.raises(PermissionError):
        save(folder, 2)
    assert generation_of(folder) == 1


def test_a_model_that_a_killed_process_left_is_read_without_the_right_to_write(
    public_folder, read_only
):
    folder = public_folder
    save(folder, 1)
    n_steps = 0
    while True:
        assert Writer(folder_writer.save_until, folder, n_steps).wait() == -signal.SIGKILL
        if ".model-saved" in hidden(folder):
            break
        n_steps += 1
    read_only(folder)
    assert generation_of(folder) == 2


def test_files_are_as_readable_as_others(tmp_path):
    before = os.umask(0o022)
    try:
        save(ModelFolder(tmp_path / "model"), 1)
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
    assert modes == {0o644}


def test_temporary_files_of_a_running_process_are_kept(tmp_path):
    folder = ModelFolder(tmp_path)
    host = socket.gethostname()
    running = tmp_path / f".model-saving-{host}-{os.getpid()}-abcd"
    elsewhere = tmp_path / ".model-saving-another.host-1-abcd"
    gone = tmp_path / f".model-saving-{host}-{2**22 + 1}-abcd"
    for path in (running, elsewhere, gone):
        path.mkdir()
    save(folder, 1)
    assert running.exists()
    assert elsewhere.exists()
    assert not gone.exists()


def test_prefixes_keep_models_apart(tmp_path):
    first, second = ModelFolder(tmp_path, "a_"), ModelFolder(tmp_path, "b_")
    save(first, 1)
    save(second, 2)
    assert (generation_of(first), generation_of(second)) == (1, 2)
    assert not ModelFolder(tmp_path).holds_model


def test_other_files_in_the_folder_stay(tmp_path):
    save(ModelFolder(tmp_path), 1)
    for name in ("notes.txt", "a_model.pt", "mdata.h5mu", "model.json"):
        (tmp_path / name).write_text("mine")
    save(ModelFolder(tmp_path), 2)
    assert all(
        (tmp_path / n).read_text() == "mine" for n in ("notes.txt", "a_model.pt", "model.json")
    )
    assert generation_of(ModelFolder(tmp_path)) == 2
    assert (tmp_path / "mdata.h5mu").read_text() == "mine"


@pytest.mark.parametrize("prefix", ["", "pbmc_"])
def test_the_reference_of_a_replaced_model_is_removed(tmp_path, prefix):
    folder = ModelFolder(tmp_path, prefix)
    for own in ("notes.txt", "mdata.h5mu"):  # of somebody else: no model of ours lists it
        (tmp_path / own).write_text("kept")
    save(folder, 1)
    assert folder.reference() is not None
    folder.write(payload(2))
    assert folder.reference() is None
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"{prefix}model.pt", f"{prefix}manifest.json", "notes.txt", "mdata.h5mu"}


def test_a_reference_with_a_damaged_manifest_is_kept(tmp_path):
    folder = ModelFolder(tmp_path)
    save(folder, 1)
    (tmp_path / "manifest.json").write_text("{}")
    folder.write(payload(2))
    assert (tmp_path / "adata.h5ad").read_bytes() == content(1)

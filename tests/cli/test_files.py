"""Where results may go, and how they take the place of what was there."""

import os
from pathlib import Path

import pytest

from hdeepinsight.cli._boundary import UsageProblem
from hdeepinsight.cli._files import check_output, require_writable, written_at_once


def _store(path: Path, text: str) -> None:
    path.mkdir()
    (path / "zarr.json").write_text(text)


def _store_until_the_disk_is_full(path: Path) -> None:
    _store(path, "new")
    raise OSError("The disk is full.")


def _content(path: Path) -> str:
    return (path / "zarr.json" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("old", [None, Path.write_text, _store])
@pytest.mark.parametrize("new", [Path.write_text, _store])
def test_a_result_takes_the_place_of_whatever_was_there(tmp_path, old, new):
    out = tmp_path / "deep" / "out.zarr"
    if old is not None:
        out.parent.mkdir()
        old(out, "old")
    with written_at_once(out) as path:
        new(path, "new")
    assert _content(out) == "new"
    assert [found.name for found in out.parent.iterdir()] == ["out.zarr"]


@pytest.mark.parametrize("old", [Path.write_text, _store])
def test_what_was_there_stays_where_writing_fails(tmp_path, old):
    out = tmp_path / "out.zarr"
    old(out, "old")
    with pytest.raises(OSError, match="full"), written_at_once(out) as path:
        _store_until_the_disk_is_full(path)
    assert _content(out) == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["out.zarr"]


def test_a_folder_that_is_no_store_is_never_replaced(tmp_path):
    out = tmp_path / "out.zarr"
    out.mkdir()
    with pytest.raises(UsageProblem, match="not a zarr store, so it is not replaced"):
        check_output(out, source=tmp_path / "query.h5ad", overwrite=True)
    (out / "zarr.json").write_text("{}")
    check_output(out, source=tmp_path / "query.h5ad", overwrite=True)


def test_a_place_below_a_file_is_refused_before_any_work(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    for out in (file / "out.csv", file / "deep" / "out.csv"):
        with pytest.raises(UsageProblem, match=r"--out .*notes\.txt is not a folder\. Valid"):
            check_output(out, source=tmp_path / "query.h5ad", overwrite=False)
    assert file.read_text() == "mine"


def test_a_folder_that_may_not_be_written_to_is_refused_before_any_work(tmp_path, monkeypatch):
    require_writable(tmp_path / "new" / "model")
    locked = tmp_path / "locked"
    locked.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked)
    with pytest.raises(UsageProblem, match="locked may not be written to"):
        require_writable(locked / "new" / "model")

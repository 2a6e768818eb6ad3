"""Atomic writes, and escaped control characters."""

import os
from pathlib import Path

import pytest

from hdeepinsight._io import atomic_write, escape_controls


def _store(path: Path, text: str) -> None:
    path.mkdir()
    (path / "zarr.json").write_text(text)


def _store_until_the_disk_is_full(path: Path) -> None:
    _store(path, "new")
    raise OSError("The disk is full.")


def _content(path: Path) -> str:
    return (path / "zarr.json" if path.is_dir() else path).read_text()


def test_existing_file_or_folder_is_replaced(tmp_path_factory):
    for new in [Path.write_text, _store]:
        for old in [None, Path.write_text, _store]:
            tmp_path = tmp_path_factory.mktemp("case")
            out = tmp_path / "deep" / "out.zarr"
            if old is not None:
                out.parent.mkdir()
                old(out, "old")
            if (old, new) == (_store, Path.write_text):  # a folder may hold other files
                with (
                    pytest.raises(IsADirectoryError, match=r"must be a file.*Pass the path of"),
                    atomic_write(out) as path,
                ):
                    new(path, "new")
                assert _content(out) == "old"
                continue
            with atomic_write(out) as path:
                new(path, "new")
            assert _content(out) == "new"
            assert [found.name for found in out.parent.iterdir()] == ["out.zarr"]


@pytest.mark.parametrize("old", [Path.write_text, _store])
def test_old_content_is_kept_if_writing_fails(tmp_path, old):
    out = tmp_path / "out.zarr"
    old(out, "old")
    with pytest.raises(OSError, match="full"), atomic_write(out) as path:
        _store_until_the_disk_is_full(path)
    assert _content(out) == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["out.zarr"]


def test_a_link_is_followed(tmp_path_factory):
    for dangling in [False, True]:
        for new in [Path.write_text, _store]:
            tmp_path = tmp_path_factory.mktemp("case")
            target, link = tmp_path / "there" / "target.csv", tmp_path / "link.csv"
            target.parent.mkdir()
            if not dangling:
                target.write_text("old")
            link.symlink_to(target)
            with atomic_write(link) as path:
                new(path, "new")
            assert link.is_symlink()
            assert _content(target) == "new"
            assert [found.name for found in target.parent.iterdir()] == ["target.csv"]


def test_file_permissions_follow_the_umask(tmp_path):
    with atomic_write(tmp_path / "a.csv") as path:
        path.write_text("new")
    (tmp_path / "b.csv").write_text("plain")
    modes = {os.stat(tmp_path / name).st_mode for name in ("a.csv", "b.csv")}
    assert len(modes) == 1


def test_control_and_direction_characters_are_escaped():
    hostile = "\x00\x07\x1b\x7f\x85\x9b\u061c\u200b\u200f\u202e\u2066\ufeff\ud83e\r"
    shown = escape_controls(f"a\tb\n{hostile}γδ 辅")
    assert shown.startswith("a\tb\n\\x00\\x07\\x1b")
    assert shown.endswith("\\ud83e\\rγδ 辅")
    assert not set(hostile) & set(shown)

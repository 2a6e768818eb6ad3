"""What comes from a hub: addresses, answers, lists of files, the files themselves, and cards."""

import hashlib
import html
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import yaml
from huggingface_hub import HfApi
from huggingface_hub.utils import disable_progress_bars, get_session

from hdeepinsight.hub import HubError
from hdeepinsight.hub._address import Address
from hdeepinsight.hub._card_text import _cell, _fenced, _text
from hdeepinsight.hub._download import Patience, fetch_files
from hdeepinsight.hub._hub_source import HubSource
from hdeepinsight.hub._list import _row, _tags_of_card
from hdeepinsight.hub._manifest import parse_checksums
from hdeepinsight.hub._pull import SharedModel
from hdeepinsight.hub._shelf import Shelf
from hdeepinsight.hub._sources import Body, RemoteFile
from surfaces.dice import Dice
from surfaces.guard import Violation, scratch, watched

_NAMES = (
    "model.pt", "checksums.sha256", "README.md", "_scvi_required_metadata.json", "adata.h5ad", "a",
    "a/b", "a/b/c/d", "a/b/c/d/e", "../up", "../../up", "/etc/x", "a\\b", ".x", "a/../b", "..", ".",
    "", "a\0b", "a\nb", "é", "\u202e", "MODEL.PT", "Model.pt", "con", "model.pt.part", "a.", " a",
    "a ", "C:x", "x" * 200, "//a", "a//b", "~/x", "$HOME", "%2e%2e/x", "file:///x",
)  # fmt: skip
_SIZES = (0, 1, 3, 4, 5, 10, 2**20, 2**40, 2**63, -1, -(2**40))
_VALUES = (
    None,
    True,
    -1,
    0,
    10**30,
    1.5,
    "",
    "x",
    "..",
    "../..",
    "NaN",
    [],
    {},
    [1],
    {"a": 1},
    "\ud7ff",
)
#: The HTTP library of the hub's client, which has changed its name between releases.
httpx = import_module(type(get_session()).__module__.partition(".")[0])
_QUICK = Patience(attempts=2, pause=0.0, longest_pause=0.0)


def hub_address(data: bytes) -> None:
    """An address of a model, and the folder that is kept for it."""
    warm_up()
    text = data.decode("utf-8", errors="surrogateescape")
    found = watched(lambda: Address.parse(text), (ValueError,))
    if isinstance(found, Address) and found.kind != "folder":
        _stays_inside(Shelf(found, scratch()).revision(text))


def hub_checksums(data: bytes) -> None:
    """A list of checksums: any bytes, or sound lines with strange names."""
    warm_up()
    dice = Dice(data)
    text = dice.rest() if dice.number(2) else _checksums(_files(dice), dice)
    listed = watched(lambda: parse_checksums(text, source="a hub"), (HubError,))
    for name in listed or ():
        _stays_inside(scratch() / name)


def hub_files(data: bytes) -> None:
    """A place that offers strange files, of sizes that lie."""
    warm_up()
    dice = Dice(data)
    folder = scratch() / "cache" / "model"
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.mkdir(parents=True)
    files = _files(dice)
    if dice.number(4):
        files["checksums.sha256"] = _checksums(files, dice)
    source = _Place(files, dice)
    watched(
        lambda: fetch_files(
            source, folder, max_bytes=10**6, verify=bool(dice.number(2)), patience=_QUICK
        ),
        (HubError,),
    )
    outside = [path for path in folder.parent.iterdir() if path != folder]
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if outside or held > 6 * 10**6:
        raise Violation(f"{outside}, {held} bytes")


def hub_answers(data: bytes) -> None:
    """A server whose answers are strange JSON, strange headers, or anything."""
    warm_up()
    dice = Dice(data)
    sound = {
        "id": "atlas/blood",
        "sha": "0" * 40,
        "tags": ["hdeepinsight"],
        "siblings": [
            {"rfilename": "model.pt", "size": 3, "lfs": {"sha256": "0" * 64, "size": 3}},
            {"rfilename": "README.md", "size": 2},
        ],
    }
    content = dice.rest() if dice.number(4) == 0 else json.dumps(_changed(sound, dice)).encode()
    status = dice.pick((200, 200, 200, 200, 204, 206, 302, 307, 404, 416, 429, 500, 999))
    headers = {
        dice.pick(
            ("Location", "Retry-After", "X-Error-Code", "Content-Type", "Link", "ETag")
        ): dice.pick(
            (
                "",
                "0",
                "-1",
                "x",
                "1e999",
                "http://127.0.0.1:9/",
                "file:///etc/passwd",
                "RevisionNotFound",
            )
        )
    }

    def answer(request: object) -> object:
        return httpx.Response(status, content=content, headers=headers, request=request)

    address = Address("hub", "atlas/blood")
    with _served_by(answer):
        watched(lambda: _ask(address), (HubError,))


def hub_card(data: bytes) -> None:
    """A card and the metadata beside it, in a folder that was fetched."""
    warm_up()
    dice = Dice(data)
    folder = scratch() / "fetched"
    folder.mkdir(exist_ok=True)
    metadata = {"model_parent_module": "hdeepinsight", "model_cls_name": "SCHDeepInsight"}
    changed = json.dumps(_changed(metadata, dice)).encode()
    card = dice.rest() if dice.number(2) else b"---\n" + dice.rest() + b"\n---\n"
    (folder / "README.md").write_bytes(card)
    (folder / "_scvi_required_metadata.json").write_bytes(changed if dice.number(2) else card)
    shared = SharedModel("atlas/blood", "0" * 40, folder)
    watched(lambda: _row("a/b", "here", "0", _tags_of_card(folder / "README.md")), ())
    watched(lambda: shared.card, ())
    watched(lambda: shared._model_class(), (HubError,))
    watched(lambda: _escaped(card.decode("utf-8", errors="replace")), ())


def _escaped(text: str) -> None:
    """Whatever a publisher writes, no tag is left, and nothing ends its cell or its fence."""
    assert "<" not in _text(text)
    assert ">" not in _text(text)
    assert html.unescape(_text(text)) == text.strip()
    cell = _cell(text)
    assert "<" not in cell
    assert "\n" not in cell
    assert "|" not in cell.replace("\\|", "")
    fenced = _fenced(text).split("\n")
    fence = fenced[-1]
    assert not any(line.strip().startswith(fence) for line in fenced[1:-1])


def _ask(address: Address) -> None:
    source = HubSource(address, None, "http://hub.invalid", False)
    shelf = Shelf(address, scratch())
    _stays_inside(shelf.revision(source.revision))
    files = source.files()
    for name, file in files.items():
        assert isinstance(name, str)
        assert file.size >= 0
    for name in list(files)[:2]:
        with source.open(name, 1) as body:
            for _ in body.chunks:
                pass


@contextmanager
def _served_by(answer: object) -> Iterator[None]:
    """Answer in this process: no connection is needed, so that every connection is a fault."""
    client = httpx.Client(transport=httpx.MockTransport(answer), follow_redirects=True)
    with patch("huggingface_hub.utils._http._GLOBAL_CLIENT", client):
        yield


class _Place:
    """Files that somebody offers, and what they say of them."""

    address, revision = "a place", "0" * 40

    def __init__(self, files: dict[str, bytes], dice: Dice) -> None:
        self.contents = files
        self.offered = {
            name: RemoteFile(
                name,
                len(body) if dice.number(3) else dice.pick(_SIZES),
                None if dice.number(2) else _sha(body),
            )
            for name, body in files.items()
        }
        self.start = dice.pick((None, 0))

    def files(self) -> dict[str, RemoteFile]:
        return self.offered

    @contextmanager
    def open(self, name: str, start: int) -> Iterator[Body]:
        body = self.contents[name]
        yield Body(start if self.start is None else self.start, iter([body[start:]]))


def _files(dice: Dice) -> dict[str, bytes]:
    names = [dice.pick(_NAMES) for _ in range(dice.number(6))]
    return {name: dice.take(dice.number(8)) for name in names}


def _checksums(files: dict[str, bytes], dice: Dice) -> bytes:
    lines = [f"{_sha(body)}  {name}" for name, body in files.items()]
    for _ in range(dice.number(3)):
        lines.append(f"{_sha(b'x')}  {dice.pick(_NAMES)}")
    n = len(lines) if dice.number(8) else dice.number(100)
    return "\n".join([f"# {n} files of a model of hdeepinsight", *lines, ""]).encode()


def _sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _stays_inside(path: Path) -> None:
    real, home = os.path.realpath(path), os.path.realpath(scratch())
    if not real.startswith(home + os.sep) or ".." in path.parts:
        raise Violation(f"leaves its folder: {path}")


def _changed(value: object, dice: Dice) -> object:
    if not isinstance(value, dict | list) or not value or dice.number(5) == 0:
        return dice.pick((*_VALUES, *_NAMES[:20]))
    key = dice.pick(list(value) if isinstance(value, dict) else range(len(value)))
    if dice.number(5) == 0:
        del value[key]
    else:
        value[key] = _changed(value[key], dice)
    return value


@cache
def warm_up() -> None:
    """Use the client once: what is imported at first use is no fault here."""
    HfApi(endpoint="http://hub.invalid", token=False)
    disable_progress_bars()
    yaml.safe_load("a: [1]")
    answer = {"id": "a/b", "sha": "0" * 40, "siblings": [{"rfilename": "a"}]}
    for status in (200, 404, 500):

        def respond(request: object, status: int = status) -> object:
            return httpx.Response(status, json=answer, request=request)

        with suppress(HubError), _served_by(respond):
            _ask(Address("hub", "a/b"))

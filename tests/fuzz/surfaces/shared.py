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

from huggingface_hub import HfApi
from huggingface_hub.utils import disable_progress_bars, get_session

from hdeepinsight.hub import HubError, SharedModel
from hdeepinsight.hub._address import Address
from hdeepinsight.hub._checksums import parse_checksums
from hdeepinsight.hub._places import HubPlace
from hdeepinsight.hub._publish import as_cell, as_fenced, as_markdown
from hdeepinsight.hub._pull import cache_of, download_files, read_tags, revision_folder
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


def hub_address(data: bytes) -> None:
    """An address of a model, and the folder that is kept for it."""
    warm_up()
    text = data.decode("utf-8", errors="surrogateescape")
    found = watched(lambda: Address.parse(text), (ValueError,))
    if isinstance(found, Address) and found.kind != "folder":
        with patch.dict(os.environ, HDEEPINSIGHT_CACHE=str(scratch())):
            _stays_inside(revision_folder(cache_of(found), text))


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
    shutil.rmtree(folder, ignore_errors=True)
    files = _files(dice)
    if dice.number(4):
        files["checksums.sha256"] = _checksums(files, dice)
    place = _Place(files, dice)
    watched(
        lambda: download_files(place, folder / "revision", max_bytes=10**6),
        (HubError,),
    )
    outside = {path.name for path in folder.parent.iterdir()} - {"model"}
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
    with _served_by(answer), patch("time.sleep"):
        watched(lambda: _ask(address), (HubError,))


def hub_card(data: bytes) -> None:
    """A card in a folder that was fetched."""
    warm_up()
    dice = Dice(data)
    folder = scratch() / "fetched"
    folder.mkdir(exist_ok=True)
    card = dice.rest() if dice.number(2) else b"---\n" + dice.rest() + b"\n---\n"
    (folder / "README.md").write_bytes(card)
    shared = SharedModel("atlas/blood", "0" * 40, folder)
    watched(lambda: read_tags(folder), ())
    watched(lambda: shared.card, ())
    watched(lambda: _escaped(card.decode("utf-8", errors="replace")), ())


def _escaped(text: str) -> None:
    """Whatever a publisher writes, no tag is left, and nothing ends its cell or its fence."""
    assert "<" not in as_markdown(text)
    assert ">" not in as_markdown(text)
    assert html.unescape(as_markdown(text)) == text.strip()
    cell = as_cell(text)
    assert "<" not in cell
    assert "\n" not in cell
    assert "|" not in cell.replace("\\|", "")
    fenced = as_fenced(text).split("\n")
    fence = fenced[-1]
    assert not any(line.strip().startswith(fence) for line in fenced[1:-1])


def _ask(address: Address) -> None:
    place = HubPlace(address, None, "http://hub.invalid", False)
    folder = revision_folder(scratch() / "answers", place.revision)
    _stays_inside(folder)
    download_files(place, folder, max_bytes=10**6)


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
            name: len(body) if dice.number(3) else abs(dice.pick(_SIZES))
            for name, body in files.items()
        }

    def size(self, name: str) -> int | None:
        return self.offered.get(name)

    def download(self, name: str, folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.contents[name])


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
    answer = {"id": "a/b", "sha": "0" * 40, "siblings": [{"rfilename": "a"}]}
    for status in (200, 404, 500):

        def respond(request: object, status: int = status) -> object:
            return httpx.Response(status, json=answer, request=request)

        with suppress(HubError), _served_by(respond):
            _ask(Address("hub", "a/b"))

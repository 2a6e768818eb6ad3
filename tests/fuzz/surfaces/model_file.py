"""A saved model: its archive, its pickle, its lists and what they describe."""

import io
import json
import struct
import warnings
import zipfile
from copy import deepcopy
from functools import cache
from pathlib import Path
from unittest.mock import patch

import torch

from hdeepinsight import SCHDeepInsight
from hdeepinsight._archive import append_digest, dump, parse
from hdeepinsight._io import sha256
from hdeepinsight.models import ModelFileError, ModelFolder
from surfaces.dice import Dice
from surfaces.guard import scratch, watched

_ERRORS = (ModelFileError,)
_GOLDEN = Path(__file__).parents[2] / "data" / "models"
_DIGEST_BYTES = 84
_PAYLOAD = {
    "model_state_dict": {
        "weight": torch.arange(12.0).reshape(3, 4),
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "mask": torch.tensor(True),
        "view": torch.arange(6).reshape(2, 3).t(),
    },
    "attr_dict": {"registry_": {"model_name": "Test"}, "numbers": [0, 2**40, 0.1, None, True]},
}
_STRANGE = (
    None, True, -1, 0, 1, 2, 64, 10**6, 10**15, 2**63, 0.0, -1.5, float("nan"), float("inf"), "",
    "x", "mean", "os.system", "../../etc/passwd", "efficientnet_v2_l", "x" * 3000, [], {}, [1, "a"],
    [10**12] * 3, [[1], [2, 3]], {"a": 1}, {"__dataframe__": ["a"], "index": [0], "name": None,
    "values": [[1.0]]}, {"__tensor__": "x"}, torch.zeros(0), torch.zeros(3), torch.zeros(2, 2),
    torch.full((2,), float("nan")), torch.tensor([-1, 10**9]), torch.tensor(5), torch.zeros(1, 1),
)  # fmt: skip


def model_pt(data: bytes) -> None:
    """``model.pt``: any bytes, a changed pickle in a sound archive, or a changed archive."""
    warm_up()
    dice = Dice(data)
    how = dice.number(4)
    if how == 0:
        content = dice.rest()
    elif how == 1:
        content = _archive(dice.edited(_parts()["data.pkl"]))
    elif how == 2:
        content = _strange_archive(dice)
    else:
        content = dice.edited(dump(_PAYLOAD)[:-_DIGEST_BYTES])
    if dice.number(2):  # a checksum guards against accidents: whoever changes a file can renew it
        content = append_digest(content)
    watched(lambda: parse(content, "model.pt"), _ERRORS)


def model_manifest(data: bytes) -> None:
    """``manifest.json`` in a folder with a model."""
    warm_up()
    dice = Dice(data)
    folder = ModelFolder(scratch() / "folder")
    if not folder.holds_model:
        folder.write(_PAYLOAD)
    sound = {"format": "hdeepinsight.manifest", "container_version": 1, "parts": _manifest_parts()}
    how = dice.number(3)
    if how == 0:
        content = dice.rest()
    elif how == 1:
        content = dice.edited(_with_digest(sound))
    else:
        changed = _changed(sound, dice)
        content = _with_digest(changed if isinstance(changed, dict) else {"parts": changed})
    folder.file("manifest.json").write_bytes(content)
    watched(lambda: (folder.read(), folder.reference()), _ERRORS)


def model_description(data: bytes) -> None:
    """Load a model with a correct digest whose description, or weights, are strange."""
    warm_up()
    dice = Dice(data)
    payload = deepcopy(_golden())
    for _ in range(1 + dice.number(3)):
        payload = _spoiled(payload, dice)
    folder = scratch() / "described"
    ModelFolder(folder).write(payload)
    # Asked how many accelerators there are, PyTorch loads libraries of the machine.
    with patch("torch.cuda.device_count", return_value=0):
        watched(lambda: SCHDeepInsight.load(folder, accelerator="cpu"), _ERRORS)


@cache
def _golden() -> dict:
    return ModelFolder(_GOLDEN / "schema_3").read()


@cache
def _parts() -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(dump(_PAYLOAD))) as file:
        return {name.split("/", 1)[1]: file.read(name) for name in file.namelist()}


def _manifest_parts() -> dict:
    content = dump(_PAYLOAD)
    return {"model.pt": {"bytes": len(content), "sha256": sha256(content)}}


def _with_digest(record: dict) -> bytes:
    """A JSON file with one key a line, and a checksum of all that as its last one."""
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in record.items())
    body = f'{{\n{lines},\n"sha256": "'
    return f'{body}{sha256(body.encode())}"\n}}\n'.encode()


def _archive(program: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in (_parts() | {"data.pkl": program}).items():
            file.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def _strange_archive(dice: Dice) -> bytes:
    """An archive with entries of strange names, packing and sizes; sometimes one over another."""
    names = (
        *_parts(), "../up", "/etc/x", "..\\x", "code/x.py", "data/0", "data/999999999",
        "constants.pkl", "é", "a\0b", "", ".", "x" * 300,
    )  # fmt: skip
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as file:
        warnings.simplefilter("ignore")  # of names that occur twice
        for name, content in _parts().items():
            if dice.number(8):
                file.writestr(f"archive/{name}", content)
        for _ in range(dice.number(4)):
            how = dice.pick((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
            top = dice.pick(("archive", "..", "other", "/"))
            content = bytes(2 ** dice.number(22))
            file.writestr(zipfile.ZipInfo(f"{top}/{dice.pick(names)}"), content, how)
    body = bytearray(buffer.getvalue())
    for _ in range(dice.number(4)):  # sizes and places in the central directory that lie
        at = body.find(b"PK\1\2", dice.number(len(body)))
        if at >= 0:
            field = at + dice.pick((10, 16, 20, 24, 42))
            body[field : field + 4] = struct.pack("<I", dice.number(2**32))
    return bytes(body)


def _changed(value: object, dice: Dice) -> object:
    """Put something strange somewhere into a JSON value."""
    plain = [item for item in _STRANGE if not isinstance(item, torch.Tensor) and item == item]
    plain = [item for item in plain if item not in (float("inf"), float("nan"))]
    if not isinstance(value, dict | list) or not value or dice.number(5) == 0:
        return dice.pick(plain)
    key = dice.pick(list(value) if isinstance(value, dict) else range(len(value)))
    how = dice.number(6)
    if how == 0:
        del value[key]
    elif how == 1 and isinstance(value, dict):
        value[str(dice.pick(("../model.pt", "/etc/passwd", "a/b", "adata.h5ad", "mdata.h5mu")))] = (
            value[key]
        )
    else:
        value[key] = _changed(value[key], dice)
    return value


def _spoiled(payload: dict, dice: Dice) -> dict:
    """Put something strange, or a thing from elsewhere in the payload, into a payload."""
    place = payload
    while True:
        key = dice.pick(list(place) if isinstance(place, dict) else range(len(place)))
        inside = place[key]
        if isinstance(inside, dict | list) and inside and dice.number(6):
            place = inside
            continue
        if dice.number(5) == 0:
            del place[key]
        else:
            place[key] = deepcopy(dice.pick(_STRANGE))
        return payload


@cache
def warm_up() -> None:
    """Load once: what is imported at first use is no fault here."""
    for name in ("schema_1_torch", "schema_2_torch", "schema_3"):
        SCHDeepInsight.load(_GOLDEN / name, accelerator="cpu")
    assert str(torch.zeros(2))
    assert b"a".decode("cp437") == "a"  # of the names in an archive

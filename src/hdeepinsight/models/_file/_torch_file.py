"""``model.pt``: the file of scvi-tools, with plain types only and sealed."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Mapping
from typing import Any, Final

import torch

from hdeepinsight.models._file._errors import damaged, first_sentence
from hdeepinsight.models._file._plain import check_plain, to_plain
from hdeepinsight.models._file._seal import Seal
from hdeepinsight.models._file._survey import survey

__all__ = ["SEALED_KEY", "dump_torch", "parse_torch"]

SEALED_KEY: Final = "sealed"
#: It stands in the comment of the archive, which every reader of archives skips.
SEAL: Final = Seal(b"hdeepinsight sha256 ")
_END = b"PK\5\6"
_END_BYTES = 22


def dump_torch(payload: Mapping[str, Any]) -> bytes:
    """Bytes of a file that ``torch.load(..., weights_only=True)`` reads.

    Parameters
    ----------
    payload
        Nested mappings and sequences of plain types, tensors, arrays and DataFrames.
    """
    # In memory: torch turns the error of a full disk into one of its own.
    buffer = io.BytesIO()
    torch.save({**to_plain(payload), SEALED_KEY: True}, buffer)
    content = buffer.getvalue()
    if not content.startswith(_END, len(content) - _END_BYTES):
        msg = "PyTorch wrote an archive that does not end as archives do. Report this."
        raise RuntimeError(msg)
    return SEAL.put_on(content[:-2] + struct.pack("<H", SEAL.n_bytes))


def parse_torch(content: bytes, name: object) -> dict[str, Any]:
    """Read what :func:`dump_torch` wrote; nothing in it is ever executed.

    Parameters
    ----------
    content
        The whole file.
    name
        Its path, for the error.

    Raises
    ------
    ModelFileError
        If it is damaged, or holds more than plain types and tensors.
    """
    is_sealed = SEAL.is_on(content, name)
    survey(content, name)
    try:
        with warnings.catch_warnings():
            # torch warns about unusual files that it then refuses; the error says enough.
            warnings.simplefilter("ignore", UserWarning)
            payload = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as e:  # what torch raises about odd files is open; fuzzing found assertions
        raise damaged(name, first_sentence(e)) from None
    payload = check_plain(payload, name)
    if payload.pop(SEALED_KEY, False) and not is_sealed:
        raise damaged(name, "Its checksum is missing.")
    return payload

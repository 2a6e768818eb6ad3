"""A saved model as data: its files, their checksums, and how they are written and read."""

from __future__ import annotations

from hdeepinsight.models._file._errors import ModelFileError
from hdeepinsight.models._file._folder import ModelFolder
from hdeepinsight.models._file._manifest import MANIFEST_FILE, MODEL_FILES
from hdeepinsight.models._file._plain import check_plain, frame_from_plain, to_plain
from hdeepinsight.models._file._tensor_file import dump_tensors, parse_tensors
from hdeepinsight.models._file._torch_file import dump_torch, parse_torch

__all__ = [
    "MANIFEST_FILE",
    "MODEL_FILES",
    "ModelFileError",
    "ModelFolder",
    "check_plain",
    "dump_tensors",
    "dump_torch",
    "frame_from_plain",
    "parse_tensors",
    "parse_torch",
    "to_plain",
]

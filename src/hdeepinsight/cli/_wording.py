"""What Python calls an argument, said as the option of the command."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["in_options"]

_OPTIONS: Final = {
    "batch_key": "--batch-key",
    "early_stopping": "--early-stopping",
    "fold_case": "--fold-case",
    "key_added": "--key-added",
    "labels_key": "--labels",
    "labels_keys": "--levels",
    "layer": "--layer",
    "overwrite": "--overwrite",
    "reference": "--reference",
    "revision": "--revision",
    "scale": "--scale",
    "split_key": "--split-by",
    "threshold": "--threshold",
    "unlabeled_category": "--unlabeled",
    "use_raw": "--raw",
    "validation_size": "--validation-size",
    "where": "--where",
}
#: An argument with its value, as errors advise it, or one whose name is no word of any language.
_ARGUMENT = re.compile(
    rf"(?<![\w.'\"\[])(?:(?P<given>{'|'.join(_OPTIONS)})=(?P<value>'[^']*'|\"[^\"]*\"|[\w.]*\w|)"
    rf"|(?P<named>{'|'.join(name for name in _OPTIONS if '_' in name)})(?![\w'\"\]]))"
)


def in_options(text: str) -> str:
    """Say what to do at the command line, where a text says what to do in Python.

    Examples
    --------
    >>> in_options("Name one with `layer=` (None means X) or `use_raw=True`.")
    'Name one with `--layer` (None means X) or `--raw`.'
    >>> in_options("Pass scale='as_is', or threshold=None; raise validation_size.")
    'Pass --scale as_is, or --to-leaves; raise --validation-size.'
    """
    return _ARGUMENT.sub(_option, text)


def _option(found: re.Match[str]) -> str:
    name, value = found["given"] or found["named"], (found["value"] or "").strip("'\"")
    if value == "None":
        return "--to-leaves" if name == "threshold" else f"no {_OPTIONS[name]}"
    return _OPTIONS[name] + (f" {value}" if value not in ("", "True") else "")

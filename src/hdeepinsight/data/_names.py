"""Recognise what kind of names the genes and cells of a matrix have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

IdentifierKind = Literal["symbol", "ensembl", "mixed", "unknown"]
Species = Literal["human", "mouse", "unknown"]

_ENSEMBL = re.compile(r"ENS[A-Z]*G\d{11}(\.\d+)?(_PAR_Y)?")
_VERSION = re.compile(r"(ENS[A-Z]*\d{11})\.\d+")
_SYMBOL = re.compile(r"(?=.*[A-Za-z]{2}|[A-Za-z]+\d)[A-Za-z0-9][A-Za-z0-9._@/:\-]*")
_BARCODE = re.compile(r"(?:.*[^A-Za-z])?[ACGTN]{8,}(?:[^A-Za-z].*)?")
_MOUSE_ONLY = re.compile(r"GM\d{3,}|[0-9A-Z]+RIK", re.IGNORECASE)
_TITLE = re.compile(r"[A-Z][a-z0-9.\-]*[a-z][a-z0-9.\-]*")
_MOST = 0.9
_SOME = 0.1
_MANY_NAMES = 20_000


def _share(names: Sequence[str], pattern: re.Pattern[str]) -> float:
    """Share of names that match as a whole; 0.0 without names."""
    if not len(names):
        return 0.0
    return sum(pattern.fullmatch(name) is not None for name in names) / len(names)


def _thin(names: Sequence[str]) -> Sequence[str]:
    """Evenly spaced names: a guess does not need a million of them."""
    return names[:: max(1, len(names) // _MANY_NAMES)]


def share_barcodes(names: Sequence[str]) -> float:
    """Return the share of names that hold a cell barcode (eight or more of A, C, G, T, N)."""
    return _share(_thin(names), _BARCODE)


def share_genes(names: Sequence[str]) -> float:
    """Return the share of names that look like a gene (symbol or Ensembl id) and not a barcode."""
    thin = _thin(names)
    return max(0.0, _share(thin, _SYMBOL) - _share(thin, _BARCODE))


def name_digests(names: pd.Index) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return a number per cell by which it is found again, shape ``(n_cells,)``; int64.

    A repeated name is numbered, so that each cell has a digest of its own.

    Examples
    --------
    >>> import pandas as pd
    >>> from hdeepinsight.data import name_digests
    >>> len(set(name_digests(pd.Index(["a", "b", "b"])).tolist()))
    3
    """
    text = pd.Series(names.astype(str))
    turn = text.groupby(text).cumcount()
    text = text.where(turn == 0, text + "\x00" + turn.astype(str))
    found: np.ndarray[Any, Any] = pd.util.hash_array(text.to_numpy(dtype=object))
    return found.view(np.int64)


def identifier_kind(names: Sequence[str]) -> IdentifierKind:
    """Return whether names are symbols, Ensembl ids, both, or neither.

    Examples
    --------
    >>> identifier_kind(["CD3D", "MS4A1"]), identifier_kind(["ENSG00000167286.9"])
    ('symbol', 'ensembl')
    """
    ensembl = _share(names, _ENSEMBL)
    if ensembl >= _MOST:
        return "ensembl"
    if ensembl > _SOME:
        return "mixed"
    return "symbol" if share_genes(names) >= 0.5 else "unknown"


def has_versions(names: Iterable[str]) -> bool:
    """Return whether any Ensembl id carries a version (``ENSG00000167286.9``)."""
    return any(_VERSION.fullmatch(name) for name in names)


def strip_version(name: str) -> str:
    """Return an Ensembl id without its version, and any other name unchanged.

    Examples
    --------
    >>> from hdeepinsight.data import strip_version
    >>> strip_version("ENSG00000167286.9"), strip_version("RP11-34P13.7")
    ('ENSG00000167286', 'RP11-34P13.7')
    """
    found = _VERSION.fullmatch(name)
    return found.group(1) if found else name


def guess_species(names: Sequence[str]) -> Species:
    """Guess human or mouse from Ensembl prefixes, from case, and from names that only mice have."""
    ensembl = [name for name in names if _ENSEMBL.fullmatch(name)]
    if len(ensembl) > len(names) / 2:
        mouse = sum(name.startswith("ENSMUSG") for name in ensembl)
        human = sum(name.startswith("ENSG") for name in ensembl)
        return _majority(human, mouse, len(ensembl))
    if identifier_kind(names) == "unknown":
        return "unknown"
    if _share(names, _MOUSE_ONLY) > 0.02:
        return "mouse"
    upper = int(np.sum([name == name.upper() for name in names]))
    title = sum(_TITLE.fullmatch(name) is not None for name in names)
    return _majority(upper, title, len(names))


def _majority(human: int, mouse: int, total: int) -> Species:
    if human > 0.7 * total:
        return "human"
    return "mouse" if mouse > 0.7 * total else "unknown"


def examples(names: Iterable[str], n: int = 3) -> str:
    """Return the first names, joined for a sentence, with how many more there are.

    Examples
    --------
    >>> from hdeepinsight.data import examples
    >>> examples(["CD3D", "NKG7", "LYZ"], 2)
    'CD3D, NKG7 and 1 more'
    """
    listed = [str(name) for name in names]
    more = f" and {len(listed) - n:,} more" if len(listed) > n else ""
    return ", ".join(listed[:n]) + more

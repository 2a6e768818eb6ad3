"""A tree over requested Cell Ontology terms, read from an OBO file."""

import os
import warnings
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path as FilePath
from typing import Any, Literal

from hdeepinsight.taxonomy._structure import Path, clipped, close_matches, quoted

MAX_BYTES = 64 * 2**20
MAX_TERMS = 100_000
"""More than any ontology of cells has: the whole Cell Ontology has 17,000, its imports included."""

_MAX_ANCESTORS = 1_000_000
_STARTS = (b"format-version:", b"[Term", b"[Typedef")


def tree_from_obo(
    obo_path: str | os.PathLike[str],
    terms: Iterable[str],
    on_multiple: Literal["raise", "first"],
) -> tuple[list[Path], dict[Path, str]]:
    """Paths of the requested terms over ``is_a``, and the ontology id of each path."""
    if on_multiple not in ("raise", "first"):
        raise ValueError(
            f"Found on_multiple={on_multiple!r}. Valid are 'raise' and 'first'. Use one of these."
        )
    requested = _requested(_read_obo(obo_path), terms, str(obo_path))
    ids = {term.id for term in requested}
    above = _ancestors(requested, ids)
    parent_of: dict[str, str | None] = {}
    names = {term.id: str(term.name) for term in requested}
    for term in requested:
        candidates = above[term.id]
        implied = {general for a in candidates for general in above[a]}
        if term.id in implied:
            raise ValueError(
                f"Found a cycle: {_shown(term)} lies under itself. In an ontology no term does. "
                "Use another release of it."
            )
        closest = [other.id for other in requested if other.id in candidates - implied]
        if len(closest) > 1 and on_multiple == "raise":
            raise ValueError(
                f"{_shown(term)} lies under {len(closest)} of the requested terms, none of which "
                f"is under another: {quoted(f'{names[a]} ({a})' for a in closest)}. In a tree it "
                "has one parent. Request only one of these, or pass on_multiple='first' to take "
                "the one that stands first in `terms`."
            )
        parent_of[term.id] = closest[0] if closest else None
    paths = {term.id: _path(term.id, parent_of, names) for term in requested}
    return list(paths.values()), {path: term_id for term_id, path in paths.items()}


def _ancestors(requested: Sequence[Any], ids: set[str]) -> dict[str, set[str]]:
    """Strict ancestors of every requested term that were requested themselves."""
    above: dict[str, set[str]] = {}
    room = _MAX_ANCESTORS
    for term in requested:
        found = {a.id for a in islice(term.superclasses(with_self=False), room)}
        room -= len(found)
        if room <= 0:
            raise ValueError(
                f"Found more than {_MAX_ANCESTORS:,} terms above those requested, counted once for "
                "each. Valid is an ontology that is less deep. Request fewer terms, or use "
                "another release."
            )
        above[term.id] = (found & ids) - {term.id}
    return above


def _path(term_id: str, parent_of: dict[str, str | None], names: dict[str, str]) -> Path:
    path: list[str] = []
    above: str | None = term_id
    while above is not None:
        path.append(names[above])
        above = parent_of[above]
    return tuple(reversed(path))


def _read_obo(obo_path: str | os.PathLike[str]) -> Any:
    try:
        import pronto as parser
    except ImportError as error:
        raise ImportError(
            "Reading an OBO file needs the package pronto, which is not installed. Install it with "
            "`pip install 'hdeepinsight[cell-ontology]'`."
        ) from error
    ontology_of: Any = vars(parser)["Ontology"]
    path = FilePath(obo_path)
    if not path.is_file():
        raise FileNotFoundError(
            f"Found no file {str(path)!r}. Valid is the path of an OBO file on this machine. "
            "Download cl-basic.obo from https://obofoundry.org/ontology/cl.html first."
        )
    problem = _problem(path)
    if problem is not None:
        raise _unreadable(path, problem)
    try:
        with warnings.catch_warnings():  # pronto warns about style that does not matter here
            warnings.simplefilter("ignore")
            # 0: never fetch from the network. The encoding would else be guessed.
            return ontology_of(str(path), import_depth=0, encoding="utf-8")
    except BaseException as error:  # what pronto raises about odd files is open
        # A fault in the compiled part of its parser is no Exception; it is told by its name.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise _unreadable(path, str(error)[:200] or type(error).__name__) from error


def _problem(path: FilePath) -> str | None:
    """Say why a file is not given to the parser, which would also unpack it, or read XML."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        return f"more than {MAX_BYTES >> 20} MB"
    if not content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(_STARTS):
        return f"its start is {content[:20]!r}"
    n_terms = content.count(b"[Term]")
    if n_terms > MAX_TERMS:
        return f"{n_terms:,} terms, where {MAX_TERMS:,} are accepted"
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"bytes that are no UTF-8 text, at {error.start:,}"
    return None


def _unreadable(path: FilePath, problem: str) -> ValueError:
    return ValueError(
        f"Found no readable ontology in {str(path)!r} ({problem}). Valid is an OBO file, not "
        "packed, such as cl-basic.obo. Download it from https://obofoundry.org/ontology/cl.html."
    )


def _requested(ontology: Any, terms: Iterable[str], source: str) -> list[Any]:
    asked = [terms] if isinstance(terms, str) else list(dict.fromkeys(terms))
    if not asked:
        raise ValueError(
            "Found no terms. At least one Cell Ontology id or name is needed. List the cell types "
            "that the taxonomy is to have."
        )
    by_id = {term.id: term for term in ontology.terms()}
    by_name = {str(t.name): t for t in by_id.values() if t.name and not t.obsolete}
    retired_names = {str(t.name): t for t in by_id.values() if t.name and t.obsolete}
    alternate = {old: term for term in by_id.values() for old in term.alternate_ids}
    found: dict[str, Any] = {}
    for name in asked:
        term = by_id.get(name) or by_name.get(name) or retired_names.get(name)
        if term is None:
            raise ValueError(_unknown(name, alternate, by_id, by_name, source))
        if term.obsolete:
            raise ValueError(_obsolete(term))
        if not term.name:
            raise ValueError(
                f"The term {term.id} has no name in {source!r}. Terms need a name to become a "
                "node. Use a complete OBO file."
            )
        found[term.id] = term
    return list(found.values())


def _unknown(
    name: str, alternate: dict[str, Any], ids: Iterable[str], names: Iterable[str], source: str
) -> str:
    if name in alternate:
        advice = f"It was merged into {_shown(alternate[name])}: request that"
    else:
        near = close_matches(name, ids if name[:3].upper() == "CL:" else names)
        advice = f"Close are {quoted(near)}" if near else "Look the term up in the Cell Ontology"
    return (
        f"Found no term {clipped(name)} in {source!r}. Valid are its ids and exact names. {advice}."
    )


def _obsolete(term: Any) -> str:
    instead: Sequence[Any] = sorted(term.replaced_by, key=lambda t: t.id)
    word = "It was replaced by"
    if not instead:
        instead, word = sorted(term.consider, key=lambda t: t.id), "Consider"
    shown = " or ".join(_shown(other) for other in instead)
    advice = f"{word} {shown}" if shown else "It has no replacement: leave it out"
    return f"The term {_shown(term)} is obsolete. Only current terms are valid. {advice}."


def _shown(term: Any) -> str:
    return f"{term.id} ({term.name})"

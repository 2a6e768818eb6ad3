"""The Cell Ontology: a tree over requested terms, and what is known of common cell types."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from itertools import islice
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from hdeepinsight._errors import check_choice, need_extra
from hdeepinsight._io import read_bounded
from hdeepinsight.taxonomy._build import (
    Path,
    clipped,
    close_matches,
    from_paths,
    join_path,
    quoted,
)

if TYPE_CHECKING:
    from hdeepinsight.taxonomy._taxonomy import Taxonomy

MAX_BYTES = 64 * 2**20
MAX_TERMS = 100_000
"""More than any ontology of cells has: the whole Cell Ontology has 17,000, its imports included."""

_MAX_ANCESTORS = 1_000_000
_STARTS = (b"format-version:", b"[Term", b"[Typedef")


def from_cell_ontology(
    cls: type[Taxonomy],
    obo_path: str | os.PathLike[str],
    terms: Iterable[str],
    *,
    on_multiple: Literal["raise", "first"] = "raise",
) -> Taxonomy:
    r"""Build a taxonomy over requested terms of an OBO file, such as the Cell Ontology.

    The parent of a term is the most specific requested term above it over ``is_a``; terms with
    none are at level 1. Ids are kept in `ontology_ids`.

    Parameters
    ----------
    obo_path
        OBO file on this machine, such as cl-basic.obo. Imports that it names are not fetched.
    terms
        Ids (``"CL:0000236"``) or exact names; siblings keep this order.
    on_multiple
        What to do with a term under two requested terms of which neither is under the other:
        ``"raise"``, or ``"first"`` to take the parent that stands first in `terms`.

    Raises
    ------
    ValueError
        For unknown terms (with close ones), obsolete terms (with replacements), a name that
        several terms have, terms of one name under one parent, and terms with several parents.
    ImportError
        When pronto is not installed.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> obo = pathlib.Path(tempfile.mkdtemp(), "small.obo")
    >>> _ = obo.write_text(
    ...     "format-version: 1.4\n\n[Term]\nid: CL:0000084\nname: T cell\n\n"
    ...     "[Term]\nid: CL:0000624\nname: CD4 T\nis_a: CL:0000084\n"
    ... )
    >>> Taxonomy.from_cell_ontology(obo, ["CD4 T", "CL:0000084"]).names
    ((), ('T cell',), ('T cell', 'CD4 T'))
    """
    check_choice("on_multiple", on_multiple, ("raise", "first"))
    requested = _requested(_read_obo(obo_path), terms, str(obo_path))
    ids = {term.id for term in requested}
    general: dict[str, set[str]] = {}  # strict ancestors that were requested themselves
    room = _MAX_ANCESTORS
    for term in requested:
        found = {a.id for a in islice(term.superclasses(with_self=False), room)}
        room -= len(found)
        if room <= 0:
            raise ValueError(
                f"There must be at most {_MAX_ANCESTORS:,} terms above those requested, counted "
                "once for each, got more. Request fewer terms, or use another release."
            )
        general[term.id] = (found & ids) - {term.id}
    parent_of: dict[str, str | None] = {}
    names = {term.id: str(term.name) for term in requested}
    for term in requested:
        candidates = general[term.id]
        implied = {further for a in candidates for further in general[a]}
        if term.id in implied:
            raise ValueError(
                f"No term of an ontology may lie under itself, got a cycle at {_shown(term)}. Use "
                "another release of it."
            )
        closest = [other.id for other in requested if other.id in candidates - implied]
        if len(closest) > 1 and on_multiple == "raise":
            raise ValueError(
                f"In a tree every term must have one parent, but {_shown(term)} lies under "
                f"{len(closest)} of the requested terms, none of which is under another: "
                f"{quoted(f'{names[a]} ({a})' for a in closest)}. Request only one of these, or "
                "pass on_multiple='first' to take the one that stands first in `terms`."
            )
        parent_of[term.id] = closest[0] if closest else None
    id_of: dict[Path, str] = {}
    for term in requested:
        above: str | None = term.id
        upwards: list[str] = []
        while above is not None:
            upwards.append(names[above])
            above = parent_of[above]
        path = tuple(reversed(upwards))
        other = id_of.setdefault(path, term.id)
        if other != term.id:
            raise ValueError(
                f"Requested terms under one parent must differ in name, but {other} and {term.id} "
                f"are both {clipped(join_path(path))}. Request only one of them."
            )
    return from_paths(cls, id_of).with_annotations(ontology_ids=id_of)


def _read_obo(obo_path: str | os.PathLike[str]) -> Any:
    parser = need_extra("pronto", "cell-ontology", "Reading an OBO file")
    path = FilePath(obo_path)
    if not path.is_file():
        raise FileNotFoundError(
            f"obo_path must be an OBO file on this machine, got no file {str(path)!r}. Download "
            "cl-basic.obo from https://obofoundry.org/ontology/cl.html first."
        )
    if problem := _problem(path):
        raise _unreadable(path, problem)
    try:
        with warnings.catch_warnings():  # pronto warns about style that does not matter here
            warnings.simplefilter("ignore")
            # 0: never fetch from the network. The encoding would else be guessed.
            return parser.Ontology(str(path), import_depth=0, encoding="utf-8")
    except BaseException as error:  # what pronto raises about odd files is open
        # A fault in the compiled part of its parser is no Exception; it is told by its name.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise _unreadable(path, str(error)[:200] or type(error).__name__) from error


def _problem(path: FilePath) -> str | None:
    """Say why a file is not given to the parser, which would also unpack it, or read XML."""
    try:
        content = read_bounded(path, MAX_BYTES)
    except OSError as error:
        return str(error.strerror)
    if not content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(_STARTS):
        return f"its start is {content[:20]!r}"
    n_terms = content.count(b"[Term]")
    if n_terms > MAX_TERMS:
        return f"{n_terms:,} terms, where {MAX_TERMS:,} are accepted"
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"bytes that are not UTF-8 text, at {error.start:,}"
    return None


def _unreadable(path: FilePath, problem: str) -> ValueError:
    return ValueError(
        f"obo_path must be a plain OBO file, got {str(path)!r}, which cannot be read: {problem}. "
        "Download cl-basic.obo, which is one. It is at https://obofoundry.org/ontology/cl.html."
    )


def _requested(ontology: Any, terms: Iterable[str], source: str) -> list[Any]:
    asked = [terms] if isinstance(terms, str) else list(dict.fromkeys(terms))
    if not asked:
        raise ValueError(
            "terms must name at least one Cell Ontology id or name, got no terms. List the cell "
            "types that the taxonomy is to have."
        )
    by_id = {term.id: term for term in ontology.terms()}
    by_name: dict[str, list[Any]] = {}
    for term in sorted(by_id.values(), key=lambda term: (bool(term.obsolete), term.id)):
        if term.name and (not term.obsolete or str(term.name) not in by_name):
            by_name.setdefault(str(term.name), []).append(term)
    alternate = {old: term for term in by_id.values() for old in term.alternate_ids}
    found: dict[str, Any] = {}
    for name in asked:
        meant = [by_id[name]] if name in by_id else by_name.get(name, [])
        if not meant:
            raise ValueError(_unknown(name, alternate, by_id, by_name, source))
        if len(meant) > 1:
            raise ValueError(
                f"A name must lead to one term, but {clipped(name)} is that of "
                f"{', '.join(term.id for term in meant)}. Request one of these ids."
            )
        term = meant[0]
        if term.obsolete:
            raise ValueError(_obsolete(term))
        if not term.name:
            raise ValueError(
                f"Terms need a name to become a node, but {term.id} has none in {source!r}. Use a "
                "complete OBO file."
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
    return f"Terms must be ids or exact names of {source!r}, got {clipped(name)}. {advice}."


def _obsolete(term: Any) -> str:
    advice = "It has no replacement: leave it out"
    for word, others in (("Consider", term.consider), ("It was replaced by", term.replaced_by)):
        if others:
            shown = map(_shown, sorted(others, key=lambda t: t.id))
            advice = f"{word} {' or '.join(shown)}"
    return f"Terms must be current, but {_shown(term)} is obsolete. {advice}."


def _shown(term: Any) -> str:
    return f"{term.id} ({term.name})"


class CellType(NamedTuple):
    """What is known of a cell type of the Cell Ontology.

    Attributes
    ----------
    ontology_id
        Its id, such as ``"CL:0000625"``.
    name
        Its name in the ontology.
    definition
        What it is, in a sentence.
    markers
        Genes by which it is commonly recognised (human symbols), the best known first.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> hdi.tl.cell_type("CL:0000236").name
    'B cell'
    """

    ontology_id: str
    name: str
    definition: str
    markers: tuple[str, ...]

    @property
    def link(self) -> str:
        """Address of the term, which leads to the ontology."""
        return f"http://purl.obolibrary.org/obo/{self.ontology_id.replace(':', '_')}"


@cache
def _cell_types() -> Mapping[str, CellType]:
    text = (files("hdeepinsight.taxonomy") / "cell_types.json").read_text(encoding="utf-8")
    return {
        term: CellType(term, entry["name"], entry["definition"], tuple(entry["markers"]))
        for term, entry in json.loads(text)["types"].items()
    }


def cell_type(ontology_id: str) -> CellType | None:
    """Return name, definition and common markers of a Cell Ontology term.

    Parameters
    ----------
    ontology_id
        Such as ``"CL:0000625"``; ``taxonomy.ontology_ids`` has those of a taxonomy.

    Returns
    -------
    The cell type; ``None`` for a term that the package has nothing about. Known are the types of
    ``Taxonomy.immune()`` and of the bundled model.

    Notes
    -----
    The table is our selection of markers in common use, not a measurement; the sources are named in
    the file. Definitions are in our own words.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> hdi.tl.cell_type("CL:0000625").markers[:2]
    ('CD8A', 'CD8B')
    """
    return _cell_types().get(ontology_id)

"""Build a taxonomy from Cell Ontology terms, and describe common cell types."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from hdeepinsight._errors import check_choice, invalid, need_extra
from hdeepinsight._io import read_bounded
from hdeepinsight.taxonomy._forms import Path, clipped, close_matches, from_paths, join_path, quoted

if TYPE_CHECKING:
    from hdeepinsight.taxonomy._taxonomy import Taxonomy

MAX_BYTES = 64 * 2**20
#: Maximum number of terms. The complete Cell Ontology has 17,000, including its imports.
MAX_TERMS = 100_000

_STARTS = (b"format-version:", b"[Term", b"[Typedef")


def from_cell_ontology(
    cls: type[Taxonomy],
    obo_path: str | os.PathLike[str],
    terms: Iterable[str],
    *,
    on_multiple: Literal["raise", "first"] = "raise",
) -> Taxonomy:
    r"""Build a taxonomy from requested terms of an OBO file, such as the Cell Ontology.

    The parent of a term is the most specific requested term among its ``is_a`` ancestors. Terms
    without one are at level 1. Ids are stored in `ontology_ids`.

    Parameters
    ----------
    obo_path
        Local OBO file, such as cl-basic.obo. Its imports are not fetched.
    terms
        Ids (``"CL:0000236"``) or exact names; siblings keep this order.
    on_multiple
        What to do with a term that has several most specific ancestors among the requested terms:
        ``"raise"``, or ``"first"`` to use the one that comes first in `terms`.
        `hdeepinsight.tl.term_probabilities` counts the term under the others as well.

    Raises
    ------
    ValueError
        For unknown terms (similar ones are listed), obsolete terms (with replacements), a name
        shared by several terms, equal names under the same parent, and terms with several parents.
    ImportError
        If pronto is not installed.

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
    requested = _find_terms(_read_obo(obo_path), terms, str(obo_path))
    above = {
        name: {a.id for a in term.superclasses(with_self=False)} & requested.keys() - {name}
        for name, term in requested.items()
    }
    path_of: dict[str, Path] = {}
    for term in sorted(requested, key=lambda name: len(above[name])):  # parents come first
        if any(term in above[a] for a in above[term]):
            found = f"a cycle at {_shown(requested[term])}. Use another release."
            raise ValueError(f"A term must not be its own ancestor, got {found}")
        indirect = set().union(*(above[a] for a in above[term]))
        parents = [a for a in requested if a in above[term] - indirect]
        if len(parents) > 1 and on_multiple == "raise":
            found = f"{len(parents)} parents of {_shown(requested[term])}: "
            found += quoted(f"{requested[a].name} ({a})" for a in parents)
            hint = "Request one of them, or pass on_multiple='first'."
            raise ValueError(f"A term must have one parent among `terms`, got {found}. {hint}")
        path_of[term] = (*(path_of[parents[0]] if parents else ()), str(requested[term].name))
    id_of: dict[Path, str] = {}
    for term in requested:
        if (other := id_of.setdefault(path_of[term], term)) != term:
            found = f"{other} and {term} are both {clipped(join_path(path_of[term]))}"
            raise ValueError(f"Siblings must have distinct names, but {found}. Request one.")
    return from_paths(cls, id_of).with_annotations(ontology_ids=id_of)


def term_members(
    obo_path: str | os.PathLike[str], terms: Iterable[str], ids: Iterable[str]
) -> dict[str, frozenset[str]]:
    r"""Return the members of each term: the given ids that are the term or ``is_a`` descendants.

    Parameters
    ----------
    obo_path
        Local OBO file, such as cl-basic.obo.
    terms
        Ids or exact names of the terms.
    ids
        Ids to be assigned to the terms. All parents of an id are followed.

    Returns
    -------
    dict
        Ids of the members by id of the term.

    Raises
    ------
    ValueError
        If a term or an id is not in the file or obsolete, or if several terms share a name.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> obo = pathlib.Path(tempfile.mkdtemp(), "small.obo")
    >>> _ = obo.write_text(
    ...     "format-version: 1.4\n\n[Term]\nid: CL:0000084\nname: T cell\n\n"
    ...     "[Term]\nid: CL:0000624\nname: CD4 T\nis_a: CL:0000084\n"
    ... )
    >>> sorted(term_members(obo, ["T cell"], ["CL:0000624", "CL:0000084"])["CL:0000084"])
    ['CL:0000084', 'CL:0000624']
    """
    ontology, source = _read_obo(obo_path), str(obo_path)
    members: dict[str, set[str]] = {term: set() for term in _find_terms(ontology, terms, source)}
    for name, term in _find_terms(ontology, ids, source).items():
        for other in term.superclasses():
            members.get(other.id, set()).add(name)
    return {term: frozenset(names) for term, names in members.items()}


def _read_obo(obo_path: str | os.PathLike[str]) -> Any:
    parser = need_extra("pronto", "cell-ontology", "Reading an OBO file")
    path, get = FilePath(obo_path), "Download cl-basic.obo from obofoundry.org/ontology/cl.html."
    if not path.is_file():
        found = f"no file {str(path)!r}"
        raise FileNotFoundError(f"obo_path must be a local OBO file, got {found}. {get}")
    try:
        content = read_bounded(path, MAX_BYTES)  # pronto would also read compressed files and XML
        if not content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(_STARTS):
            raise ValueError(f"it starts with {content[:20]!r}")
        if (n_terms := content.count(b"[Term]")) > MAX_TERMS:
            raise ValueError(f"{n_terms:,} terms, more than {MAX_TERMS:,}")
        ids = Counter(re.findall(r"^\[Term\]\s*^id: *(\S+)", content.decode("utf-8"), re.MULTILINE))
        if twice := [name for name, n in ids.items() if n > 1]:
            raise ValueError(f"{twice[0]} is the id of several terms")
        with warnings.catch_warnings():  # pronto warns about irrelevant matters of style
            warnings.simplefilter("ignore")
            # Depth 0 disables fetching; without an encoding, pronto would guess it.
            return parser.Ontology(str(path), import_depth=0, encoding="utf-8")
    except BaseException as error:  # pronto may raise any exception for a malformed file
        # An error in its compiled parser is not an Exception, and is recognised by its name.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        found = f"{str(path)!r}, which cannot be read: {str(error)[:200] or type(error).__name__}"
        raise ValueError(f"obo_path must be a plain OBO file, got {found}. {get}") from error


def _find_terms(ontology: Any, terms: Iterable[str], source: str) -> dict[str, Any]:
    """Return the terms with the given ids or names, by id, in the given order."""
    asked = [terms] if isinstance(terms, str) else list(dict.fromkeys(terms))
    if not asked:
        raise invalid("terms", "no terms", "one or more Cell Ontology ids or names", "List them.")
    known = {term.id: [term] for term in ontology.terms()}
    every = sorted((term for (term,) in known.values()), key=lambda t: (bool(t.obsolete), t.id))
    merged = {old: term for term in every for old in term.alternate_ids}
    for term in every:
        if term.name and (not term.obsolete or str(term.name) not in known):
            known.setdefault(str(term.name), []).append(term)
    found: dict[str, Any] = {}
    for name in asked:
        match known.get(name, []):
            case [] if name in merged:
                problem = f", which was merged into {_shown(merged[name])}. Request that term"
            case []:
                near = quoted(close_matches(name, known))
                problem = f". {f'Similar terms: {near}' if near else 'Look it up in the ontology'}"
            case [term] if term.obsolete:
                others = sorted(_current(term), key=lambda t: t.id)
                hint = "It was replaced by" if term.replaced_by else "Consider"
                hint = f"{hint} {' or '.join(map(_shown, others))}" if others else "Omit it"
                problem = f", which is obsolete. {hint}"
            case [term] if term.name:
                found[term.id] = term
                continue
            case [_]:
                problem = ", which has no name. Use a complete OBO file"
            case several:
                ids = ", ".join(term.id for term in several)
                problem = f", the name of several terms. Request one of the ids {ids}"
        expected = f"ids or exact names of current terms of {source!r}"
        raise ValueError(f"Terms must be {expected}, got {clipped(name)}{problem}.")
    return found


def _current(term: Any) -> set[Any]:
    """Return the current terms that replace an obsolete one, directly or through others."""
    found: set[Any] = {term}
    seen: set[Any] = set()
    while old := {each for each in found if each.obsolete} - seen:
        seen |= old
        found = (found - old).union(*(each.replaced_by or each.consider for each in old))
    return found - seen


def _shown(term: Any) -> str:
    return f"{term.id} ({term.name})"


class CellType(NamedTuple):
    """Name, definition and markers of a Cell Ontology term.

    Attributes
    ----------
    ontology_id
        Id, such as ``"CL:0000625"``.
    name
        Name in the ontology.
    definition
        Definition in one sentence.
    markers
        Commonly used marker genes (human symbols), the best known first.

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
        """URL of the term in the ontology."""
        return f"http://purl.obolibrary.org/obo/{self.ontology_id.replace(':', '_')}"


@cache
def _cell_types() -> Mapping[str, CellType]:
    text = (files("hdeepinsight.taxonomy") / "cell_types.json").read_text(encoding="utf-8")
    return {
        term: CellType(term, entry["name"], entry["definition"], tuple(entry["markers"]))
        for term, entry in json.loads(text)["types"].items()
    }


def cell_type(ontology_id: str) -> CellType | None:
    """Return the name, definition and common markers of a Cell Ontology term.

    Parameters
    ----------
    ontology_id
        Id such as ``"CL:0000625"``; those of a taxonomy are in ``taxonomy.ontology_ids``.

    Returns
    -------
    CellType or None
        The cell type, or ``None`` if it is not in the table, which covers the types of
        ``Taxonomy.immune()`` and of the bundled model.

    Notes
    -----
    The table is our selection of commonly used markers, not a measurement. Its sources are listed
    in the file. Definitions are in our own words.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> hdi.tl.cell_type("CL:0000625").markers[:2]
    ('CD8A', 'CD8B')
    """
    return _cell_types().get(ontology_id)

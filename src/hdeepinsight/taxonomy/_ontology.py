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

from hdeepinsight._errors import check_choice, invalid, need_extra
from hdeepinsight._io import read_bounded
from hdeepinsight.taxonomy._forms import Path, clipped, close_matches, from_paths, join_path, quoted

if TYPE_CHECKING:
    from hdeepinsight.taxonomy._taxonomy import Taxonomy

MAX_BYTES = 64 * 2**20
#: More than any ontology of cells has: the whole Cell Ontology has 17,000, its imports included.
MAX_TERMS = 100_000

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
        ``"raise"``, or ``"first"`` to take the parent that stands first in `terms`;
        `hdeepinsight.tl.term_probabilities` counts it under the others, too.

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
    import networkx as nx

    check_choice("on_multiple", on_multiple, ("raise", "first"))
    requested = _requested(_read_obo(obo_path), terms, str(obo_path))
    lineage, room = nx.DiGraph(), _MAX_ANCESTORS
    lineage.add_nodes_from(requested)
    for term in requested.values():
        above = [other.id for other in islice(term.superclasses(with_self=False), room)]
        room -= len(above)
        lineage.add_edges_from((a, term.id) for a in above if a in requested and a != term.id)
    if room <= 0:
        raise ValueError(
            f"There must be at most {_MAX_ANCESTORS:,} terms above those requested, counted once "
            "for each, got more. Request fewer terms, or use another release."
        )
    if not nx.is_directed_acyclic_graph(lineage):
        found = f"a cycle at {_shown(requested[nx.find_cycle(lineage)[0][0]])}"
        raise ValueError(f"No term may lie under itself, got {found}. Use another release.")
    closest = nx.transitive_reduction(lineage)  # leaves the links to the most specific terms
    rank = {term: i for i, term in enumerate(requested)}
    path_of: dict[str, Path] = {}
    for term in nx.topological_sort(closest):
        parents = sorted(closest.predecessors(term), key=rank.__getitem__)
        if len(parents) > 1 and on_multiple == "raise":
            found = quoted(f"{requested[a].name} ({a})" for a in parents)
            raise ValueError(
                f"In a tree every term must have one parent, but {_shown(requested[term])} lies "
                f"under {len(parents)} of those requested, none under another: {found}. Request "
                "one, or pass on_multiple='first' to take the first of them in `terms`."
            )
        path_of[term] = (*(path_of[parents[0]] if parents else ()), str(requested[term].name))
    id_of: dict[Path, str] = {}
    for term in requested:
        if (other := id_of.setdefault(path_of[term], term)) != term:
            found = f"{other} and {term} are both {clipped(join_path(path_of[term]))}"
            raise ValueError(
                f"Terms under one parent must differ in name, but {found}. Request one."
            )
    return from_paths(cls, id_of).with_annotations(ontology_ids=id_of)


def term_members(
    obo_path: str | os.PathLike[str], terms: Iterable[str], ids: Iterable[str]
) -> dict[str, frozenset[str]]:
    r"""Return which of some ids lie at or below each term over ``is_a``, by any parent.

    Parameters
    ----------
    obo_path
        OBO file on this machine, such as cl-basic.obo.
    terms
        Ids or exact names of the terms.
    ids
        Ids that are looked for below them.

    Raises
    ------
    ValueError
        If a term or an id is not in the file, is obsolete, or a name is that of several terms.

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
    asked, below = (_requested(ontology, each, source) for each in (terms, ids))
    above = {
        name: {other.id for other in islice(term.superclasses(), _MAX_ANCESTORS)}
        for name, term in below.items()
    }
    return {term: frozenset(name for name in below if term in above[name]) for term in asked}


def _read_obo(obo_path: str | os.PathLike[str]) -> Any:
    parser = need_extra("pronto", "cell-ontology", "Reading an OBO file")
    path, get = FilePath(obo_path), "Download cl-basic.obo from obofoundry.org/ontology/cl.html."
    if not path.is_file():
        found = f"no file {str(path)!r}"
        raise FileNotFoundError(f"obo_path must be an OBO file on this machine, got {found}. {get}")
    try:
        content = read_bounded(path, MAX_BYTES)  # pronto would also unpack a file, or read XML
        if not content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(_STARTS):
            raise ValueError(f"its start is {content[:20]!r}")
        if (n_terms := content.count(b"[Term]")) > MAX_TERMS:
            raise ValueError(f"{n_terms:,} terms, where {MAX_TERMS:,} are accepted")
        content.decode("utf-8")
        with warnings.catch_warnings():  # pronto warns about style that does not matter here
            warnings.simplefilter("ignore")
            # 0: never fetch from the network. The encoding would else be guessed.
            return parser.Ontology(str(path), import_depth=0, encoding="utf-8")
    except BaseException as error:  # what pronto raises about odd files is open
        # A fault in the compiled part of its parser is no Exception; it is told by its name.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        found = f"{str(path)!r}, which cannot be read: {str(error)[:200] or type(error).__name__}"
        raise ValueError(f"obo_path must be a plain OBO file, got {found}. {get}") from error


def _requested(ontology: Any, terms: Iterable[str], source: str) -> dict[str, Any]:
    """Return the terms asked for by id or name, by id, in the order given."""
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
        meant, problem = known.get(name, []), ""
        if name in merged and not meant:
            problem = f", which was merged into {_shown(merged[name])}: request that"
        elif not meant:
            near = quoted(close_matches(name, known))
            problem = f". {f'Close are {near}' if near else 'Look the term up in the ontology'}"
        elif len(meant) > 1:
            ids = ", ".join(term.id for term in meant)
            problem = f", which is the name of {ids}. Request one of these ids"
        elif meant[0].obsolete:
            replaced, other = meant[0].replaced_by, meant[0].consider
            shown = " or ".join(map(_shown, sorted(replaced or other, key=lambda t: t.id)))
            advice = f"{'It was replaced by' if replaced else 'Consider'} {shown}"
            problem = f". It is obsolete. {advice if shown else 'It has no replacement'}"
        elif not meant[0].name:
            problem = ", which has no name to become a node. Use a complete OBO file"
        if problem:
            valid = f"ids or exact names of current terms of {source!r}"
            raise ValueError(f"Terms must be {valid}, got {clipped(name)}{problem}.")
        found[meant[0].id] = meant[0]
    return found


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

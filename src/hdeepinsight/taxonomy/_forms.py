"""Forms of a tree: names and parents, what is valid of them, and ways to read and write it."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import islice
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hdeepinsight._errors import examples
from hdeepinsight._io import atomic_write, read_bounded

if TYPE_CHECKING:
    from hdeepinsight.taxonomy._taxonomy import Taxonomy

#: The bare names from level 1 down to a node; the root is ``()``.
Path = tuple[str, ...]

#: A path as tuple or text, a synonym, or a bare name that leads to one path.
NodeName = str | Path


class Annotations(TypedDict, total=False):
    """What is known of a tree beside its names; see `Taxonomy.with_annotations`."""

    level_names: Sequence[str] | None
    synonyms: Mapping[str, NodeName] | None
    ontology_ids: Mapping[Any, str] | None


#: Joins a path to text. Not a slash: ``Megakaryocytes/platelets`` is a published name.
SEPARATOR = " > "

#: Text form of the root's path ``()``, and therefore reserved at level 1.
ROOT_NAME = "root"

#: Larger trees are refused: they are mistakes or attacks, not taxonomies.
MAX_NODES = 10_000_000

_MAX_DEPTH = 100_000
_MAX_COMPARED = 20_000
_MAX_SHOWN = 120
_NAME_PROBLEMS = {
    r"^\s*$": "is empty",
    r"[\x00-\x1f\x7f\ud800-\udfff]": "has a control character (such as a line break)",
    r"(?:^|\s)>(?:\s|$)": f"has a '>' that stands alone, which is what joins paths ({SEPARATOR!r})",
}
_ODD_NAME = re.compile("|".join(_NAME_PROBLEMS))


def join_path(path: Sequence[str]) -> str:
    """Text form of a path, e.g. ``"B > B_naive"``; the root gives ``"root"``."""
    return SEPARATOR.join(path) if path else ROOT_NAME


def split_path(name: str | Sequence[str]) -> Path:
    """Path of a text form, the inverse of `join_path`, or of a sequence of names."""
    if isinstance(name, str):
        return () if name == ROOT_NAME else tuple(name.split(SEPARATOR))
    return tuple(name)


def path_of(
    labels: Sequence[str], parent: Sequence[int] | NDArray[np.int32], node: int
) -> tuple[str, ...]:
    """Return the names from level 1 down to `node`; the root gives ``()``."""
    names: list[str] = []
    while node > 0:
        names.append(labels[node])
        node = int(parent[node])
    return tuple(names[::-1])


def name_problem(name: object) -> str | None:
    """Say what is wrong with a node name, or None when it may be used."""
    if not isinstance(name, str):
        return f"is of type {type(name).__name__}, not a string"
    if not _ODD_NAME.search(name):
        return None
    return next(text for pattern, text in _NAME_PROBLEMS.items() if re.search(pattern, name))


def close_matches(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """Known names that resemble `name`, best first, whatever their case."""
    # difflib is slow, and an error must not take minutes
    folded = {candidate.casefold(): candidate for candidate in islice(known, _MAX_COMPARED)}
    return [folded[hit] for hit in difflib.get_close_matches(name.casefold(), folded, n=n)]


def clipped(value: object) -> str:
    """Quote a value for an error message; of a long one, its start."""
    text = repr(value[: 2 * _MAX_SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def quoted(names: Iterable[str], limit: int = 10) -> str:
    """Quoted names joined by commas; past `limit` the rest is counted, not listed."""
    listed = list(names)
    return examples([*map(clipped, listed[:limit]), *listed[limit:]], limit)


def canonical_tree(
    labels: Sequence[str], parents: Sequence[int]
) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Check a tree and put its nodes in breadth-first order, siblings in the order given.

    Parameters
    ----------
    labels
        Bare name of every node; the root's is not used.
    parents
        Index of every node's parent, -1 for the root.

    Returns
    -------
    labels, parents
        The same tree with node 0 the root; `parents` is int32 of shape ``(n_nodes,)``.

    Raises
    ------
    ValueError
        Naming the node, when there is no root or more than one, a cycle, an impossible parent, a
        bad name, two siblings of one name, or nothing below the root.
    """
    n_nodes = len(labels)
    if n_nodes != len(parents):
        found = f"{n_nodes:,} labels and {len(parents):,} parents"
        raise ValueError(f"A tree must have one parent per node, got {found}. Make both as long.")
    check_size(n_nodes)
    children: list[list[int]] = [[] for _ in range(n_nodes + 1)]  # the last: those of none
    for node, parent in enumerate(parents):
        if not -1 <= parent < n_nodes:
            raise ValueError(
                f"Parents must be 0 to {n_nodes - 1}, or -1 for the root, got {parent} at node "
                f"{node} ({clipped(labels[node])}). Correct the parent of this node."
            )
        children[parent].append(node)
    order = children[-1].copy()
    for node in order:  # the list grows while it is read: a queue without a queue
        order.extend(children[node])
    problem = None
    if len(children[-1]) > 1:
        roots = quoted(labels[node] for node in children[-1])
        problem = f"more than one root: {roots}. Put these nodes under one common root"
    elif len(order) < n_nodes:
        import networkx as nx

        lost = set(range(n_nodes)).difference(order)
        cycle = nx.find_cycle(nx.DiGraph((parents[node], node) for node in lost))
        loop = " -> ".join(clipped(labels[v]) for v in [cycle[0][0], *(v for _, v in cycle[:8])])
        found = f"{'a cycle' if order else 'no root but a cycle'} of {len(cycle):,} nodes"
        problem = f"{found}: {loop}. Remove one of these links"
    elif n_nodes < 2:
        problem = f"{'a root and nothing below it' if n_nodes else 'no root'}. Check the labels"
    if problem:
        raise ValueError(f"A taxonomy must have one root, above every other node, got {problem}.")
    rank = np.empty(n_nodes, dtype=np.int32)
    rank[order] = np.arange(n_nodes, dtype=np.int32)
    parent_of = np.append(np.int32(-1), rank[np.asarray(parents, dtype=np.int64)[order[1:]]])
    names = [ROOT_NAME, *(labels[node] for node in order[1:])]
    seen: set[tuple[int, str]] = set()
    for name, above in zip(names[1:], parent_of[1:].tolist(), strict=True):
        problem = name_problem(name)
        if problem is None and above == 0 and name == ROOT_NAME:
            problem = "is the text that stands for the root itself"
        if problem is not None or (above, name) in seen:
            under = clipped(join_path(path_of(names, parent_of, above)))
            found = f"two siblings named {clipped(name)} under {under}"
            if problem is not None:
                found = f"the name {clipped(name)} of a child of {under}, which {problem}"
            raise ValueError(
                f"Names must be text, distinct among siblings, got {found}. Rename it."
            )
        seen.add((above, name))
    return tuple(map(str, names)), parent_of  # plain text, also of numpy strings


def check_size(n_nodes: int) -> None:
    """Raise ``ValueError`` for a tree of too many nodes."""
    if n_nodes > MAX_NODES:
        hint = "Check that the source is a taxonomy of cell types, not a list of cells."
        raise ValueError(f"A tree must have at most {MAX_NODES:,} nodes, got {n_nodes:,}. {hint}")


def build(
    cls: type[Taxonomy], labels: Sequence[str], parents: Sequence[int], annotations: Annotations
) -> Taxonomy:
    """Make a taxonomy of names and parents; a name of the root, the first, becomes a synonym."""
    tree = cls(tuple(labels), np.asarray(parents, dtype=np.int32))
    if labels[0] not in ("", *tree.labels):
        tree = tree.with_annotations(synonyms={labels[0]: ROOT_NAME})
    return tree.with_annotations(**annotations) if annotations else tree


def from_paths(
    cls: type[Taxonomy], paths: Iterable[NodeName], **annotations: Unpack[Annotations]
) -> Taxonomy:
    """Build the taxonomy that holds the given paths, as tuples or as text (``"T > CD4"``).

    Parameters
    ----------
    paths
        Paths of leaves or of any nodes; parents that are not listed are added.
    annotations
        Level names, synonyms and ontology ids, as in `Taxonomy.with_annotations`.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> Taxonomy.from_paths(["T > CD4", "T > CD8", "B"]).names
    ((), ('T',), ('B',), ('T', 'CD4'), ('T', 'CD8'))
    """
    labels, parents = [ROOT_NAME], [-1]
    known: dict[tuple[int, str], int] = {}
    for path in paths:
        node = 0
        for name in split_path(path):
            child = known.setdefault((node, name), len(labels))
            if child == len(labels):
                labels.append(name)
                parents.append(node)
            node = child
    return build(cls, labels, parents, annotations)


def from_nested(cls: type[Taxonomy], nested: Any, **annotations: Unpack[Annotations]) -> Taxonomy:
    """Build a taxonomy of nested dicts and lists.

    Parameters
    ----------
    nested
        A dict of names to children, or a list of names (or of such dicts). Children are again
        dicts or lists; empty ones and None are leaves.
    annotations
        Level names, synonyms and ontology ids, as in `Taxonomy.with_annotations`.

    Raises
    ------
    TypeError
        When the children of a node are neither dict, list nor None.
    ValueError
        When an object contains itself or is nested more than 100,000 deep, or names are invalid.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tax = Taxonomy.from_nested({"T": {"CD4": ["naive", "memory"], "CD8": None}, "B": []})
    >>> tax.n_leaves, tax.max_depth
    (4, 3)
    """
    labels, parents = [ROOT_NAME], [-1]
    stack = [(nested, 0, 0)]
    while stack:
        item, parent, depth = stack.pop()
        under = clipped(labels[parent])
        if depth > _MAX_DEPTH:
            raise ValueError(
                f"A nested tree must have at most {_MAX_DEPTH:,} levels, got more under {under}. "
                "Check that no dict or list contains itself."
            )
        if not isinstance(item, (Mapping, list, tuple)):
            found = f"{clipped(item)} of type {type(item).__name__} under {under}"
            raise TypeError(
                "Children must be a dict (name to children), a list of names, or None for a leaf, "
                f"got {found}. Put a single child into a list."
            )
        for entry in [item] if isinstance(item, Mapping) else item:
            for name, below in entry.items() if isinstance(entry, Mapping) else [(entry, None)]:
                if below:
                    stack.append((below, len(labels), depth + 1))
                labels.append(name)
                parents.append(parent)
        check_size(len(labels))
    return build(cls, labels, parents, annotations)


def from_edges(
    cls: type[Taxonomy], edges: Iterable[tuple[str, str]], **annotations: Unpack[Annotations]
) -> Taxonomy:
    """Build a taxonomy of (parent, child) pairs.

    Parameters
    ----------
    edges
        Pairs of names. A name identifies its node; where types share a name, write them as
        text paths, as `to_edges` does. A single node without a parent is the root; several are
        a forest of lineages and get a root above them. To keep a single top node as a type of
        its own, link it to the reserved name ``"root"``.
    annotations
        Level names, synonyms and ontology ids, as in `Taxonomy.with_annotations`.

    Raises
    ------
    ValueError
        When a node has two parents, or the edges form a cycle.
    TypeError
        When an edge is not a pair of names.

    Notes
    -----
    The root itself has no name in a taxonomy; the name that it has here becomes a synonym of
    it, so that cells labelled with it count as "some type, which one is not known".

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tax = Taxonomy.from_edges([("cell", "B"), ("cell", "T"), ("T", "CD4"), ("T", "CD8")])
    >>> tax.resolve("cell"), tax.path_name(4)
    (0, 'T > CD8')
    """
    parent_of: dict[str, str] = {}
    names: dict[str, None] = {}
    for edge in edges:
        pair = () if isinstance(edge, str) else tuple(edge)
        if len(pair) != 2 or not all(isinstance(name, str) for name in pair):
            raise TypeError(
                f"An edge must be a pair of names, parent and child, got {clipped(edge)}. Leave "
                "out a pair whose parent is missing: what has no parent is the root."
            )
        parent, child = pair
        path, first = split_path(child), parent_of.setdefault(child, parent)
        if first != parent or (len(path) > 1 and path[:-1] != split_path(parent)):
            two = f"two parents of {clipped(child)}: {clipped(first)} and {clipped(parent)}"
            here = f"the edge from {clipped(parent)} to {clipped(child)}"
            raise ValueError(
                "A node must have one parent, and one that is written as a path go on from that of "
                f"its parent, got {here if first == parent else two}. If these are two types of "
                f"one name, write them as paths ('{first} > {path[-1]}')."
            )
        names |= dict.fromkeys(pair)
    tops = [name for name in names if name not in parent_of]
    root = tops[0] if len(tops) == 1 else ROOT_NAME
    if tops:
        names = dict.fromkeys([root, *names])
    index = {name: node for node, name in enumerate(names)}
    parents = [index[parent_of.get(name, root)] for name in names]
    parents[:1] = [-1] if tops else parents[:1]
    labels = [(ROOT_NAME, *split_path(name))[-1] for name in names]
    return build(cls, labels, parents, annotations)


FORMAT = "hdeepinsight.taxonomy"
SCHEMA_VERSION = 1
#: Larger files are refused: a million nodes take some 50 MB.
MAX_BYTES = 256 * 2**20

#: Names in the paths of all annotated nodes together; on a deep chain they grow with its square.
_MAX_PATH_NAMES = 2**24

_KEYS = {"format": str, "schema_version": int}
_KEYS |= dict.fromkeys(("level_names", "root_synonyms", "nodes"), list)
_RECORD_KEYS = {"name": str, "parent": int, "ontology_id": str, "synonyms": list}
_RECORD_KEYS |= {"published_id": int, "unspecified": bool}  # of older files, without a meaning


def to_dict(self: Taxonomy) -> dict[str, Any]:
    """Return everything as plain types (dict, list, str, int), for `from_dict`.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> Taxonomy.from_nested({"T": ["CD4"]}).to_dict()["nodes"]
    [{'name': 'T', 'parent': 0}, {'name': 'CD4', 'parent': 1}]
    """
    pairs = zip(self.labels, self.parent.tolist(), strict=True)
    records: list[dict[str, Any]] = [{"name": label, "parent": above} for label, above in pairs]
    for path, term in self.ontology_ids.items():
        records[self.resolve(path)]["ontology_id"] = term
    for synonym, path in self.synonyms.items():
        records[self.resolve(path)].setdefault("synonyms", []).append(synonym)
    head = {"format": FORMAT, "schema_version": SCHEMA_VERSION, "level_names": [*self.level_names]}
    return head | {"root_synonyms": records[0].get("synonyms", []), "nodes": records[1:]}


def from_dict(cls: type[Taxonomy], record: Mapping[str, Any]) -> Taxonomy:
    """Rebuild a taxonomy from the plain dict that `to_dict` gives.

    Parameters
    ----------
    record
        Plain types only; every key is checked.

    Raises
    ------
    ValueError
        When it is not such a dict, or was written by a newer version.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tax = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> Taxonomy.from_dict(tax.to_dict()) == tax
    True
    """
    found = record.get("format") if isinstance(record, dict) else type(record).__name__
    if not isinstance(record, dict) or found != FORMAT:
        raise _invalid(clipped(found), f"an object with the format {FORMAT!r}")
    if (version := record.get("schema_version")) != SCHEMA_VERSION:
        found = (
            f"{SCHEMA_VERSION}, got {clipped(version)}. Update hdeepinsight, or export it again."
        )
        raise ValueError(f"A taxonomy must be of schema version {found}")
    _check_keys(record, _KEYS, set(_KEYS), "the file")
    labels, parents = list[str](), list[int]()
    synonyms, ids, room = dict[str, Path](), dict[Path, str](), _MAX_PATH_NAMES
    root = {"name": ROOT_NAME, "parent": -1, "synonyms": record["root_synonyms"]}
    for node, entry in enumerate([root, *record["nodes"]]):
        _check_keys(entry, _RECORD_KEYS, {"name", "parent"}, f"node {node}")
        if node and not 0 <= entry["parent"] < node:
            found = f"node {node} ({clipped(entry['name'])}) with the parent {entry['parent']}"
            raise _invalid(found, "parents that stand before their children, from 0, the root")
        labels.append(entry["name"])
        parents.append(entry["parent"])
        path = path_of(labels, parents, node) if len(entry) > 2 else ()
        room -= len(path)
        if room < 0:
            found = f"annotated nodes whose paths have more than {_MAX_PATH_NAMES:,} names together"
            raise _invalid(found, "fewer of them, or a tree that is less deep")
        for synonym in entry.get("synonyms", ()):
            if not isinstance(synonym, str) or synonym in synonyms:
                found = f"the synonym {clipped(synonym)} at node {node}"
                raise _invalid(found, "text, used only once")
            synonyms[synonym] = path
        ids |= {path: entry["ontology_id"]} if "ontology_id" in entry else {}
    levels, given = tuple(record["level_names"]), np.asarray(parents, dtype=np.int32)
    return cls(tuple(labels), given, level_names=levels, synonyms=synonyms, ontology_ids=ids)


def _check_keys(entry: Any, types: dict[str, type], needed: set[str], where: str) -> None:
    if not isinstance(entry, dict):
        raise _invalid(f"{type(entry).__name__} as {where}", "an object")
    if not needed <= set(entry) <= set(types):
        also = quoted(sorted(set(types) - needed))
        found = f"the keys {quoted(map(str, entry))} in {where}"
        raise _invalid(found, f"{quoted(sorted(needed))}, and optionally {also}")
    for key, value in entry.items():
        if type(value) is not types[key]:  # exact: True is no number here
            found = f"{clipped(key)} of type {type(value).__name__} in {where}"
            raise _invalid(found, f"type {types[key].__name__}")


def _invalid(found: str, valid: str) -> ValueError:
    return ValueError(
        f"This is not the JSON form of a taxonomy: it must have {valid}, got {found}. Write it "
        "with `Taxonomy.to_json`, or build the taxonomy with another constructor."
    )


def to_json(self: Taxonomy, path: str | os.PathLike[str] | None = None) -> str:
    """Return everything as JSON text with one node per line, for `from_json`.

    Parameters
    ----------
    path
        File to write the text to; an existing file is replaced only once the new one is
        complete.

    Returns
    -------
    str
        The text.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> Taxonomy.from_json(tree.to_json()) == tree
    True
    """
    head = self.to_dict()
    lines = ["    " + json.dumps(entry, ensure_ascii=False) for entry in head.pop("nodes")]
    keys = [f'  "{key}": {json.dumps(head[key], ensure_ascii=False)},' for key in head]
    text = "\n".join(["{", *keys, '  "nodes": [', ",\n".join(lines), "  ]", "}", ""])
    if path is not None:
        with atomic_write(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    return text


def from_json(cls: type[Taxonomy], source: str | os.PathLike[str]) -> Taxonomy:
    """Read a taxonomy from a JSON file, or of JSON text, that `to_json` wrote.

    Parameters
    ----------
    source
        Path of a file, or the text itself (which starts with ``{``).

    Raises
    ------
    ValueError
        When the content is not the JSON form of a taxonomy. Nothing in it is ever run.
    FileNotFoundError
        When there is no such file.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tax = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> Taxonomy.from_json(tax.to_json()) == tax
    True
    """
    text = str(source) if isinstance(source, str) and source.lstrip().startswith("{") else None
    if text is None and not os.path.isfile(source):  # also of what is no path at all
        raise FileNotFoundError(
            "The source must be the path of a file that `Taxonomy.to_json` wrote, or its text, "
            f"which starts with '{{', got no file {clipped(os.fspath(source))}. Check the path."
        )
    try:
        if text is None:  # some editors put a mark before the text
            text = read_bounded(source, MAX_BYTES).decode("utf-8-sig")
        record = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"what is not JSON ({error})", "JSON in UTF-8 with each key once") from None
    return from_dict(cls, record)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"repeated keys among {quoted(key for key, _ in pairs)}")
    return found


def immune(cls: type[Taxonomy]) -> Taxonomy:
    """Return the taxonomy of human immune cells: 15 base types and 50 subtypes, as published.

    Base types (``groups[0]``) and subtypes (`leaves`) stand in the order of their published
    numbers, 0 to 14 and 0 to 49, which is that of falling training-cell count. Three base types
    have one child, four have a leaf of their own name for "none of the siblings", and Treg and
    MAIT are siblings of CD4+T.

    Returns
    -------
    Taxonomy
        With the levels ``base_type`` and ``subtype``.

    Notes
    -----
    Tree, numbers and the spellings ``OtherT_exhuasted`` and ``NK_CD56+`` come from the public
    artefacts of scHDeepInsight (Jia et al. 2025, doi:10.1101/2025.06.23.661045). Cell Ontology
    ids and further synonyms are ours; merged classes for which the ontology has no exact term
    (such as Megakaryocytes/platelets) carry no id.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tax = Taxonomy.immune()
    >>> len(tax.groups[0]), tax.n_leaves
    (15, 50)
    >>> tax.path_name(tax.resolve("OtherT_exhuasted"))
    'OtherT > OtherT_exhausted'
    """
    return from_json(cls, (files("hdeepinsight.taxonomy") / "immune.json").read_text("utf-8"))


def show(
    self: Taxonomy,
    counts: Mapping[Any, int] | ArrayLike | None = None,
    *,
    max_depth: int | None = None,
    max_lines: int | None = None,
) -> str:
    """Draw the tree as text.

    Parameters
    ----------
    counts
        Cells labelled exactly at each node: an array of shape ``(n_nodes,)``, or a mapping
        (also a Series) of names or node indices. Shown are the cells at or under each node.
    max_depth
        Deepest level to draw.
    max_lines
        Lines after which the rest is only counted.

    Raises
    ------
    ValueError
        When `counts` has another length, or names that the taxonomy does not have.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tax = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> print(tax.show({"CD4": 1200, "T": 30, "B": 7}))
    root (1,237)
    ├── T (1,230)
    │   ├── CD4 (1,200)
    │   └── CD8 (0)
    └── B (7)
    """
    sums = self.roll_up(self.per_node({} if counts is None else counts, "counts").astype(np.int64))
    lines = _lines(self, None if counts is None else sums, max_depth)
    shown = list(islice(lines, max_lines))
    if n_left := sum(1 for _ in lines):
        shown.append(f"... and {n_left:,} more nodes")
    return "\n".join(shown)


def _lines(tree: Taxonomy, sums: NDArray[np.int64] | None, max_depth: int | None) -> Iterator[str]:
    """Draw nodes, but no only child of its parent's name, as columns that repeat a label give."""
    stack: list[tuple[int, str, str]] = [(0, "", "")]
    while stack:
        node, lead, indent = stack.pop()
        count = "" if sums is None else f" ({sums[node]:,})"
        yield f"{lead}{tree.labels[node]}{count}"
        children = [] if tree.depth[node] == max_depth else tree.children(node).tolist()
        while len(children) == 1 and tree.labels[children[0]] == tree.labels[node]:
            children = tree.children(children[0]).tolist()
        for child in reversed(children):
            mark, bar = ("└── ", "    ") if child == children[-1] else ("├── ", "│   ")
            stack.append((child, indent + mark, indent + bar))

"""Validate the nodes of a tree, and convert a taxonomy from and to paths, dicts, edges and JSON."""

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

from hdeepinsight._errors import examples, invalid
from hdeepinsight._io import atomic_write, read_bounded

if TYPE_CHECKING:
    from hdeepinsight.taxonomy._taxonomy import Taxonomy

#: Bare names from level 1 down to a node; ``()`` for the root.
Path = tuple[str, ...]

#: A path as tuple or text, a synonym, or a bare name that leads to one path.
NodeName = str | Path


class Annotations(TypedDict, total=False):
    """Optional annotations of a tree; see `Taxonomy.with_annotations`."""

    level_names: Sequence[str] | None
    synonyms: Mapping[str, NodeName] | None
    ontology_ids: Mapping[Any, str] | None


#: Separator of the names in a text path. Not a slash, which published names contain
#: (``Megakaryocytes/platelets``).
SEPARATOR = " > "

#: Text form of the root's path ``()``, and therefore a reserved name at level 1.
ROOT_NAME = "root"

#: Upper limit of nodes in a nested object, which may be small and still expand without bound.
MAX_NODES = 10_000_000

_MAX_DEPTH = 100_000
_MAX_COMPARED = 20_000
_MAX_SHOWN = 120
_NAME_PROBLEMS = {
    re.compile(r"^\s*$"): "is empty",
    re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]"): "contains a control character or line break",
    re.compile(r"(?:^|\s)>(?:\s|$)"): f"contains {SEPARATOR!r}, the separator of text paths",
}


def join_path(path: Sequence[str]) -> str:
    """Return a path as text, e.g. ``"B > B_naive"``; ``"root"`` for the root."""
    return SEPARATOR.join(path) if path else ROOT_NAME


def split_path(name: str | Sequence[str]) -> Path:
    """Return the path of a text form (the inverse of `join_path`) or of a sequence of names."""
    if isinstance(name, str):
        return () if name == ROOT_NAME else tuple(name.split(SEPARATOR))
    return tuple(name)


def path_of(labels: Sequence[str], parent: Sequence[int] | NDArray[np.int32], node: int) -> Path:
    """Return the names from level 1 down to `node`; ``()`` for the root."""
    names: list[str] = []
    while node > 0:
        names.append(labels[node])
        node = int(parent[node])
    return tuple(names[::-1])


def name_problem(name: object) -> str | None:
    """Return why a node name is invalid, as the rest of a sentence, or None if it is valid."""
    if not isinstance(name, str):
        return f"is of type {type(name).__name__}, not a string"
    return next((text for pattern, text in _NAME_PROBLEMS.items() if pattern.search(name)), None)


def close_matches(name: object, known: Iterable[str], n: int = 3) -> list[str]:
    """Return known names that resemble `name`, ignoring case, the closest first."""
    # difflib is slow: on all names of a huge tree, an error message would take minutes
    folded = {candidate.casefold(): candidate for candidate in islice(known, _MAX_COMPARED)}
    return [folded[hit] for hit in difflib.get_close_matches(str(name).casefold(), folded, n=n)]


def clipped(value: object) -> str:
    """Quote a value for an error message, shortened if it is long."""
    text = repr(value[: 2 * _MAX_SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 4]}...{text[-1]}"


def quoted(names: Iterable[str], limit: int = 10) -> str:
    """Quote names and join them by commas; names beyond `limit` are only counted."""
    listed = list(names)
    return examples([*map(clipped, listed[:limit]), *listed[limit:]], limit)


def canonical_tree(labels: Sequence[str], parents: Sequence[int]) -> tuple[Path, NDArray[np.int32]]:
    """Validate a tree and sort its nodes breadth first, keeping the given order of siblings.

    Parameters
    ----------
    labels
        Bare name of each node; the root's is ignored.
    parents
        Index of each node's parent, -1 for the root.

    Returns
    -------
    labels, parents
        The same tree with the root as node 0; `parents` is int32 of shape ``(n_nodes,)``.

    Raises
    ------
    ValueError
        If there is no root or more than one, a cycle, a parent out of range, an invalid name, two
        siblings with the same name, or nothing below the root. The message names the node.
    """
    n_nodes = len(labels)
    if n_nodes != len(parents):
        found = f"{n_nodes:,} labels and {len(parents):,} parents"
        raise ValueError(f"A tree must have one parent per node, got {found}. Add what is missing.")
    children: list[list[int]] = [[] for _ in range(n_nodes + 1)]  # the last entry: the roots
    for node, parent in enumerate(parents):
        if not -1 <= parent < n_nodes:
            name = f"The parent of node {node} ({clipped(labels[node])})"
            raise invalid(name, parent, f"0 to {n_nodes - 1}, or -1 for the root", "Correct it.")
        children[parent].append(node)
    order = children[-1].copy()
    for node in order:  # `order` grows while it is read, as a queue
        order.extend(children[node])
    problem = None
    if len(children[-1]) > 1:
        roots = quoted(labels[node] for node in children[-1])
        problem = f"more than one root: {roots}. Put these nodes under one common root"
    elif len(order) < n_nodes:
        unreached = quoted(labels[v] for v in sorted({*range(n_nodes)}.difference(order)))
        found = "a cycle" if order else "no root but a cycle"
        problem = f"{found} at or above {unreached}. Remove one of these links"
    elif n_nodes < 2:
        problem = f"{'a root and nothing below it' if n_nodes else 'no root'}. Check the labels"
    if problem:
        raise ValueError(f"A taxonomy must have one root, above every other node, got {problem}.")
    rank = np.argsort(order).astype(np.int32)
    parent_of = np.append(np.int32(-1), rank[np.asarray(parents, dtype=np.int64)[order[1:]]])
    names = [ROOT_NAME, *(labels[node] for node in order[1:])]
    seen = {(0, ROOT_NAME): "stands for the root"}
    for name, above in zip(names[1:], parent_of[1:].tolist(), strict=True):
        if problem := name_problem(name) or seen.get((above, name)):
            under = clipped(join_path(path_of(names, parent_of, above)))
            found = f"a child of {under} named {clipped(name)}, which {problem}"
            raise ValueError(f"Names must be text, unique among siblings, got {found}. Rename it.")
        seen[above, name] = "is the name of a sibling"
    return tuple(map(str, names)), parent_of  # numpy strings become plain ones


def build(
    cls: type[Taxonomy], labels: Sequence[str], parents: Sequence[int], annotations: Annotations
) -> Taxonomy:
    """Build a taxonomy from names and parents; the name of the root (first) becomes a synonym."""
    tree = cls(tuple(labels), np.asarray(parents, dtype=np.int32))
    if labels[0] not in ("", *tree.labels):
        tree = tree.with_annotations(synonyms={labels[0]: ROOT_NAME})
    return tree.with_annotations(**annotations) if annotations else tree


def from_paths(
    cls: type[Taxonomy], paths: Iterable[NodeName], **annotations: Unpack[Annotations]
) -> Taxonomy:
    """Build a taxonomy from paths, given as tuples or as text (``"T > CD4"``).

    Parameters
    ----------
    paths
        Paths of leaves or of any other nodes; parents that are not listed are added.
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
    """Build a taxonomy from nested dicts and lists.

    Parameters
    ----------
    nested
        A dict that maps names to children, or a list of names (or of such dicts). Children are
        again dicts or lists; an empty one, or None, makes a leaf.
    annotations
        Level names, synonyms and ontology ids, as in `Taxonomy.with_annotations`.

    Raises
    ------
    TypeError
        If the children of a node are neither a dict, a list nor None.
    ValueError
        If an object contains itself or is nested more than 100,000 deep, or a name is invalid.

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
            problem = f"at most {_MAX_DEPTH:,} levels, got more under {under}"
            hint = "Check that no dict or list contains itself."
            raise ValueError(f"A nested tree must have {problem}. {hint}")
        if not isinstance(item, (Mapping, list, tuple)):
            found = f"{clipped(item)} of type {type(item).__name__} under {under}"
            forms = "a dict (name to children), a list of names, or None for a leaf"
            raise TypeError(f"Children must be {forms}, got {found}. Put a single child in a list.")
        for entry in [item] if isinstance(item, Mapping) else item:
            for name, below in entry.items() if isinstance(entry, Mapping) else [(entry, None)]:
                if below:
                    stack.append((below, len(labels), depth + 1))
                labels.append(name)
                parents.append(parent)
        if len(labels) > MAX_NODES:
            hint = "Check that the source is a taxonomy of cell types, not a list of cells."
            raise ValueError(f"A tree must have at most {MAX_NODES:,} nodes, got more. {hint}")
    return build(cls, labels, parents, annotations)


def from_edges(
    cls: type[Taxonomy], edges: Iterable[tuple[str, str]], **annotations: Unpack[Annotations]
) -> Taxonomy:
    """Build a taxonomy from (parent, child) pairs.

    Parameters
    ----------
    edges
        Pairs of names. A name identifies its node; if types share a name, write them as text
        paths, as `to_edges` does. A single node without a parent is the root; several become the
        children of a new root. To keep a single top node as a cell type, link it to the reserved
        name ``"root"``.
    annotations
        Level names, synonyms and ontology ids, as in `Taxonomy.with_annotations`.

    Raises
    ------
    ValueError
        If a node has two parents, or the edges form a cycle.
    TypeError
        If an edge is not a pair of names.

    Notes
    -----
    The root of a taxonomy is unnamed. The name that it has in `edges` becomes its synonym, so that
    cells with this label are of unknown type.

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
            hint = "Omit pairs without a parent: the node without a parent is the root."
            raise TypeError(f"An edge must be a pair (parent, child), got {clipped(edge)}. {hint}")
        parent, child = pair
        path, first = split_path(child), parent_of.setdefault(child, parent)
        if first != parent or (len(path) > 1 and path[:-1] != split_path(parent)):
            found = f"{clipped(child)} below {quoted(dict.fromkeys([first, parent]))}. If two types"
            hint = f"share a name, write them as paths ('{first} > {path[-1]}')."
            raise ValueError(f"A node must have one parent, the start of its path: {found} {hint}")
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
#: Maximum size of a file; a million nodes take about 50 MB.
MAX_BYTES = 256 * 2**20

#: Maximum total length of the paths of annotated nodes, which is quadratic on a deep chain.
_MAX_PATH_NAMES = 2**24

_KEYS = {"format": str, "schema_version": int}
_KEYS |= dict.fromkeys(("level_names", "root_synonyms", "nodes"), list)
_RECORD_KEYS = {"name": str, "parent": int, "ontology_id": str, "synonyms": list}
_RECORD_KEYS |= {"published_id": int, "unspecified": bool}  # in older files; ignored


def to_dict(self: Taxonomy) -> dict[str, Any]:
    """Return the taxonomy as plain types (dict, list, str, int), for `from_dict`.

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
    """Rebuild a taxonomy from the dict that `to_dict` returned.

    Parameters
    ----------
    record
        Dict of plain types; every key is checked.

    Raises
    ------
    ValueError
        If `record` is not such a dict, or was written by a newer version.

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
        found = f"{SCHEMA_VERSION}, got {clipped(version)}. Update hdeepinsight, or export again."
        raise ValueError(f"A taxonomy must have schema version {found}")
    _check_keys(record, _KEYS, set(_KEYS), "the file")
    labels, parents = list[str](), list[int]()
    synonyms, ids, n_names = dict[str, Path](), dict[Path, str](), 0
    root = {"name": ROOT_NAME, "parent": -1, "synonyms": record["root_synonyms"]}
    for node, entry in enumerate([root, *record["nodes"]]):
        _check_keys(entry, _RECORD_KEYS, {"name", "parent"}, f"node {node}")
        if node and not 0 <= entry["parent"] < node:
            found = f"node {node} ({clipped(entry['name'])}) with the parent {entry['parent']}"
            raise _invalid(found, "parents listed before their children, starting at 0, the root")
        labels.append(entry["name"])
        parents.append(entry["parent"])
        path = path_of(labels, parents, node) if len(entry) > 2 else ()
        n_names += len(path)
        if n_names > _MAX_PATH_NAMES:
            found = f"annotated nodes whose paths have more than {_MAX_PATH_NAMES:,} names in total"
            raise _invalid(found, "fewer annotated nodes, or a shallower tree")
        for synonym in entry.get("synonyms", ()):
            if not isinstance(synonym, str) or synonym in synonyms:
                found = f"the synonym {clipped(synonym)} at node {node}"
                raise _invalid(found, "synonyms that are text and used only once")
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
        if type(value) is not types[key]:  # not isinstance: True is not a valid number
            found = f"{clipped(key)} of type {type(value).__name__} in {where}"
            raise _invalid(found, f"type {types[key].__name__}")


def _invalid(found: str, valid: str) -> ValueError:
    hint = "Write it with `Taxonomy.to_json`, or build the taxonomy with another constructor."
    return ValueError(f"The JSON form of a taxonomy must have {valid}, got {found}. {hint}")


def to_json(self: Taxonomy, path: str | os.PathLike[str] | None = None) -> str:
    """Return the taxonomy as JSON text with one node per line, for `from_json`.

    Parameters
    ----------
    path
        File to write the text to as well; an existing file is replaced only once the new one is
        complete.

    Returns
    -------
    str
        The JSON text.

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
    """Read a taxonomy from a JSON file or JSON text that `to_json` wrote.

    Parameters
    ----------
    source
        Path of a file, or the text itself (which starts with ``{``).

    Raises
    ------
    ValueError
        If the content is not the JSON form of a taxonomy. Nothing in it is ever executed.
    FileNotFoundError
        If the file does not exist.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tax = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> Taxonomy.from_json(tax.to_json()) == tax
    True
    """
    text = str(source) if isinstance(source, str) and source.lstrip().startswith("{") else None
    if text is None and not os.path.isfile(source):
        forms = "the path of a JSON file, or JSON text that starts with '{'"
        found = f"no file {clipped(os.fspath(source))}. Check the path."
        raise FileNotFoundError(f"source must be {forms}, got {found}")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError(f"repeated keys among {quoted(key for key, _ in pairs)}")
        return found

    try:
        if text is None:  # utf-8-sig: some editors start a file with a byte order mark
            text = read_bounded(source, MAX_BYTES).decode("utf-8-sig")
        record = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        found = f"content that is not JSON ({error})"
        raise _invalid(found, "JSON in UTF-8 without repeated keys") from None
    return from_dict(cls, record)


def immune(cls: type[Taxonomy]) -> Taxonomy:
    """Return the published taxonomy of human immune cells with 15 base types and 50 subtypes.

    Base types (``groups[0]``) and subtypes (`leaves`) are in the order of their published numbers,
    0 to 14 and 0 to 49, by decreasing number of training cells. Three base types have a single
    child, four have a leaf with the same name for "none of the siblings", and Treg and MAIT are
    siblings of CD4+T.

    Returns
    -------
    Taxonomy
        Taxonomy with the levels ``base_type`` and ``subtype``.

    Notes
    -----
    The tree, the numbers and the spellings ``OtherT_exhuasted`` and ``NK_CD56+`` come from the
    public artefacts of scHDeepInsight (Jia et al. 2025, doi:10.1101/2025.06.23.661045). We added
    Cell Ontology ids and further synonyms; merged classes without an exact term in the ontology
    (such as Megakaryocytes/platelets) have no id.

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
        Number of cells labelled exactly at each node: an array of shape ``(n_nodes,)``, or a
        mapping (or Series) from names or node indices. The sums at or below each node are shown.
    max_depth
        Deepest level to draw.
    max_lines
        Maximum number of lines; the remaining nodes are only counted.

    Raises
    ------
    ValueError
        If `counts` has another length, or names that are not in the taxonomy.

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
    """Yield a line per node, leaving out only children that repeat the name of their parent."""
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

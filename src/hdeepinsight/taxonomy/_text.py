"""Taxonomies as text: the checked JSON form, and a drawing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from importlib.resources import files
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hdeepinsight._io import atomic_write, read_bounded
from hdeepinsight.taxonomy._build import (
    ROOT_NAME,
    Path,
    clipped,
    path_of,
    quoted,
)

if TYPE_CHECKING:
    from hdeepinsight.taxonomy._taxonomy import Taxonomy

FORMAT = "hdeepinsight.taxonomy"
SCHEMA_VERSION = 1
MAX_BYTES = 256 * 2**20
"""Larger files are refused: a million nodes take some 50 MB."""

_MAX_PATH_NAMES = 2**24
"""Names in the paths of all annotated nodes together; on a deep chain they grow with its square."""

_KEYS = {
    "format": str,
    "schema_version": int,
    "level_names": list,
    "root_synonyms": list,
    "nodes": list,
}
_RECORD_KEYS = {
    "name": str,
    "parent": int,
    "ontology_id": str,
    "synonyms": list,
    "published_id": int,  # these two are in files of before, and mean nothing any more
    "unspecified": bool,
}

def to_dict(self: Taxonomy) -> dict[str, Any]:
    """Return everything as plain types (dict, list, str, int), for `from_dict`.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> Taxonomy.from_nested({"T": ["CD4"]}).to_dict()["nodes"]
    [{'name': 'T', 'parent': 0}, {'name': 'CD4', 'parent': 1}]
    """
    records: list[dict[str, Any]] = [
        {"name": label, "parent": above}
        for label, above in zip(self.labels, self.parent.tolist(), strict=True)
    ]
    for path, term in self.ontology_ids.items():
        records[self.resolve(path)]["ontology_id"] = term
    for synonym, path in self.synonyms.items():
        records[self.resolve(path)].setdefault("synonyms", []).append(synonym)
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "level_names": list(self.level_names),
        "root_synonyms": records[0].get("synonyms", []),
        "nodes": records[1:],
    }


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
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise _invalid(clipped(found), f"an object with the format {FORMAT!r}")
    version = record.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"This version of hdeepinsight reads taxonomies of schema version {SCHEMA_VERSION}, "
            f"got {clipped(version)}. Update hdeepinsight, or export the taxonomy again."
        )
    _check_keys(record, _KEYS, set(_KEYS), "the file")
    labels: list[str] = []
    parents: list[int] = []
    synonyms: dict[str, Path] = {}
    ids: dict[Path, str] = {}
    room = _MAX_PATH_NAMES
    root = {"name": ROOT_NAME, "parent": -1, "synonyms": record["root_synonyms"]}
    for node, entry in enumerate([root, *record["nodes"]]):
        _check_keys(entry, _RECORD_KEYS, {"name", "parent"}, f"node {node}")
        if node and not 0 <= entry["parent"] < node:
            raise _invalid(
                f"node {node} ({clipped(entry['name'])}) with the parent {entry['parent']}",
                "parents stand before their children: 0 is the root, 1 the first record",
            )
        labels.append(entry["name"])
        parents.append(entry["parent"])
        if len(entry) == 2:
            continue
        path = path_of(labels, parents, node)
        room -= len(path)
        if room < 0:
            raise _invalid(
                f"synonyms and ids of nodes whose paths have more than {_MAX_PATH_NAMES:,} names "
                "together",
                "fewer of them, or a tree that is less deep",
            )
        for synonym in entry.get("synonyms", ()):
            if not isinstance(synonym, str) or synonym in synonyms:
                raise _invalid(
                    f"the synonym {clipped(synonym)} at node {node}", "text, used only once"
                )
            synonyms[synonym] = path
        if "ontology_id" in entry:
            ids[path] = entry["ontology_id"]
    return cls(
        tuple(labels),
        np.asarray(parents, dtype=np.int32),
        level_names=tuple(record["level_names"]),
        synonyms=synonyms,
        ontology_ids=ids,
    )


def _check_keys(entry: Any, types: dict[str, type], needed: set[str], where: str) -> None:
    if not isinstance(entry, dict):
        raise _invalid(f"{type(entry).__name__} as {where}", "an object")
    if not needed <= set(entry) <= set(types):
        raise _invalid(
            f"the keys {quoted(map(str, entry))} in {where}",
            f"{quoted(sorted(needed))}, and optionally {quoted(sorted(set(types) - needed))}",
        )
    for key, value in entry.items():
        if type(value) is not types[key]:  # exact: True is no number here
            raise _invalid(
                f"{clipped(key)} of type {type(value).__name__} in {where}",
                f"type {types[key].__name__}",
            )


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
    except RecursionError:
        raise _invalid("text that is nested too deeply", "a flat list of nodes") from None
    except UnicodeDecodeError as error:
        raise _invalid(f"bytes that are not UTF-8 text (at {error.start:,})", "text") from None
    except ValueError as error:
        raise _invalid(f"text that is not JSON ({error})", "JSON with each key once") from None
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
    sums = None
    if counts is not None:
        numbers = np.zeros(self.n_nodes, dtype=np.int64)
        if hasattr(counts, "items"):  # a mapping, or a Series
            for name, count in counts.items():
                numbers[self._node(name)] += int(count)
        elif np.shape(counts) == numbers.shape:
            numbers += np.asarray(counts).astype(np.int64)
        else:
            raise ValueError(
                f"There must be one count per node, ({self.n_nodes},), got the shape "
                f"{np.shape(counts)}. Use `np.bincount(nodes, minlength=taxonomy.n_nodes)`."
            )
        sums = self.roll_up(numbers)
    lines = _lines(self, sums, max_depth)
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
        if max_depth is not None and tree.depth[node] >= max_depth:
            continue
        children = tree.children(node).tolist()
        while len(children) == 1 and tree.labels[children[0]] == tree.labels[node]:
            children = tree.children(children[0]).tolist()
        for child in reversed(children):
            mark, bar = ("└── ", "    ") if child == children[-1] else ("├── ", "│   ")
            stack.append((child, indent + mark, indent + bar))

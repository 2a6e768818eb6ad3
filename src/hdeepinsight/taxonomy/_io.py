"""Taxonomies as text: the checked JSON form, Newick, and a drawing."""

import json
import os
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hdeepinsight._io import read_bounded
from hdeepinsight.taxonomy._structure import ROOT_NAME, Path, clipped, path_of, quoted
from hdeepinsight.taxonomy._tree import Tree

FORMAT = "hdeepinsight.taxonomy"
SCHEMA_VERSION = 1
MAX_BYTES = 256 * 2**20
"""Larger files are refused: a million nodes take some 50 MB."""

_MAX_DIGITS = 18
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
    "published_id": int,
    "synonyms": list,
    "unspecified": bool,
}

_TOKEN = re.compile(
    r"""(?P<skipped>\s+ | \[[^\[\]]*\] | :\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
      | (?P<quoted>'(?:[^']++|'')*+')
      | (?P<mark>[(),;])
      | (?P<plain>[^\s()\[\]',:;]+)""",
    re.VERBOSE,
)
_PLAIN_NAME = re.compile(r"[A-Za-z0-9.+*/-]+")  # no underscore: some readers turn it into a blank

_MAY_FOLLOW = {
    "(": {"", "(", ","},
    "name": {"", "(", ",", ")"},
    ",": {"name"},
    ")": {"name"},
    ";": {"name", ")"},
}


def to_record(tree: Tree) -> dict[str, Any]:
    """Return a taxonomy as a plain dict; records stand in node order and leave out the root."""
    records: list[dict[str, Any]] = [
        {"name": label, "parent": above}
        for label, above in zip(tree.labels, tree.parent.tolist(), strict=True)
    ]
    for path, ontology_id in tree.ontology_ids.items():
        records[tree.resolve(path)]["ontology_id"] = ontology_id
    for path, published_id in tree.published_ids.items():
        records[tree.resolve(path)]["published_id"] = published_id
    for synonym, path in tree.synonyms.items():
        records[tree.resolve(path)].setdefault("synonyms", []).append(synonym)
    for path in tree.unspecified_leaves:
        records[tree.resolve(path)]["unspecified"] = True
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "level_names": list(tree.level_names),
        "root_synonyms": records[0].get("synonyms", []),
        "nodes": records[1:],
    }


def from_record(record: Any) -> tuple[list[str], list[int], dict[str, Any]]:
    """Read bare names, parents, and the keyword arguments of `Taxonomy` out of a plain dict.

    Raises
    ------
    ValueError
        When it is not such a dict, or of a newer schema.
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
    labels, parents = [ROOT_NAME], [-1]
    for node, entry in enumerate(record["nodes"], start=1):
        _check_keys(entry, _RECORD_KEYS, {"name", "parent"}, f"node {node}")
        if not 0 <= entry["parent"] < node:
            raise _invalid(
                f"node {node} ({clipped(entry['name'])}) with the parent {entry['parent']}",
                "parents stand before their children: 0 is the root, 1 the first record",
            )
        labels.append(entry["name"])
        parents.append(entry["parent"])
    return labels, parents, _annotations(record, labels, parents)


def _annotations(record: Any, labels: list[str], parents: list[int]) -> dict[str, Any]:
    synonyms: dict[str, Path] = {}
    ontology_ids: dict[Path, str] = {}
    published_ids: dict[Path, int] = {}
    unspecified: list[Path] = []
    room = _MAX_PATH_NAMES
    for node, entry in enumerate([{"synonyms": record["root_synonyms"]}, *record["nodes"]]):
        if len(entry) <= 2 and node:
            continue
        path = path_of(labels, parents, node)
        room -= len(path)
        if room < 0:
            raise _invalid(
                f"synonyms and ids of nodes whose paths have more than {_MAX_PATH_NAMES:,} names "
                "together",
                "fewer of them, or a tree that is less deep",
            )
        for synonym in entry.get("synonyms", []):
            if not isinstance(synonym, str) or synonym in synonyms:
                raise _invalid(
                    f"the synonym {clipped(synonym)} at node {node}", "text, used only once"
                )
            synonyms[synonym] = path
        if "ontology_id" in entry:
            ontology_ids[path] = entry["ontology_id"]
        if "published_id" in entry:
            published_ids[path] = entry["published_id"]
        if entry.get("unspecified"):
            unspecified.append(path)
    return {
        "level_names": tuple(record["level_names"]),
        "synonyms": synonyms,
        "ontology_ids": ontology_ids,
        "published_ids": published_ids,
        "unspecified_leaves": tuple(unspecified),
    }


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


def to_text(tree: Tree) -> str:
    """Write JSON text with one node per line, so that a difference shows the node that changed."""
    record = to_record(tree)
    nodes = ",\n".join("    " + json.dumps(entry, ensure_ascii=False) for entry in record["nodes"])
    head = [
        f'  "{key}": {json.dumps(record[key], ensure_ascii=False)}'
        for key in ("format", "schema_version", "level_names", "root_synonyms")
    ]
    return "{\n" + ",\n".join(head) + ',\n  "nodes": [\n' + nodes + "\n  ]\n}\n"


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a file, which has to be a regular one and of a size that a taxonomy may have."""
    if not os.path.isfile(path):  # also of what is no path at all
        raise FileNotFoundError(
            "The source must be the path of a file that `Taxonomy.to_json` wrote, or its text, "
            f"which starts with '{{', got no file {clipped(os.fspath(path))}. Check the path."
        )
    try:
        # some editors put a mark before the text
        return read_bounded(path, MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _invalid(f"bytes that are not UTF-8 text (at {error.start:,})", "text") from None


def parse_text(text: str) -> Any:
    """Parse JSON text, in which repeated keys, absurd nesting and absurd numbers are errors."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_int=_whole)
    except RecursionError:
        raise _invalid("text that is nested too deeply", "a flat list of nodes") from None
    except json.JSONDecodeError as error:
        raise _invalid(f"text that is not JSON ({error})", "JSON") from None


def _whole(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise _invalid(f"a number of {len(digits):,} digits", f"at most {_MAX_DIGITS} digits")
    return int(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _invalid(f"repeated keys among {quoted(key for key, _ in pairs)}", "each key once")
    return found


def tree_from_newick(text: str) -> tuple[list[str], list[int]]:
    """Parse Newick text into names and parents, node 0 the root; an unnamed one is ``"root"``."""
    labels, parents = [""], [-1]
    node, previous, place = 0, "", 0
    for kind, name, place in _tokens(text):
        if previous not in _MAY_FOLLOW[kind]:
            found = f"{kind!r} right after {previous or 'the start'!r}"
            if previous == ";":
                found = "text after the final ';'"
            elif kind in {",", ")"}:
                found = f"a node without a name before {kind!r}"
            raise _problem(found, place)
        if kind == "name":
            labels[node] = name
        if kind in {",", ")"}:
            node = parents[node]
            if node < 0:
                raise _problem(f"{kind!r} outside of all brackets", place)
        if kind in {"(", ","}:
            labels.append("")
            parents.append(node)
            node = len(labels) - 1
        previous = kind
    if node != 0:
        raise _problem("an opening bracket that is never closed", place)
    labels[0] = labels[0] or ROOT_NAME
    return labels, parents


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise _problem(f"{text[place : place + 20]!r}, which starts no name or mark", place)
        if match.lastgroup == "mark":
            yield match.group(), "", place
        elif match.lastgroup == "plain":
            yield "name", match.group(), place
        elif match.lastgroup == "quoted":
            yield "name", match.group()[1:-1].replace("''", "'"), place
        place = match.end()


def _problem(found: str, place: int) -> ValueError:
    return ValueError(
        "Newick text must be like '((leaf,leaf)node,leaf);' with a name for every node but the "
        "root, and names with brackets, commas, colons, quotes or blanks in single quotes, got "
        f"{found} at character {place}. Correct the text there."
    )


def write_newick(tree: Tree) -> str:
    """Write Newick text with all names; those that are not plain stand in single quotes."""
    pieces: list[str] = []
    firstborn = {int(siblings[0]) for siblings in tree.groups}
    stack: list[tuple[int, bool]] = [(0, False)]
    while stack:
        node, done = stack.pop()
        children = () if done else tree.children(node).tolist()
        if not done and node and node not in firstborn:
            pieces.append(",")
        if children:
            pieces.append("(")
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(children))
            continue
        if done:
            pieces.append(")")
        if node:
            name = tree.labels[node]
            plain = _PLAIN_NAME.fullmatch(name)
            pieces.append(name if plain else "'" + name.replace("'", "''") + "'")
    return "".join(pieces) + ";"


def draw(
    tree: Tree, counts: NDArray[np.int64] | None, max_depth: int | None, max_lines: int | None
) -> str:
    """Draw the tree as lines, in the manner of ``tree``; past `max_lines` the rest is counted.

    An only child of its parent's name, as columns that repeat a label give, is not drawn again.
    """
    sums = None if counts is None else tree.roll_up(counts)
    lines = _lines(tree, sums, max_depth)
    shown = list(islice(lines, max_lines))
    if n_left := sum(1 for _ in lines):
        shown.append(f"... and {n_left:,} more nodes")
    return "\n".join(shown)


def _lines(tree: Tree, sums: NDArray[np.int64] | None, max_depth: int | None) -> Iterator[str]:
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

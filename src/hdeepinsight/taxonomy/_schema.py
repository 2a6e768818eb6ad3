"""The JSON form of a taxonomy: plain types, one record a node, checked key by key."""

import json
import os
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from hdeepinsight.taxonomy._names import ROOT_NAME, Path, clipped, quoted

if TYPE_CHECKING:
    from hdeepinsight.taxonomy._lookup import LookupMixin

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


def to_record(tree: "LookupMixin") -> dict[str, Any]:
    """Plain dict of a taxonomy; node records stand in node order and leave out the root."""
    records: list[dict[str, Any]] = [
        {"name": label, "parent": above}
        for label, above in zip(tree.labels, tree.parent.tolist(), strict=True)
    ]
    _add_annotations(tree, records)
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "level_names": list(tree.level_names),
        "root_synonyms": records[0].get("synonyms", []),
        "nodes": records[1:],
    }


def _add_annotations(tree: "LookupMixin", records: list[dict[str, Any]]) -> None:
    for path, ontology_id in tree.ontology_ids.items():
        records[tree.resolve(path)]["ontology_id"] = ontology_id
    for path, published_id in tree.published_ids.items():
        records[tree.resolve(path)]["published_id"] = published_id
    for synonym, path in tree.synonyms.items():
        records[tree.resolve(path)].setdefault("synonyms", []).append(synonym)
    for path in tree.unspecified_leaves:
        records[tree.resolve(path)]["unspecified"] = True


def from_record(record: Any) -> tuple[list[str], list[int], dict[str, Any]]:
    """Bare names, parents, and the keyword arguments of `Taxonomy` out of a plain dict.

    Raises
    ------
    ValueError
        When it is not such a dict, or of a newer schema.
    """
    _check_header(record)
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
        path = _path(labels, parents, node)
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


def _path(labels: list[str], parents: list[int], node: int) -> Path:
    names: list[str] = []
    while node > 0:
        names.append(labels[node])
        node = parents[node]
    return tuple(reversed(names))


def _check_header(record: Any) -> None:
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise _invalid(clipped(found), f"an object with the format {FORMAT!r}")
    version = record.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"Found a taxonomy of schema version {clipped(version)}. This version of hdeepinsight "
            f"reads version {SCHEMA_VERSION}. Update hdeepinsight, or export the taxonomy again."
        )
    _check_keys(record, _KEYS, set(_KEYS), "the file")


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
        f"This is not the JSON form of a taxonomy. Found {found}; valid is {valid}. Write it with "
        "`Taxonomy.to_json`, or build the taxonomy with another constructor."
    )


def to_text(tree: "LookupMixin") -> str:
    """JSON text with one node a line, so that a difference shows the node that changed."""
    record = to_record(tree)
    nodes = ",\n".join("    " + json.dumps(entry, ensure_ascii=False) for entry in record["nodes"])
    head = [
        f'  "{key}": {json.dumps(record[key], ensure_ascii=False)}'
        for key in ("format", "schema_version", "level_names", "root_synonyms")
    ]
    return "{\n" + ",\n".join(head) + ',\n  "nodes": [\n' + nodes + "\n  ]\n}\n"


def read_text(path: str | os.PathLike[str]) -> str:
    """Text of a file, which has to be one and of a size that a taxonomy may have."""
    if not os.path.isfile(path):  # also of what is no path at all
        raise FileNotFoundError(
            f"Found no file {clipped(os.fspath(path))}. Valid is the path of a file that "
            "`Taxonomy.to_json` wrote, or its text, which starts with '{'. Check the path."
        )
    with FilePath(path).open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise _invalid(f"more than {MAX_BYTES >> 20} MB", "a smaller file")
    try:
        return content.decode("utf-8-sig")  # some editors put a mark before the text
    except UnicodeDecodeError as error:
        raise _invalid(f"bytes that are no UTF-8 text (at {error.start:,})", "text") from None


def parse_text(text: str) -> Any:
    """Parse JSON text; repeated keys, absurd nesting and absurd numbers are errors."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_int=_whole)
    except RecursionError:
        raise _invalid("text that is nested too deeply", "a flat list of nodes") from None
    except json.JSONDecodeError as error:
        raise _invalid(f"text that is no JSON ({error})", "JSON") from None


def _whole(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise _invalid(f"a number of {len(digits):,} digits", f"at most {_MAX_DIGITS} digits")
    return int(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _invalid(f"repeated keys among {quoted(key for key, _ in pairs)}", "each key once")
    return found

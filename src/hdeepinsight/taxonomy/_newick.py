"""Newick text to a tree and back, without recursion."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hdeepinsight.taxonomy._names import ROOT_NAME

if TYPE_CHECKING:
    from hdeepinsight.taxonomy._core import TaxonomyCore

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


def tree_from_newick(text: str) -> tuple[list[str], list[int]]:
    """Bare name and parent of every node, node 0 the root; an unnamed root is ``"root"``."""
    labels, parents = [""], [-1]
    node, previous, place = 0, "", 0
    for kind, name, place in _tokens(text):
        if previous not in _MAY_FOLLOW[kind]:
            raise _problem(_misplaced(kind, previous), place)
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


def _misplaced(kind: str, previous: str) -> str:
    if previous == ";":
        return "text after the final ';'"
    if kind in {",", ")"}:
        return f"a node without a name before {kind!r}"
    return f"{kind!r} right after {previous or 'the start'!r}"


def _problem(found: str, place: int) -> ValueError:
    return ValueError(
        f"Found {found} at character {place} of the Newick text. Valid is "
        "'((leaf,leaf)node,leaf);' with a name for every node but the root, and names with "
        "brackets, commas, colons, quotes or blanks in single quotes. Correct the text there."
    )


def write_newick(tree: "TaxonomyCore") -> str:
    """Newick text with all names; those that are not plain stand in single quotes."""
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
            pieces.append(_quote(tree.labels[node]))
    return "".join(pieces) + ";"


def _quote(name: str) -> str:
    return name if _PLAIN_NAME.fullmatch(name) else "'" + name.replace("'", "''") + "'"

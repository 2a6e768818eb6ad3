"""A taxonomy drawn as text, in the manner of the ``tree`` command."""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hdeepinsight.taxonomy._core import TaxonomyCore


def draw(
    tree: "TaxonomyCore",
    counts: NDArray[np.int64] | None,
    max_depth: int | None,
    max_lines: int | None,
) -> str:
    """Lines of the tree; past `max_lines` the rest is counted."""
    sums = None if counts is None else tree.roll_up(counts)
    shown = list(islice(_lines(tree, sums, max_depth), max_lines))
    total = tree.n_nodes if max_depth is None else int((tree.depth <= max_depth).sum())
    if len(shown) < total:
        shown.append(f"... and {total - len(shown):,} more nodes")
    return "\n".join(shown)


def _lines(
    tree: "TaxonomyCore", sums: NDArray[np.int64] | None, max_depth: int | None
) -> Iterator[str]:
    stack: list[tuple[int, str, str]] = [(0, "", "")]
    while stack:
        node, lead, indent = stack.pop()
        count = "" if sums is None else f" ({sums[node]:,})"
        yield f"{lead}{tree.labels[node]}{count}"
        if max_depth is not None and tree.depth[node] >= max_depth:
            continue
        children = tree.children(node).tolist()
        for child in reversed(children):
            last = child == children[-1]
            mark, bar = ("└── ", "    ") if last else ("├── ", "│   ")
            stack.append((child, indent + mark, indent + bar))

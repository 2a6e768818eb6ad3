"""The one call of this room."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hdeepinsight.report._content import gather
from hdeepinsight.report._page import render

if TYPE_CHECKING:
    from hdeepinsight.annotation import Annotation

__all__ = ["write"]


def write(
    result: Annotation,
    path: str | Path,
    *,
    title: str | None = None,
    model: str | None = None,
    clusters: Any | None = None,
    embedding: Any | None = None,
    true_nodes: np.ndarray | None = None,
    created: datetime | None = None,
) -> None:
    """Write one HTML page that says what an annotation holds and how far to trust it.

    The page needs no network and no other file. It holds the input and gene reports, the cells of
    each label at every level, their confidence, what was stopped or rejected and why, decisions,
    pictures, a table of clusters, a methods paragraph with its sources, and all its figures as
    JSON too (``script#hdeepinsight-report``).

    Parameters
    ----------
    result
        The annotation, whoever made the probabilities.
    path
        File to write; one that is there is replaced.
    title
        Heading of the page.
    model
        Name of the model, for the head of the page.
    clusters
        Cluster of every cell, ``(n_cells,)``, such as ``adata.obs["leiden"]``; by default cells
        are grouped by the label where they stop.
    embedding
        Coordinates to draw the cells at, ``(n_cells, 2)``, such as ``adata.obsm["X_umap"]``; of
        more columns the first two are drawn. Cells without finite ones are left out.
    true_nodes
        Known node of every cell, ``(n_cells,)``, as ``taxonomy.encode(labels)`` gives it; 0 is
        unknown. The page then compares labels with them.
    created
        Time to write on the page; by default ``$SOURCE_DATE_EPOCH`` or now. With the same time,
        the same result gives the same file.

    Raises
    ------
    ValueError
        If clusters, coordinates or nodes do not fit the cells.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4 T", "CD8 T"], "B": []})
    >>> p = np.array([[1, 0.9, 0.1, 0.5, 0.4]])
    >>> result = hdi.Annotation(taxonomy=tree, obs_names=["a"], node_probabilities=p)
    >>> page = Path(tempfile.mkdtemp()) / "report.html"
    >>> hdi.report.write(result, page, title="One cell")
    >>> "<h1>One cell</h1>" in page.read_text(encoding="utf-8")
    True
    """
    content = gather(result, clusters=clusters, embedding=embedding, true_nodes=true_nodes)
    page = render(
        content,
        title=title or f"Cell types of {len(result):,} cells",
        model=model,
        created=created or _now(),
    )
    # A name may hold half a character, which no encoding has.
    Path(path).write_text(page, encoding="utf-8", errors="replace")


def _now() -> datetime:
    """Give the time that builds agree on (``SOURCE_DATE_EPOCH``), else that of the clock."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    return datetime.now(UTC) if epoch is None else datetime.fromtimestamp(int(epoch), UTC)

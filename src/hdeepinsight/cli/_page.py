"""The page about a result: where it may go, and what the query's file adds to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdeepinsight.cli._console import step
from hdeepinsight.cli._files import check_output, require_columns, written_at_once

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pandas as pd

    from hdeepinsight.annotation import Annotation
    from hdeepinsight.models import SCHDeepInsight

__all__ = ["CellFacts", "check_page", "write_page"]

_DEFAULT_EMBEDDING = "X_umap"


@dataclass(frozen=True, kw_only=True)
class CellFacts:
    """What the query's file says about its cells besides their counts.

    Parameters
    ----------
    clusters
        Cluster of every cell, shape ``(n_cells,)``.
    embedding
        Coordinates of every cell, shape ``(n_cells, n_dimensions)``.
    true_nodes
        Known node of every cell, shape ``(n_cells,)``; 0 is unknown.
    """

    clusters: pd.Series | None = None
    embedding: Any | None = None
    true_nodes: np.ndarray | None = None

    @classmethod
    def read(
        cls,
        query: Path,
        clusters: str | None,
        embedding: str | None,
        labels: Sequence[str],
        model: SCHDeepInsight,
    ) -> CellFacts:
        """Read the columns and coordinates that were named.

        Parameters
        ----------
        query
            File of the query.
        clusters, embedding
            Column of ``obs``, and name in ``obsm``.
        labels
            Columns of known labels; may be empty.
        model
            What reads the labels.

        Raises
        ------
        ValueError
            If a column or the coordinates are not there, or a label is not in the taxonomy.
        """
        from hdeepinsight.data import open_store

        store = open_store(query)
        require_columns(store.obs, [*([clusters] if clusters else []), *labels], source=query)
        return cls(
            clusters=store.obs[clusters] if clusters else None,
            embedding=_coordinates(query, embedding),
            true_nodes=model.label_nodes(query, labels_keys=labels) if labels else None,
        )


def check_page(out: Path, *, source: Path, overwrite: bool, option: str = "--report") -> None:
    """Refuse a page that would harm a file, before any work is done."""
    check_output(out, source=source, overwrite=overwrite, option=option, formats=(".html",))


def write_page(
    result: Annotation,
    out: Path,
    *,
    query: Path,
    model: str | Path,
    title: str | None = None,
    facts: CellFacts | None = None,
) -> None:
    """Write the page in one piece.

    Parameters
    ----------
    result
        The annotation.
    out
        File to write.
    query, model
        What was annotated, and with what, for the head of the page.
    title
        Heading; the query's name by default.
    facts
        What else is known about the cells; by default what the query's file holds unasked.
    """
    from hdeepinsight import report

    facts = facts or CellFacts(embedding=_coordinates(query, None))
    with step(f"Writing {out}"), written_at_once(out) as path:
        report.write(
            result,
            path,
            title=title or f"Cell types of {query.name}",
            model=str(model),
            clusters=facts.clusters,
            embedding=facts.embedding,
            true_nodes=facts.true_nodes,
        )


def _coordinates(query: Path, name: str | None) -> Any | None:
    """Coordinates in ``obsm``, by default the usual ones where they are there."""
    from anndata.io import read_elem

    from hdeepinsight.data import group_opener

    with group_opener(query)() as root:
        held = sorted(root["obsm"]) if "obsm" in root else []
        wanted = _DEFAULT_EMBEDDING if name is None else name
        if wanted in held:
            return read_elem(root["obsm"][wanted])
    if name is None:
        return None
    msg = (
        f"{query} has no {name!r} in obsm. It holds: {', '.join(held) or 'nothing'}. "
        "Name one of them with --embedding, or leave it out."
    )
    raise ValueError(msg)

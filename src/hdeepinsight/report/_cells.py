"""Cells of the picture on the page: where they are, and everything that they can be coloured by."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from pandas.api.types import is_float_dtype

from hdeepinsight import tl
from hdeepinsight._errors import invalid, missing_column
from hdeepinsight._io import escape_controls
from hdeepinsight._keys import LABEL_COLUMNS
from hdeepinsight._palette import MISSING, label_colors
from hdeepinsight.annotation import check_same_cells
from hdeepinsight.data import AlignedQuery, is_paired, open_paired, open_store
from hdeepinsight.report._tables import shown_nodes

if TYPE_CHECKING:
    from hdeepinsight.annotation import Annotation
    from hdeepinsight.tl import MarkerEvidence

logger = logging.getLogger(__name__)

#: Cells of the picture, and of one whose coordinates have to be made.
MAX_CELLS: Final = 20_000
_MADE_CELLS: Final = 5_000
#: What a query may bring along, the first one found.
_COORDINATES: Final = ("X_umap", "X_tsne", "X_mde", "X_draw_graph_fa")
_CLUSTERS: Final = ("leiden", "louvain", "seurat_clusters", "clusters", "cluster")
_COLUMNS: Final = ("batch", "donor", "donor_id", "sample", "sample_id", "study", "condition")
_MOST_CATEGORIES: Final = 40
#: Columns of the novelty that make a scale, in words.
_SCORES: Final = {
    "lineage_p_value": "p-value of not being of any lineage",
    "type_p_value": "p-value of not being of any type",
    "doublet_score": "doublet score",
    "ambient_score": "score of the background",
}
_STEPS: Final = 254  # of a scale; 255 is a missing value


@dataclass(frozen=True)
class Given:
    """What is known of the cells beside their labels.

    Parameters
    ----------
    obs
        Columns by which cells may be coloured, ``(n_cells, ...)``.
    clusters
        Cluster of every cell; ``None`` where none are known.
    coordinates
        Where every cell is, ``(n_cells, 2)``, NaN where it is nowhere; ``None`` without any.
    origin
        Where the coordinates come from, in words, or why there are none.
    made
        Whether they were made for this page, of a part of the cells where there are many.
    """

    obs: pd.DataFrame
    clusters: Any | None
    coordinates: np.ndarray | None
    origin: str
    made: bool = False


def gather(
    result: Annotation, query: Any, clusters: Any, embedding: Any, color_by: Sequence[str]
) -> Given:
    """Pick up what the query has: coordinates, clusters and batches; or make coordinates."""
    obs, held = pd.DataFrame(index=result.obs_names), dict[str, Any]()
    if isinstance(query, AlignedQuery):
        obs, held = query.obs, dict(query.source.obsm)
    elif is_paired(query):
        mdata: Any = open_paired(query)
        obs, held = mdata.obs, {name: partial(mdata.obsm.__getitem__, name) for name in mdata.obsm}
    elif query is not None:
        store = open_store(query)
        obs, held = store.obs, dict(store.obsm)
    check_same_cells(result.obs_names, obs.index.to_series(), "query")
    if missing := [name for name in color_by if name not in obs]:
        raise missing_column(missing[0], obs, where="The query's obs")
    if clusters is None and (found := [name for name in _CLUSTERS if name in obs]):
        clusters = obs[found[0]]
    columns = obs[[name for name in dict.fromkeys([*color_by, *_COLUMNS]) if name in obs]]
    if embedding is not None:
        points = np.asarray(embedding, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] < 2:
            expected = "two or more columns of numbers, with one row per cell"
            hint = "Pass adata.obsm['X_umap'] or the like."
            raise invalid("embedding", points.shape, expected, hint)
        origin = "The picture shows the coordinates that were given."
        return Given(columns, clusters, points[:, :2], origin)
    for name in (name for name in _COORDINATES if name in held):
        try:
            points = np.asarray(held[name](), dtype=np.float64)
        except Exception:  # damaged ones are made anew
            logger.debug("obsm[%r] could not be read", name, exc_info=True)
            continue
        if points.ndim == 2 and len(points) == len(result) and points.shape[1] >= 2:
            origin = f"The coordinates are those in obsm[{name!r}] of the query."
            return Given(columns, clusters, points[:, :2], origin)
    return Given(columns, clusters, *_made(result, query), made=True)


def _made(result: Annotation, query: Any) -> tuple[np.ndarray | None, str]:
    """Place some cells by their expression; failing never costs the page."""
    if query is None:
        return None, "There is no picture of the cells: neither query nor embedding was given."
    rows = tl.sample_cells(result.stop_nodes, _MADE_CELLS)
    try:
        source = tl.open_cells(result, query, rows)
        points = tl.expression_pca([block for _, block in source.blocks()])
        coordinates = np.full((len(result), 2), np.nan)
        coordinates[rows] = tl.mde(points)
    except Exception as error:
        logger.debug("no coordinates were made", exc_info=True)
        return None, f"There is no picture of the cells, which could not be placed: {error}"
    origin = "The query has no coordinates, so cells were placed by their expression (principal "
    origin += "components, then minimum-distortion embedding)."
    return coordinates, origin


def picture(result: Annotation, given: Given, evidence: MarkerEvidence | None) -> dict[str, Any]:
    """Return the cells of the picture in plain types; arrays are base64 of little-endian bytes.

    Of many cells, those that were read for the evidence are drawn, since their genes are known.
    """
    if given.coordinates is None:
        return {}
    placed = np.isfinite(given.coordinates).all(axis=1)
    read = np.arange(len(result)) if evidence is None else evidence.rows
    if evidence is None or len(read) > MAX_CELLS:
        read = tl.sample_cells(result.stop_nodes, MAX_CELLS)
    rows = read[placed[read]]
    if not len(rows):
        return {}
    rows = np.random.default_rng(0).permutation(rows)  # no label hides another
    points = given.coordinates[rows]
    low, size = points.min(axis=0), float(np.ptp(points, axis=0).max()) or 1.0
    x, y = np.rint((points - low) / size * 65535).astype("<u2").T
    return {
        "n_cells": len(result),
        "n_shown": len(rows),
        "n_nowhere": 0 if given.made else int((~placed).sum()),
        "x": _packed(x),
        "y": _packed(y),
        "names": list(map(escape_controls, result.obs_names[rows])),
        "fields": list(_fields(result, given, evidence, rows)),
        "scale": _scale(),
        "missing": MISSING,
    }


def _fields(
    result: Annotation, given: Given, evidence: MarkerEvidence | None, rows: np.ndarray
) -> Iterator[dict[str, Any]]:
    """Yield everything that cells can be coloured by, the label given first."""
    tree, labels = result.taxonomy, result.labels.iloc[rows]
    order = [*dict.fromkeys(map(tree.label, shown_nodes(tree))), LABEL_COLUMNS.ROOT]
    for name in (LABEL_COLUMNS.STOP, *tree.level_names):
        title = "label given" if name == LABEL_COLUMNS.STOP else f"level {name}"
        yield _labels(title, "Labels", labels[name].cat.set_categories(order), result.colors)
    yield _numbers("confidence", "Trust", result.confidence.to_numpy()[rows], (0.0, 1.0))
    for name, title in _SCORES.items():
        if result.novelty is not None and name in result.novelty:
            bounds = (0.0, 1.0) if name.endswith("p_value") else None
            yield _numbers(title, "Trust", result.novelty[name].to_numpy()[rows], bounds)
    if (reasons := result.stop_reason.iloc[rows]).any():
        yield _labels("why it stops", "Trust", reasons.replace("", "it has a type"))
    if given.clusters is not None:
        yield _labels("cluster", "Query", np.asarray(given.clusters)[rows])
    for name, column in given.obs.items():
        values = column.iloc[rows]
        if is_float_dtype(values.dtype):
            yield _numbers(str(name), "Query", values.to_numpy(dtype=np.float64))
        elif values.nunique() <= _MOST_CATEGORIES:
            yield _labels(str(name), "Query", values)
    if evidence is not None:
        at = pd.Index(evidence.rows).get_indexer(rows)
        measured = np.flatnonzero(evidence.means.notna().any())
        values = evidence.expression[at][:, measured].toarray()
        values[at < 0] = np.nan
        for gene, own in zip(evidence.means.columns[measured], values.T, strict=True):
            yield _numbers(str(gene), "Marker genes", own)


def _labels(
    name: str, group: str, values: Any, colors: Mapping[str, str] | None = None
) -> dict[str, Any]:
    column: pd.Categorical = pd.Categorical(values).remove_unused_categories()
    names = list(map(str, column.categories))
    palette, wide = label_colors(names) if colors is None else colors, len(names) >= 255
    codes = np.where(column.codes < 0, len(names), column.codes)
    return {
        "name": escape_controls(name),
        "group": group,
        "labels": list(map(escape_controls, names)),
        "colors": [palette.get(label, MISSING) for label in names],
        "wide": wide,
        "values": _packed(codes.astype("<u2" if wide else "<u1")),
    }


def _numbers(
    name: str, group: str, values: np.ndarray, bounds: tuple[float, float] | None = None
) -> dict[str, Any]:
    known = np.isfinite(values)
    low, high = bounds or ((values[known].min(), values[known].max()) if known.any() else (0, 1))
    scaled = (np.where(known, values, low) - low) / (float(high - low) or 1.0)
    steps = np.where(known, np.rint(scaled.clip(0, 1) * _STEPS), 255).astype("<u1")
    ends = {"low": float(low), "high": float(high)}
    return {"name": escape_controls(name), "group": group, **ends, "values": _packed(steps)}


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")


def _scale() -> list[str]:
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    # The palest part of the map does not stand out from white.
    return [to_hex(mpl.colormaps["magma_r"](step)) for step in np.linspace(0.08, 1.0, 32)]

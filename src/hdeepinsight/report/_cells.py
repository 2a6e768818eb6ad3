"""Collect the coordinates and the colours of the scatter plot of cells in the report."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import pandas as pd
from pandas.api.types import is_float_dtype

from hdeepinsight import tl
from hdeepinsight._errors import invalid, missing_column
from hdeepinsight._io import escape_controls
from hdeepinsight._keys import LABEL_COLUMNS
from hdeepinsight._palette import MISSING, label_colors
from hdeepinsight.annotation import Annotation, check_same_cells
from hdeepinsight.data import AlignedQuery, is_paired, open_paired, open_store

logger = logging.getLogger(__name__)

#: Maximum number of cells drawn, and for which an embedding is computed.
MAX_CELLS: Final = 20_000
_MAX_EMBEDDED: Final = 5_000
#: Names that are searched in the query; the first one found is used.
_COORDINATES: Final = ("X_umap", "X_tsne", "X_mde", "X_draw_graph_fa")
_CLUSTERS: Final = ("leiden", "louvain", "seurat_clusters", "clusters", "cluster")
_COLUMNS: Final = ("batch", "donor", "donor_id", "sample", "sample_id", "study", "condition")
_MAX_CATEGORIES: Final = 40
#: Continuous columns of the novelty, with their titles.
_SCORES: Final = {
    "lineage_p_value": "lineage p-value (low: novel)",
    "type_p_value": "type p-value (low: novel)",
    "doublet_score": "doublet score",
    "ambient_score": "ambient RNA score",
}
_STEPS: Final = 254  # of a colour scale; 255 is a missing value


@dataclass(frozen=True)
class CellInfo:
    """Coordinates and metadata of the cells, besides their labels.

    Parameters
    ----------
    obs
        Columns that cells can be coloured by, ``(n_cells, ...)``.
    clusters
        Cluster of each cell, or ``None``.
    coordinates
        Coordinates of each cell, ``(n_cells, 2)``, with NaN if missing; or ``None``.
    origin
        A sentence on where the coordinates come from, or why there are none.
    computed
        Whether coordinates were computed for the report, possibly for a sample of the cells.
    """

    obs: pd.DataFrame
    clusters: Any | None
    coordinates: np.ndarray | None
    origin: str
    computed: bool = False


def collect(
    result: Annotation, query: Any, clusters: Any, embedding: Any, color_by: Sequence[str]
) -> CellInfo:
    """Collect coordinates, clusters and batches of the query; compute missing coordinates."""
    obs, obsm = pd.DataFrame(index=result.obs_names), dict[str, Any]()
    if isinstance(query, AlignedQuery):
        obs, obsm = query.obs, dict(query.source.obsm)
    elif is_paired(query):
        mdata: Any = open_paired(query)
        obs, obsm = mdata.obs, {name: partial(mdata.obsm.__getitem__, name) for name in mdata.obsm}
    elif query is not None:
        store = open_store(query)
        obs, obsm = store.obs, dict(store.obsm)
    check_same_cells(result.obs_names, obs.index.to_series(), "query")
    named = [*color_by, clusters] if isinstance(clusters, str) else color_by
    if missing := [name for name in named if name not in obs]:
        hint = "Pass the query, which has them." if query is None else ""
        raise missing_column(missing[0], obs, where="The query's obs", hint=hint)
    if clusters is None:
        clusters = next((name for name in _CLUSTERS if name in obs), None)
    if isinstance(clusters, str):
        clusters = obs[clusters]
    columns = obs[[name for name in dict.fromkeys([*color_by, *_COLUMNS]) if name in obs]]
    if embedding is not None:
        points = np.asarray(embedding, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] < 2:
            expected = "two or more columns of numbers, with one row per cell"
            hint = "Pass coordinates such as adata.obsm['X_umap']."
            raise invalid("embedding", points.shape, expected, hint)
        origin = "The coordinates are those passed as embedding."
        return CellInfo(columns, clusters, points[:, :2], origin)
    for name in (name for name in _COORDINATES if name in obsm):
        try:
            points = np.asarray(obsm[name](), dtype=np.float64)
        except Exception:  # damaged coordinates are computed again
            logger.debug("obsm[%r] could not be read", name, exc_info=True)
            continue
        if points.ndim == 2 and len(points) == len(result) and points.shape[1] >= 2:
            origin = f"The coordinates are from obsm[{name!r}] of the query."
            return CellInfo(columns, clusters, points[:, :2], origin)
    return CellInfo(columns, clusters, *_computed(result, query), computed=True)


def _computed(result: Annotation, query: Any) -> tuple[np.ndarray | None, str]:
    """Compute an embedding of a sample of cells; the report is written even if this fails."""
    if query is None:
        return None, "There is no plot of the cells, because neither query nor embedding was given."
    rows = tl.sample_cells(result.stop_nodes, _MAX_EMBEDDED)
    try:
        source = tl.open_cells(result, query, rows)
        points = tl.expression_pca([block for _, block in source.blocks()])
        coordinates = np.full((len(result), 2), np.nan)
        coordinates[rows] = tl.mde(points)
    except Exception as error:
        logger.debug("no embedding was computed", exc_info=True)
        return None, f"There is no plot of the cells, because embedding them failed: {error}"
    return coordinates, (
        "The query has no coordinates, so an embedding of its expression was computed (principal "
        "components, then minimum-distortion embedding)."
    )


def scatter(
    result: Annotation, info: CellInfo, evidence: tl.MarkerEvidence | None
) -> dict[str, Any]:
    """Return the plotted cells in plain types; arrays are base64 of little-endian bytes.

    Among many cells, those read for the marker evidence are drawn, so that they can be coloured by
    expression.
    """
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    if info.coordinates is None:
        return {}
    placed = np.isfinite(info.coordinates).all(axis=1)
    read = np.arange(len(result)) if evidence is None else evidence.rows
    if evidence is None or len(read) > MAX_CELLS:
        read = tl.sample_cells(result.stop_nodes, MAX_CELLS)
    rows = read[placed[read]]
    if not len(rows):
        return {}
    rows = np.random.default_rng(0).permutation(rows)  # no label hides another
    points = info.coordinates[rows]
    low, size = points.min(axis=0), float(np.ptp(points, axis=0).max()) or 1.0
    x, y = np.rint((points - low) / size * 65535).astype("<u2").T
    magma = mpl.colormaps["magma_r"]
    return {
        "n_cells": len(result),
        "n_shown": len(rows),
        "n_unplaced": 0 if info.computed else int((~placed).sum()),
        "x": _packed(x),
        "y": _packed(y),
        "names": list(map(escape_controls, result.obs_names[rows])),
        "fields": list(_fields(result, info, evidence, rows)),
        # The lightest part of the colour map does not stand out from white.
        "scale": [to_hex(magma(step)) for step in np.linspace(0.08, 1.0, 32)],
        "missing": MISSING,
    }


def _fields(
    result: Annotation, info: CellInfo, evidence: tl.MarkerEvidence | None, rows: np.ndarray
) -> Iterator[dict[str, Any]]:
    """Yield the values that cells can be coloured by, beginning with the assigned label."""
    tree, labels = result.taxonomy, result.labels.iloc[rows]
    order = [*dict.fromkeys(map(tree.label, tree.distinct_nodes)), LABEL_COLUMNS.ROOT]
    for name in (LABEL_COLUMNS.STOP, *tree.level_names):
        title = "assigned label" if name == LABEL_COLUMNS.STOP else f"level {name}"
        yield _labels(title, "Labels", labels[name].cat.set_categories(order), result.colors)
    yield _numbers("confidence", "Quality", result.confidence.to_numpy()[rows], (0.0, 1.0))
    for name, title in _SCORES.items():
        if result.novelty is not None and name in result.novelty:
            bounds = (0.0, 1.0) if name.endswith("p_value") else None
            yield _numbers(title, "Quality", result.novelty[name].to_numpy()[rows], bounds)
    if (reasons := result.stop_reason.iloc[rows]).any():
        yield _labels("reason for stopping", "Quality", reasons.replace("", "labelled to a type"))
    if info.clusters is not None:
        yield _labels("cluster", "Query", np.asarray(info.clusters)[rows])
    for name, column in info.obs.items():
        values = column.iloc[rows]
        if is_float_dtype(values.dtype):
            yield _numbers(str(name), "Query", values.to_numpy(dtype=np.float64))
        elif values.nunique() <= _MAX_CATEGORIES:
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

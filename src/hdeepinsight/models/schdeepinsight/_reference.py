"""What the model learns from: the counts of a registered reference and the node of every label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from hdeepinsight.data import align_genes, select_genes
from hdeepinsight.image import GeneLayout
from hdeepinsight.nn import CountThinning, GeneMasking, ModalityDropout
from hdeepinsight.taxonomy import Taxonomy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from torch import Tensor

    from hdeepinsight.data import CountSource
    from hdeepinsight.image import LayoutMethod

LAYOUT_CELLS = 20_000
Options = TypeVar("Options", GeneMasking, CountThinning, ModalityDropout)


def read_counts(source: CountSource, genes: Sequence[str]) -> sparse.csr_matrix:
    """Raw counts of the given genes, shape ``(n_cells, n_genes)``."""
    return source.read(align_genes(source.var_names, genes))


def label_keys(labels_key: str | None, labels_keys: str | Sequence[str] | None) -> list[str]:
    """Label columns from coarse to fine; raises ``ValueError`` unless one of both is given."""
    if not isinstance(labels_key, str | None):
        msg = (
            f"labels_key={labels_key!r} is not the name of a column. Valid is one name, as text. "
            "Pass several columns as labels_keys."
        )
        raise ValueError(msg)
    if (labels_key is None) == (labels_keys is None):
        given = "neither" if labels_key is None else "both"
        msg = (
            f"Of labels_key and labels_keys, {given} was given. Valid is one: labels_key for a "
            "single column of labels, or labels_keys for one column a level, coarse to fine."
        )
        raise ValueError(msg)
    keys = labels_key if labels_key is not None else labels_keys or ()
    return [keys] if isinstance(keys, str) else list(keys)


def label_nodes(
    obs: pd.DataFrame, taxonomy: Taxonomy, keys: Sequence[str], *, unlabeled: str
) -> np.ndarray:
    """Node of every cell's label, shape ``(n_cells,)``; 0, the root, where there is no label.

    A label that several nodes carry means the node at the level named like its column, if there is
    such a level.

    Raises
    ------
    ValueError
        If a label is not in the taxonomy.
    """
    if not all(key in obs for key in keys):
        return np.zeros(len(obs), dtype=np.int64)
    if len(keys) > 1:
        return taxonomy.encode_levels(obs[list(keys)], unlabeled=unlabeled)
    labels = obs[keys[0]]
    if keys[0] not in taxonomy.level_names:
        return taxonomy.encode(labels, unlabeled=unlabeled)
    depth = taxonomy.level_depth(keys[0])
    names = [taxonomy.label(int(node)) for node in np.flatnonzero(taxonomy.depth == depth)]
    here = labels.isin(names).to_numpy()
    nodes = taxonomy.encode(labels.astype(object).where(~here, None), unlabeled=unlabeled)
    nodes[here] = taxonomy.encode(labels[here], level=depth)
    return nodes


def taxonomy_of(
    adata: AnnData | None,
    taxonomy: Taxonomy | dict[str, Any] | None,
    keys: Sequence[str],
    *,
    unlabeled: str,
) -> Taxonomy:
    """Return the taxonomy that was given, or the one that the label columns span."""
    if taxonomy is None:
        return Taxonomy.from_obs(adata, list(keys), unlabeled=unlabeled)
    return taxonomy if isinstance(taxonomy, Taxonomy) else Taxonomy.from_dict(taxonomy)


def layout_of(
    source: CountSource | None,
    layout: GeneLayout | dict[str, Any] | LayoutMethod,
    nodes: np.ndarray | None,
    *,
    n_genes: int,
    keep_genes: Sequence[str],
    side: int | None,
    seed: int,
) -> GeneLayout:
    """Return the given layout, or one fitted on the most variable genes of the reference."""
    if isinstance(layout, GeneLayout):
        return layout
    if not isinstance(layout, str):
        return GeneLayout.from_dict(layout)
    if source is None or nodes is None:
        msg = f"A {layout} layout has to be fitted on a reference, and there is none."
        raise ValueError(msg)
    genes = select_genes(source, n_genes, keep=keep_genes)
    counts = read_counts(source, genes)
    rows = stratified_sample(nodes, LAYOUT_CELLS, np.random.default_rng(seed))
    return GeneLayout.fit(log_normalize(counts[rows]), genes, method=layout, side=side, seed=seed)


def stratified_sample(nodes: np.ndarray, n_most: int, rng: np.random.Generator) -> np.ndarray:
    """Return at most ``n_most`` cells, of every label as equally many as there are, in order."""
    order = rng.permutation(len(nodes))
    rank = pd.Series(nodes[order]).groupby(nodes[order]).cumcount().to_numpy()
    return np.sort(order[np.argsort(rank, kind="stable")[:n_most]])


def log_normalize(counts: sparse.csr_matrix, target_sum: float = 1e4) -> sparse.csr_matrix:
    """``log1p`` of counts per ``target_sum`` of these genes, shape ``(n_cells, n_genes)``."""
    totals = np.asarray(counts.sum(axis=1)).ravel()
    factors = target_sum / np.maximum(totals, 1.0)
    logged = sparse.csr_matrix(counts, copy=True)
    logged.data = np.log1p(logged.data * np.repeat(factors, np.diff(logged.indptr)))
    return logged.astype(np.float32)


def level_weights(
    weighting: Literal["adaptive", "fixed"] | Sequence[float], n_levels: int
) -> Tensor | None:
    """Return fixed weights of the levels, summing to 1; ``None`` where they adapt."""
    if isinstance(weighting, str):
        if weighting not in ("adaptive", "fixed"):
            msg = f"weighting={weighting!r}; valid are 'adaptive', 'fixed', or a number a level."
            raise ValueError(msg)
        return None if weighting == "adaptive" else torch.full((n_levels,), 1 / n_levels)
    weights = torch.as_tensor(list(weighting), dtype=torch.float32)
    if len(weights) != n_levels or (weights < 0).any() or weights.sum() <= 0:
        msg = (
            f"weighting has {len(weights)} numbers; valid are {n_levels} that are not negative, "
            "one a level of the taxonomy."
        )
        raise ValueError(msg)
    return weights / weights.sum()


def as_options(kind: type[Options], given: Options | dict[str, float] | None) -> Options:
    """Training options from an instance, its plain form, or nothing (the defaults)."""
    if given is None:
        return kind()
    if isinstance(given, dict):
        return kind.from_dict(given)
    if not isinstance(given, kind):
        msg = (
            f"Found {given!r} where a {kind.__name__} belongs. Valid is None for the default, or "
            f"one of your own. Pass {kind.__name__}.none() to do without."
        )
        raise TypeError(msg)
    return given


def check_numbers(**numbers: int | None) -> None:
    """Raise ``ValueError`` for numbers of nothing; ``None`` is the default of each."""
    for name, value in numbers.items():
        if value is not None and (value < 1 or value != int(value)):
            msg = (
                f"{name}={value}; valid are whole numbers from 1 up. Leave it out for the default."
            )
            raise ValueError(msg)

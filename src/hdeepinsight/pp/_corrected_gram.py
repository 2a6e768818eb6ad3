"""Principal components of cells with missing entries, without imputation."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from hdeepinsight import graph
from hdeepinsight._errors import check_choice, check_integer, check_key, counted, examples
from hdeepinsight.annotation import check_same_cells, target_of
from hdeepinsight.data import DataLike
from hdeepinsight.pp._masks import Mask, entry_mask, open_layer, reader

if TYPE_CHECKING:
    from anndata import AnnData

Components = int | Literal["proportion", "scree"]
Scale = Literal["pca", "gram"]
Floats = NDArray[np.float64]
#: Number of eigenvalues for the rules for the number of components, if there are many cells.
_MAX_COMPS, _FEW_CELLS = 100, 1_000
_PROPORTION = 0.95


def corrected_gram(
    Y: ArrayLike | sp.spmatrix | AnnData | Any,
    mask: Mask | None = None,
    *,
    layer: str | None = None,
    estimator: graph.Estimator = "auto",
    center: bool = False,
    drop_empty: bool = False,
) -> graph.CorrectedGram:
    r"""Estimate the inner products between cells without missing entries.

    If missing entries are filled with zeros or means, inner products shrink with the observation
    rates of both cells, so that cells with few observed entries are close to the origin. This
    estimate is unbiased if entries are missing independently of their values {cite:p}`ling2021`.

    Parameters
    ----------
    Y
        Log values of cells by genes: an array, a sparse matrix or a dask array; or an AnnData, or
        the path of an h5ad or zarr file. Missing values are ignored, and may be NaN.
    mask
        Observed entries: a dense or sparse array with ``True`` or 1 for observed entries, a
        `MissingEntries`, a `PanelMask` or a `DropoutMask`; ``None`` if all are observed.
    layer
        Layer with the values; ``X`` by default.
    estimator
        ``"rank1"`` divides by products of the rates of cells and genes, for single missing entries.
        ``"pairwise"`` divides by the number of genes that two cells share, for panels; with other
        masks it computes a matrix of all pairs of at most 20,000 cells. ``"auto"`` uses
        ``"pairwise"`` for a `PanelMask` and ``"rank1"`` otherwise. ``"rank1_published"`` scales
        rates as published, which inflates the products; ``"rank1_clip"`` clips them at 1.
        ``"mean_fill"`` and ``"zero_fill"`` are controls.
    center
        Centre rows and columns of the products.
    drop_empty
        Ignore genes without an observed entry instead of raising an error.

    Returns
    -------
    Symmetric operator of shape ``(n_cells, n_cells)``, which is not positive semidefinite.

    Raises
    ------
    ValueError
        If the shape of the mask is wrong, an observed value is not finite, a cell or gene has no
        observed entry, or two panels share no gene.

    Notes
    -----
    With :math:`Z_{id} = M_{id}(Y_{id} - \mu_d)` and rates :math:`\pi_{id} = r_i p_d / c`, the
    estimate is :math:`G_{ij} = \sum_d Z_{id}Z_{jd} / \sum_d \pi_{id}\pi_{jd}` for
    :math:`i \neq j`, and :math:`G_{ii} = \sum_d Z_{id}^2 / \sum_d \pi_{id}`.

    Examples
    --------
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> values = np.array([[0.0, 1.0, 2.0], [1.0, np.nan, 2.0], [4.0, 1.0, 0.0]])
    >>> gram = hdi.pp.corrected_gram(values, np.isfinite(values))
    >>> gram.shape, (gram @ np.ones(3)).shape
    ((3, 3), (3,))
    """
    has_names = hasattr(Y, "obs") or isinstance(Y, str | os.PathLike)
    if not has_names:
        values: Any = Y if hasattr(Y, "shape") else np.asarray(Y)
        Y = ad.AnnData(sp.csr_matrix(values) if sp.issparse(values) else values)
    store, matrix = open_layer(Y, layer)
    return graph.CorrectedGram(
        reader(matrix),
        entry_mask(mask, matrix.shape, (store.obs.index, store.var.index) if has_names else ()),
        estimator=estimator,
        center=center,
        keep=not matrix.is_on_disk,
        drop_empty=drop_empty,
        obs_names=list(store.obs.index),
        var_names=list(store.var.index),
    )


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class CorrectedPCA:
    """Principal components of corrected inner products, computed by `corrected_gram_pca`.

    Parameters
    ----------
    obs_names
        Names of the cells.
    embedding
        Coordinates, shape ``(n_cells, n_comps)``.
    eigenvalues
        Eigenvalues of the products in decreasing order, all positive.
    loadings
        Gene loadings of unit length, one column per component; ``None`` if a matrix of all pairs of
        cells was computed.
    coverage
        Share of observed genes per cell.
    estimator
        Estimator of the inner products.
    notes
        Further remarks, in sentences.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> rng = np.random.default_rng(0)
    >>> cells = ad.AnnData(rng.normal(size=(30, 20)))
    >>> result = hdi.pp.corrected_gram_pca(cells, mask=rng.random((30, 20)) < 0.8, n_comps=2)
    >>> result
    CorrectedPCA of 30 cells in 2 components, rank1, coverage 0.55 to 0.95
    """

    obs_names: pd.Index
    embedding: Floats
    eigenvalues: Floats
    loadings: pd.DataFrame | None
    coverage: pd.Series
    estimator: graph.Estimator
    notes: tuple[str, ...] = ()
    _gram: graph.CorrectedGram
    _var_names: pd.Index
    _layer: str | None
    _weights: Floats | graph.PanelScores | None
    _shift: Floats

    def __repr__(self) -> str:
        low, high = self.coverage.min(), self.coverage.max()
        return (
            f"CorrectedPCA of {counted(len(self.obs_names), 'cell')} in "
            f"{counted(len(self.eigenvalues), 'component')}, {self.estimator}, coverage "
            f"{low:.2f} to {high:.2f}"
        )

    def transform(
        self, adata: DataLike, mask: Mask | None = None, *, layer: str | None = None
    ) -> Floats:
        """Compute the coordinates of new cells; those of the fitted cells do not change.

        Parameters
        ----------
        adata
            New cells with the same genes in the same order. Fitted cells get different coordinates
            here, because theirs contain the noise of their own entries.
        mask
            Observed entries; see `corrected_gram`.
        layer
            Layer with the values; by default that of the fitted cells.

        Returns
        -------
        Coordinates, shape ``(n_new_cells, n_comps)``.

        Raises
        ------
        ValueError
            If genes differ, the shape of the mask is wrong, or the estimator has no operator form.
        """
        store, matrix = open_layer(adata, self._layer if layer is None else layer)
        if not self._var_names.equals(pd.Index(store.var.index)):
            differ = self._var_names.symmetric_difference(pd.Index(store.var.index))
            what = f"other genes: {examples(list(differ))}" if len(differ) else "another order"
            raise ValueError(
                f"New cells must have the same {len(self._var_names):,} genes in the same order, "
                f"got {what}. Select them by name."
            )
        if self._weights is None:
            raise ValueError(
                f"estimator must have an operator form for new cells, got {self.estimator!r} with "
                "a mask of single entries. Fit with 'rank1', or with a PanelMask."
            )
        observed = entry_mask(mask, matrix.shape, (store.obs.index, store.var.index))
        weights = self._weights
        if isinstance(weights, graph.PanelScores):
            if not observed.is_panels:
                msg = "New cells of a result for panels must have panels, got a mask of single"
                raise ValueError(f"{msg} entries. Pass a PanelMask, or None for all genes.")
            weights = weights.weights(observed.background)
        return self._gram.weigh(weights, reader(matrix), observed) - self._shift

    def to_adata(self, adata: AnnData, key_added: str = "X_corrected_pca") -> None:
        """Write the coordinates to ``obsm`` and the coverage to ``obs``.

        Parameters
        ----------
        adata
            The fitted cells.
        key_added
            Key in ``obsm``; the column of ``obs`` has the suffix ``_coverage``.
        """
        check_key("key_added", key_added)
        check_same_cells(pd.Index(adata.obs_names), self.coverage, "the result")
        adata.obsm[key_added] = self.embedding
        adata.obs[f"{key_added}_coverage"] = self.coverage.to_numpy()


def corrected_gram_pca(
    adata: DataLike,
    *,
    layer: str | None = None,
    mask: Mask | None = None,
    mask_key: str | None = None,
    estimator: graph.Estimator = "auto",
    n_comps: Components = 50,
    scale: Scale = "pca",
    center: bool = False,
    drop_empty: bool = False,
    random_state: int = 0,
    key_added: str | None = None,
) -> CorrectedPCA:
    """Compute principal components of cells with missing entries, without imputation.

    The coordinates can be used in ``scanpy.pp.neighbors``, UMAP and minimum-distortion embedding.
    The data are modified only if `key_added` is given.

    Parameters
    ----------
    adata
        Cells: an AnnData, in memory or backed, or the path of an h5ad or zarr file, which is read
        in blocks for each product.
    layer
        Layer with log values, such as ``log1p`` of counts per 10,000; ``X`` by default.
    mask
        Observed entries; see `corrected_gram`. For panels use `panel_mask`.
    mask_key
        Layer with 1 for observed entries, instead of `mask`.
    estimator, center, drop_empty
        See `corrected_gram`.
    n_comps
        Number of components; ``"proportion"`` for 95 % of the sum of the positive eigenvalues;
        ``"scree"`` for the elbow of the eigenvalues {cite:p}`ling2021`.
    scale
        ``"pca"``: ordinary principal component scores if no entries are missing. ``"gram"``: scores
        divided by the square root of the number of genes.
    random_state
        Seed of the starting vector.
    key_added
        Key in ``obsm`` to write the coordinates to; see `CorrectedPCA.to_adata`.

    Raises
    ------
    KeyError, ValueError
        If the layer is missing, there are fewer positive eigenvalues than components, or as in
        `corrected_gram`.

    Warns
    -----
    UserWarning
        If the values look like raw counts.

    Examples
    --------
    Two panels that share one of three genes:

    >>> import anndata as ad
    >>> import numpy as np
    >>> import pandas as pd
    >>> import hdeepinsight as hdi
    >>> rng = np.random.default_rng(0)
    >>> obs = pd.DataFrame({"panel": ["a", "b"] * 20}, index=[f"cell {i}" for i in range(40)])
    >>> var = pd.DataFrame(index=["CD3D", "CD8A", "NKG7"])
    >>> cells = ad.AnnData(rng.gamma(1.0, size=(40, 3)), obs, var)
    >>> panels = {"a": ["CD3D", "CD8A"], "b": ["CD3D", "NKG7"]}
    >>> mask = hdi.pp.panel_mask(cells, batch_key="panel", measured=panels)
    >>> hdi.pp.corrected_gram_pca(cells, mask=mask, n_comps=2, key_added="X_pca")
    CorrectedPCA of 40 cells in 2 components, pairwise, coverage 0.67 to 0.67
    >>> cells.obsm["X_pca"].shape
    (40, 2)
    """
    check_choice("scale", scale, get_args(Scale), "Omit it to use 'pca'.")
    if isinstance(n_comps, str):
        check_choice("n_comps", n_comps, ("proportion", "scree"), "Or pass a number.")
    else:
        check_integer("n_comps", n_comps, hint="Omit it to use 50.")
    target = target_of(adata, key_added)
    if mask_key is not None:
        if mask is not None:
            raise ValueError("At most one of mask and mask_key must be given, got both. Omit one.")
        blocks = [block for _, block in reader(open_layer(adata, mask_key, "mask_key")[1])()]
        mask = sp.vstack(blocks, "csr") if sp.issparse(blocks[0]) else np.vstack(blocks)
    store, matrix = open_layer(adata, layer)
    seen = matrix.peek(256)
    if seen.all_whole and seen.high > 1 and not seen.n_negative:
        warnings.warn(
            "The values look like raw counts. Inner products of counts depend on sequencing depth "
            "and on few highly expressed genes: pass log values, such as log1p of counts per "
            "10,000.",
            UserWarning,
            stacklevel=2,
        )
    gram = corrected_gram(
        store, mask, layer=layer, estimator=estimator, center=center, drop_empty=drop_empty
    )
    notes = []
    if n_empty := int((gram.rates.genes == 0).sum()):
        names = store.var.index[gram.rates.genes == 0]
        notes.append(f"{counted(n_empty, 'gene')} without observed entries: {examples(names)}.")
    values, vectors = _components(gram, n_comps, random_state, notes)
    unit = 1.0 if scale == "pca" else float(gram.n_genes) ** -0.5
    found = _coordinates(gram, values, vectors, unit, center)
    if (loadings := found["loadings"]) is not None:
        found["loadings"] = pd.DataFrame(loadings, index=store.var.index)
    result = CorrectedPCA(
        **found,
        obs_names=pd.Index(store.obs.index),
        eigenvalues=values,
        coverage=pd.Series(gram.rates.cells, index=store.obs.index, name="coverage"),
        estimator=gram.estimator,
        notes=tuple(notes),
        _gram=gram.without_values(),
        _var_names=pd.Index(store.var.index),
        _layer=layer,
    )
    if target is not None and key_added is not None:
        result.to_adata(target, key_added)
    return result


def _coordinates(
    gram: graph.CorrectedGram, values: Floats, vectors: Floats, unit: float, center: bool
) -> dict[str, Any]:
    """Return the fields of the result on coordinates: of the cells, the genes and new cells.

    Estimators without an operator form have no loadings and weights. ``_shift`` is subtracted from
    the coordinates of new cells.
    """
    loadings = weights = None
    roots, shift = np.sqrt(values), np.zeros(len(values))
    if gram.estimator == "pairwise" and gram.mask.is_panels:
        embedding, loadings, scores = graph.regress_panels(gram, vectors * roots)
        shift = embedding.mean(axis=0) * unit if center else shift
        weights = replace(scores, rotation=scores.rotation * unit)
        embedding = embedding * unit - shift
    else:
        embedding = vectors * (roots * np.sqrt(gram.n_genes) * unit)
    if gram.estimator not in ("pairwise", "rank1_clip"):
        factor = np.sqrt(gram.n_genes) * unit / roots
        genes = gram.project(vectors)
        loadings, weights = genes[0] / np.linalg.norm(genes[0], axis=0), gram.pairs * genes * factor
        if center:
            fitted = gram.weigh(weights) + gram.extra[:, None] * vectors * factor
            shift = fitted.mean(axis=0)
    return {"embedding": embedding, "loadings": loadings, "_weights": weights, "_shift": shift}


def _components(
    gram: graph.CorrectedGram, n_comps: Components, seed: int, notes: list[str]
) -> tuple[Floats, Floats]:
    """Compute leading positive eigenvalues and eigenvectors; their number may follow a rule."""
    n_cells = gram.shape[0]
    considered = n_cells if n_cells <= _FEW_CELLS else _MAX_COMPS
    wanted = considered if isinstance(n_comps, str) else n_comps
    values, vectors = graph.leading_eigenpairs(gram, wanted, random_state=seed)
    n_positive = int((values > 1e-10 * max(values[0], 0.0)).sum()) if values[0] > 0 else 0
    if not isinstance(n_comps, str):
        if n_comps > n_positive:
            raise ValueError(
                f"n_comps must be at most the number of positive eigenvalues, {n_positive}, got "
                f"{n_comps}. Pass a smaller one."
            )
        return values, vectors
    values, vectors = values[:n_positive], vectors[:, :n_positive]
    if wanted < n_cells and n_positive == wanted:
        notes.append(f"The rule used only the {wanted} largest eigenvalues.")
    if n_comps == "proportion":
        kept = int(np.searchsorted(values.cumsum(), _PROPORTION * values.sum())) + 1
    elif n_positive < 6:
        msg = f"n_comps='scree' requires 6 positive eigenvalues, got {n_positive}. Pass a number."
        raise ValueError(msg)
    else:
        slopes = (values[2:] - values[:-2]) / 2
        kept = int((slopes[3:] - slopes[:-3]).argmax()) + 2
    return values[:kept], vectors[:, :kept]

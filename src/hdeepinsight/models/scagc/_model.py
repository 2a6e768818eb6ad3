"""SCAGC: clusters of cells on a graph that is learned with them, without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from hdeepinsight._errors import check_choice, check_integer, check_number, invalid, missing_column
from hdeepinsight.data import log_normalize
from hdeepinsight.graph import check_points, leiden_communities, nearest_neighbors
from hdeepinsight.models._base import _registration as registration
from hdeepinsight.models._base import _training as training
from hdeepinsight.models._base._count_model import CountModel
from hdeepinsight.models.scagc._module import GraphAutoencoder
from hdeepinsight.models.scagc._plan import AdaptiveGraphPlan, CellBlocks, Cells, EdgeRule
from hdeepinsight.nn import CellGraph, Similarity, SparseFeatures

if TYPE_CHECKING:
    from collections.abc import Callable

Sampler = Literal["adaptive", "published", "static"]
Propagation = Literal["auto", "full", "blocks"]

N_COMPONENTS = 50
#: Neighbours in the tissue, as many as touch a cell in a layer of round ones.
SPATIAL_NEIGHBORS = 6
#: More cells than these are trained in blocks of about so many.
FULL_CELLS, BLOCK_CELLS = 15_000, 1_000
MANY_GENES = 5_000


class SCAGC(CountModel):
    """Clusters of cells on a graph that is learned with them, without labels.

    A graph autoencoder embeds cells by convolution over a neighbour graph, and draws the edges of
    that graph anew from the embedding while it is trained. The method is transductive: a cell's
    embedding depends on the cells beside it.

    Parameters
    ----------
    adata
        Reference that was registered by :meth:`setup_anndata`.
    registry
        Registry of a saved model.
    n_clusters
        Number of clusters; by default as many as Leiden finds on the learned graph (resolution 1).
    n_latent, n_hidden, n_hops
        Widths of embedding and hidden layer, and reach of a convolution in edges.
    n_neighbors
        Neighbours that every cell chooses.
    use_rep
        Entry of ``obsm`` in which the first neighbours are searched, such as one corrected for
        batches; 50 principal components by default.
    spatial_key
        Entry of ``obsm`` with coordinates in a tissue. The nearest six cells of the same batch
        join the first graph and the candidates.
    graph_sampler
        ``"adaptive"`` draws edges with noise that is small beside the similarities,
        ``"published"`` with that of the public code, which all but ignores them, and ``"static"``
        keeps the first graph.
    similarity
        Similarity of two embedded cells: ``"cosine"``, ``"rbf"`` or ``"neg_sqdist"``.
    graph_temperature
        What divides similarities before noise is added; edges are more random where it is higher.
    candidates
        Cells among which every cell chooses: half of them near in ``use_rep``, half in the
        embedding.
    dropout_rate
        Share of the genes that a training step leaves out.
    seed
        Seed of weights, training and clusters; by default ``scvi.settings.seed``, or 0.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> cells = hdi.datasets.demo().query
    >>> hdi.SCAGC.setup_anndata(cells)
    >>> model = hdi.SCAGC(cells, n_clusters=4)
    >>> model.train(pretrain_epochs=5, cluster_epochs=2, enable_progress_bar=False)
    >>> model.get_latent_representation().shape, model.get_learned_graph().shape
    ((210, 15), (210, 210))

    References
    ----------
    Li et al., scAGC: learning adaptive cell graphs with contrastive guidance for single-cell
    clustering, BIBM 2025, arXiv:2508.09180. Where its public code differs from this class, and
    what that costs, is told in the user guide.
    """

    _module_cls = GraphAutoencoder

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: Mapping[str, Any] | None = None,
        *,
        n_clusters: int | None = None,
        n_latent: int = 15,
        n_hidden: int = 128,
        n_hops: int = 3,
        n_neighbors: int = 15,
        use_rep: str | None = None,
        spatial_key: str | None = None,
        graph_sampler: Sampler = "adaptive",
        similarity: Similarity = "cosine",
        graph_temperature: float = 0.1,
        candidates: int = 100,
        dropout_rate: float = 0.2,
        seed: int | None = None,
    ) -> None:
        super().__init__(adata, registry, seed=seed)
        self.init_params_ = self._get_init_params(locals())
        sizes = {"n_latent": n_latent, "n_hidden": n_hidden, "n_hops": n_hops}
        for name, size in (sizes | {"n_neighbors": n_neighbors}).items():
            check_integer(name, size)
        check_integer("n_clusters", n_clusters, optional=True)
        check_integer("candidates", candidates, 2 * n_neighbors)
        check_choice("graph_sampler", graph_sampler, get_args(Sampler))
        check_choice("similarity", similarity, get_args(Similarity))
        check_number("graph_temperature", graph_temperature, 1e-6)
        check_number("dropout_rate", dropout_rate, 0, 0.99)
        if n_clusters is not None and n_clusters > (n_cells := self.summary_stats.n_cells):
            raise invalid("n_clusters", n_clusters, f"at most the number of cells, {n_cells:,}")
        self.n_clusters, self.use_rep, self.spatial_key = n_clusters, use_rep, spatial_key
        self.rule = EdgeRule(graph_sampler, similarity, graph_temperature, n_neighbors, candidates)
        n_components = 0
        if adata is not None:
            self._read_genes(self.genes)
            n_components = min(N_COMPONENTS, adata.n_obs - 1, len(self.genes) - 1)
            self._points_of(adata)
        if use_rep is not None:
            n_components = 0
        torch.manual_seed(self.seed)
        self.module = self._module_cls(
            len(self.genes),
            len(self._batches),
            **sizes,
            dropout_rate=dropout_rate,
            n_components=n_components,
        )
        self._settled: tuple[np.ndarray, sp.csr_matrix] | None = None

"""SCAGC, the model class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.utils import gen_batches
from sklearn.utils.sparsefuncs import mean_variance_axis
from torch import Tensor

from hdeepinsight import graph
from hdeepinsight._errors import check_choice, check_integer, check_keywords, check_number, invalid
from hdeepinsight.data import InputError, examples, log_normalize
from hdeepinsight.models._base import _training as training
from hdeepinsight.models._base._count_model import CountModel
from hdeepinsight.models._base._registration import BATCH, names_of
from hdeepinsight.models._base._unlabeled import UnlabeledMixin, embedding_of, totals_of
from hdeepinsight.models.scagc._module import (
    AdaptiveGraphPlan,
    CellBlocks,
    Cells,
    GraphAutoencoder,
    PlanOptions,
    Sampler,
)
from hdeepinsight.nn import Similarity, SparseFeatures, union_graph

Propagation = Literal["auto", "full", "blocks"]

N_COMPONENTS = 50
#: Neighbours in the tissue: a cell in a hexagonal layer touches six others.
SPATIAL_NEIGHBORS = 6
#: Maximum number of cells that are trained together, and size of blocks above it.
FULL_CELLS, BLOCK_CELLS = 15_000, 1_000


class SCAGC(UnlabeledMixin, CountModel):
    """Clustering of cells, without labels, on a graph that is learned with the embedding.

    A graph autoencoder embeds cells by convolution over a neighbour graph, and resamples the edges
    of this graph from the embedding during training. The method is transductive: the embedding of
    a cell depends on the other cells.

    Parameters
    ----------
    adata
        Cells that were registered with :meth:`setup_anndata`.
    registry
        Registry of a saved model.
    n_clusters
        Number of clusters; by default that of Leiden on the learned graph (resolution 1).
    n_latent, n_hidden
        Dimensions of the embedding and of the hidden layer.
    n_neighbors
        Number of neighbours that are selected for each cell.
    use_rep
        Entry of ``obsm`` for the initial neighbour search, such as a batch-corrected embedding; 50
        principal components by default.
    spatial_key
        Entry of ``obsm`` with coordinates in a tissue. The nearest six cells of the same batch are
        added to the initial graph and to the candidates.
    graph_sampler
        ``"adaptive"`` samples edges with noise that is small relative to the similarities,
        ``"published"`` with the noise of the public code, which dominates the similarities, and
        ``"static"`` keeps the initial graph.
    similarity
        Similarity of two embedded cells: ``"cosine"``, ``"rbf"`` or ``"neg_sqdist"``.
    graph_temperature
        Divisor of the similarities before noise is added; a higher one makes edges more random.
    candidates
        Number of candidate neighbours per cell: half of them nearest in ``use_rep``, half nearest
        in the embedding.
    seed
        Seed of the initial weights, the training and the clusters; ``scvi.settings.seed`` by
        default, or 0 if that is not set.

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
    clustering, BIBM 2025, arXiv:2508.09180. The user guide lists the differences from its public
    code and their effect.
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
        n_neighbors: int = 15,
        use_rep: str | None = None,
        spatial_key: str | None = None,
        graph_sampler: Sampler = "adaptive",
        similarity: Similarity = "cosine",
        graph_temperature: float = 0.1,
        candidates: int = 100,
        seed: int | None = None,
    ) -> None:
        super().__init__(adata, registry, seed=seed)
        options = self._record_options(locals())
        for name in ("n_latent", "n_hidden", "n_neighbors"):
            check_integer(name, options[name])
        check_integer("n_clusters", n_clusters, optional=True)
        check_integer("candidates", candidates, 2 * n_neighbors)
        check_choice("graph_sampler", graph_sampler, get_args(Sampler))
        check_choice("similarity", similarity, get_args(Similarity))
        check_number("graph_temperature", graph_temperature, 1e-6)
        if n_clusters is not None and n_clusters > (n_cells := self.summary_stats.n_cells):
            raise invalid("n_clusters", n_clusters, f"at most the number of cells, {n_cells:,}")
        self.n_clusters, self.use_rep, self.spatial_key = n_clusters, use_rep, spatial_key
        if adata is not None:
            self._read_genes(None, self._extra_arrays(adata.obs))
            for key in filter(None, (use_rep, spatial_key)):
                embedding_of(adata, key)
        n_components = min(N_COMPONENTS, self.summary_stats.n_cells - 1, len(self.genes) - 1)
        sizes = len(self.genes), len(self._batches), 0 if use_rep else n_components
        of_data = "seed", "n_clusters", "use_rep", "spatial_key"
        network = {name: x for name, x in options.items() if name not in of_data}
        self._build_module(*sizes, **network)
        self._embedded: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def _batches(self) -> list[str]:
        return names_of(self.registry_, REGISTRY_KEYS.BATCH_KEY)

    @training.leaves_unchanged_if_interrupted
    def train(  # type: ignore[override]
        self,
        *,
        pretrain_epochs: int = 100,
        cluster_epochs: int = 40,
        propagation: Propagation = "auto",
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        plan_kwargs: Mapping[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the embedding and the graph, then refine them together with the clusters.

        Parameters
        ----------
        pretrain_epochs, cluster_epochs
            Epochs of the two phases; the second ends early when the clusters no longer change.
        propagation
            ``"full"`` convolves over the graph of all cells in each step, ``"blocks"`` over random
            blocks of about 1,000 similar cells; ``"auto"`` uses blocks above 15,000 cells.
        accelerator, devices
            As in Lightning; a single device.
        plan_kwargs
            Passed to the training plan: ``lr`` (1e-3), ``cluster_lr`` (5e-4), ``edge_weight``
            (0.3), ``contrast_weight`` (0.01), ``cluster_weight`` (1.5).
        **trainer_kwargs
            Passed to :class:`scvi.train.Trainer`.

        Raises
        ------
        ValueError
            If a setting is out of range, or the cells were changed after registration.
        TypeError
            If the trainer does not accept an argument.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> cells = hdi.datasets.demo().query
        >>> hdi.SCAGC.setup_anndata(cells)
        >>> model = hdi.SCAGC(cells, n_clusters=4)
        >>> model.train(pretrain_epochs=5, cluster_epochs=2, enable_progress_bar=False)
        >>> list(model.history)[0], model.predict().nunique() <= 4
        ('train_loss', True)
        """
        check_integer("pretrain_epochs", pretrain_epochs)
        check_integer("cluster_epochs", cluster_epochs, 0)
        check_choice("propagation", propagation, get_args(Propagation))
        if "max_epochs" in trainer_kwargs:
            msg = "SCAGC.train() got max_epochs. Pass pretrain_epochs and cluster_epochs instead."
            raise TypeError(msg)
        training.check_names(trainer_kwargs)
        settings = training.as_options("plan_kwargs", plan_kwargs)
        check_keywords("plan_kwargs", settings, PlanOptions.__dataclass_fields__)
        if training.is_distributed(trainer_kwargs, devices):
            raise invalid("devices", devices, "a single device", "Each step reads the whole graph.")
        options = PlanOptions(**settings)
        self._resolve_adata(None)
        self._check_reference()
        epochs = {"pretrain_epochs": pretrain_epochs, "cluster_epochs": cluster_epochs}
        phases = pretrain_epochs, cluster_epochs
        how = training.trainer_options(trainer_kwargs, sum(phases), 0, devices, monitor=None)
        how |= {"accelerator": accelerator, "devices": devices, "max_epochs": sum(phases)}
        self._embedded = None
        self._standardize()
        cells = self._cells(None)
        n_cells = cells.counts.shape[0]
        blocks = np.zeros(n_cells, dtype=int)
        if propagation == "blocks" or (propagation == "auto" and n_cells > FULL_CELLS):
            means = MiniBatchKMeans(-(-n_cells // BLOCK_CELLS), random_state=self.seed)
            blocks = means.fit_predict(cells.points)
        plan = AdaptiveGraphPlan(self.module, cells, self._first_centres, phases, options)
        settings = {"propagation": "blocks" if blocks.any() else "full", **vars(options)}
        self._record_recipe(n_cells, 0, settings | epochs)
        self._run(plan, CellBlocks(blocks), how)

    def _standardize(self) -> None:
        """Compute depth, means, standard deviations and principal components of the cells."""
        shell, module = self.adata_manager.adata, self.module
        totals = totals_of(shell)
        module.depth.fill_(float(np.median(totals[totals > 0])) if totals.any() else 1.0)
        logged = log_normalize(shell.X, float(module.depth), totals=totals).astype(np.float64)
        mean, variance = mean_variance_axis(logged, axis=0)
        if shell.n_obs > 1 and not (variance > 1e-12).any():
            found = "All cells have the same expression."
            raise InputError(found, "A graph requires differences.", "Add other cells or genes.")
        scale = np.where(variance > 1e-12, np.sqrt(variance), 1.0)
        module.shift.copy_(torch.as_tensor(mean))
        module.scale.copy_(torch.as_tensor(scale))
        if n_components := module.rotation.shape[1]:
            pca = PCA(n_components, svd_solver="arpack", random_state=0)
            directions = pca.fit(sp.csr_matrix(logged / scale)).components_
            module.rotation.copy_(torch.as_tensor(directions.T.copy()))

    def _cells(self, data: AnnData | None, reference: AnnData | None = None) -> Cells:
        """Return the inputs of the network for cells, followed by those of a reference."""
        given = [self._resolve_adata(data), *([] if reference is None else [reference])]
        shells = [self._validate_anndata(each) for each in given]
        counts = sp.vstack([shell.X for shell in shells], "csr").astype(np.float32)
        n_cells = counts.shape[0]
        if n_cells < 2:
            raise InputError("There is 1 cell.", "A graph requires two or more.", "Add cells.")
        depth, totals = float(self.module.depth), np.concatenate([totals_of(s) for s in shells])
        logged = log_normalize(counts, depth, totals=totals)
        names = np.concatenate([shell.obs[f"{BATCH}_name"].astype(str) for shell in shells])
        if self.use_rep is not None:
            points = np.concatenate([embedding_of(each, self.use_rep) for each in given])
        else:
            rotation = (self.module.rotation / self.module.scale[:, None]).cpu().numpy()
            points = logged @ rotation - self.module.shift.cpu().numpy() @ rotation
        near = min(self.module.n_candidates // 2, n_cells - 1)
        candidates = graph.nearest_neighbors(points, k=near, seed=self.seed)[0]
        neighbors = candidates[:, : self.module.n_neighbors]
        if self.spatial_key is not None:
            xy = np.concatenate([embedding_of(each, self.spatial_key) for each in given])
            new = graph.neighbors_within(xy, names, SPATIAL_NEIGHBORS)
            candidates, neighbors = (
                np.hstack([x, np.where((new[:, :, None] == x[:, None]).any(axis=2), -1, new)])
                for x in (candidates, neighbors)
            )
        return Cells(
            counts=counts,
            logged=logged,
            size_factor=torch.as_tensor(totals / depth).float().clamp_min(1e-6),
            batch=torch.as_tensor(pd.Index(self._batches).get_indexer(names)),
            points=points,
            neighbors=torch.as_tensor(neighbors),
            candidates=torch.as_tensor(candidates),
        )

    def _first_centres(self, latent: Tensor, neighbors: Tensor) -> Tensor:
        """Return the initial cluster centres, in decreasing order of cluster size."""
        points = latent.cpu().numpy()
        if self.n_clusters is None:
            labels = graph.leiden_communities(union_graph(neighbors).to_scipy(), seed=self.seed)
        else:
            labels = KMeans(self.n_clusters, n_init=20, random_state=self.seed).fit_predict(points)
        order = np.argsort(-np.bincount(labels), kind="stable")
        return torch.stack([latent[labels == name].mean(dim=0) for name in order])

    def _embed(
        self, data: AnnData | None, reference: AnnData | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the embedding and neighbours of cells; cache those of the training cells."""
        self._check_if_trained(warn=False)
        is_own = (data is None or data is self.adata) and reference is None
        if is_own and self._embedded is not None:
            return self._embedded
        cells = self._cells(data, reference)
        found = self.module.embed(cells, SparseFeatures.from_scipy(cells.logged, self.device))
        latent, neighbors = (part.cpu().numpy() for part in found)
        if is_own:
            self._embedded = latent, neighbors
        return latent, neighbors

    def get_latent_representation(  # type: ignore[override]
        self, adata: AnnData | None = None, *, reference: AnnData | None = None
    ) -> np.ndarray:
        """Return the embedding of cells.

        Parameters
        ----------
        adata
            Cells with raw counts; by default those that the model was trained on.
        reference
            Cells to embed together with ``adata``, whose neighbours are searched among both.

        Returns
        -------
        Embedding, shape ``(n_obs, n_latent)``. It is deterministic, and depends on all cells that
        are embedded together.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> cells = hdi.datasets.demo().query
        >>> hdi.SCAGC.setup_anndata(cells)
        >>> model = hdi.SCAGC(cells, n_clusters=4)
        >>> model.train(pretrain_epochs=5, cluster_epochs=2, enable_progress_bar=False)
        >>> model.get_latent_representation(cells[:30].copy(), reference=cells).shape
        (30, 15)
        >>> model.predict_proba().columns.tolist()
        ['0', '1', '2', '3']
        >>> cells.obs["scagc"] = model.predict()
        >>> cells.obsp["scagc_connectivities"] = model.get_learned_graph()
        >>> model.neighbor_choices()["learned"].shape, model.degree_report().index.tolist()
        ((210, 15), ['initial', 'learned'])
        """
        latent, _ = self._embed(adata, reference)
        return latent[: self._resolve_adata(adata).n_obs].copy()

    def predict_proba(
        self, adata: AnnData | None = None, *, reference: AnnData | None = None
    ) -> pd.DataFrame:
        """Return the probability of each cluster, shape ``(n_obs, n_clusters)``.

        Parameters
        ----------
        adata, reference
            As in :meth:`get_latent_representation`.
        """
        latent = self.get_latent_representation(adata, reference=reference)
        with torch.inference_mode():
            found = self.module.assign(torch.as_tensor(latent, device=self.device)).cpu().numpy()
        names = [str(number) for number in range(found.shape[1])]
        return pd.DataFrame(found, index=self._resolve_adata(adata).obs_names, columns=names)

    def predict(
        self, adata: AnnData | None = None, *, reference: AnnData | None = None
    ) -> pd.Series:
        """Return the most probable cluster of each cell, as a categorical column.

        Parameters
        ----------
        adata, reference
            As in :meth:`get_latent_representation`.

        Returns
        -------
        Names of the clusters; ``"0"`` is the cluster that was largest initially.
        """
        table = self.predict_proba(adata, reference=reference)
        labels = table.columns[table.to_numpy().argmax(axis=1)]
        labels = pd.Categorical(labels, categories=table.columns)
        return pd.Series(labels, index=table.index, name="scagc")

    def get_learned_graph(self, adata: AnnData | None = None) -> sp.csr_matrix:
        """Return the learned graph, shape ``(n_obs, n_obs)``.

        Parameters
        ----------
        adata
            As in :meth:`get_latent_representation`.

        Returns
        -------
        Symmetric matrix of ones with an empty diagonal, which scanpy accepts as connectivities:
        ``adata.obsp["scagc_connectivities"]``.
        """
        return union_graph(torch.as_tensor(self._embed(adata)[1])).to_scipy()

    @torch.inference_mode()
    def get_normalized_expression(
        self, adata: AnnData | None = None, gene_list: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Return the decoded mean of the counts at the median depth.

        Parameters
        ----------
        adata
            As in :meth:`get_latent_representation`.
        gene_list
            Genes to return; all genes by default.

        Returns
        -------
        Means without zero inflation, shape ``(n_obs, n_genes)``.

        Raises
        ------
        ValueError
            If the model does not have a gene of ``gene_list``.
        """
        names = list(self.genes if gene_list is None else gene_list)
        if unknown := sorted(set(names) - set(self.genes)):
            raise invalid("gene_list", examples(unknown), "genes of the model", "See model.genes.")
        columns, shell = pd.Index(self.genes).get_indexer(names), self._validate_anndata(adata)
        codes = pd.Index(self._batches).get_indexer(shell.obs[f"{BATCH}_name"].astype(str))
        latent, means = self._embed(adata)[0], []
        for rows in gen_batches(len(latent), 4096):
            z, batch = (torch.as_tensor(x[rows], device=self.device) for x in (latent, codes))
            found = self.module.generative(z, torch.ones_like(z[:, :1]), batch)["px"].mu
            means.append(found[:, columns].cpu().numpy())
        index = self._resolve_adata(adata).obs_names
        return pd.DataFrame(np.concatenate(means), index=index, columns=names)

    def neighbor_choices(self) -> dict[str, np.ndarray]:
        """Return the selected neighbours of each cell in the initial and the learned graph.

        Returns
        -------
        ``"initial"`` and ``"learned"``: positions of the neighbours, -1 for none, one row per cell,
        for :func:`hdeepinsight.pl.in_degrees`.
        """
        return {"initial": self._cells(None).neighbors.numpy(), "learned": self._embed(None)[1]}

    def degree_report(self) -> pd.DataFrame:
        """Compare the degrees in the initial and the learned graph.

        Returns
        -------
        One row per graph: quantiles of the degrees, and standard deviation and skewness (hubness)
        of the in-degrees.
        """
        rows = {
            name: graph.degree_summary(chosen) for name, chosen in self.neighbor_choices().items()
        }
        return pd.DataFrame.from_dict(rows, orient="index")

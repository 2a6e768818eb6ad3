"""SCE2TM: the model class, which only wires."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy.sparse import issparse
from scvi import REGISTRY_KEYS
from sklearn.decomposition import PCA

from hdeepinsight._errors import check_integer, check_number, invalid, missing_column
from hdeepinsight.graph import mutual_neighbors
from hdeepinsight.models._base import _registration as registration
from hdeepinsight.models._base._count_model import CountModel
from hdeepinsight.models._base._training import seeded
from hdeepinsight.models.sce2tm._module import (
    EMBEDDING,
    POSITION,
    SIZE_FACTOR,
    TARGET_SUM,
    TopicModule,
)
from hdeepinsight.models.sce2tm._plan import NeighborPlan
from hdeepinsight.models.sce2tm._topics import TopicsMixin

BATCH_SIZE, STEPS, EPOCH_BOUNDS = 512, 300, (20, 300)
MANY_GENES = 10_000
N_COMPONENTS = 50

logger = logging.getLogger(__name__)


class SCE2TM(TopicsMixin, CountModel):
    r"""Topics of genes that are also clusters of cells, guided by an embedding of the cells.

    Parameters
    ----------
    adata
        Cells that were registered by :meth:`setup_anndata`.
    registry
        Registry of a saved model, or of a datamodule.
    n_topics
        Number of topics.
    n_hidden, n_embed
        Widths of the encoder, and of the space of topics and genes.
    n_neighbors
        Longest list of neighbours of a cell, itself included, of which one is drawn per step.
    ecr_weight
        Weight of the transport cost of topics to genes, which spreads the topics over the genes.
    cm_weight, balance_weight
        Weight of the agreement of expression and embedding, and in it of an even use of topics.
    beta_temperature
        Temperature of the share of every topic in a gene; the lower, the sharper.
    contrast_temperature
        Temperature of the contrast between clusters of the two views.
    dropout
        Dropout of the encoder.
    sinkhorn_epsilon, sinkhorn_max_iter, sinkhorn_tol
        As in :func:`hdeepinsight.nn.sinkhorn`.
    seed
        Seed of weights, split and training; by default ``scvi.settings.seed``, or 0.

    Raises
    ------
    ValueError
        If the cells are not registered, there are fewer cells than topics, or an option is out of
        its range.

    Examples
    --------
    A first look, with a model that was hardly trained; leave out the sizes for a real one:

    >>> import hdeepinsight as hdi
    >>> cells = hdi.datasets.demo().reference
    >>> hdi.SCE2TM.setup_anndata(cells)
    >>> model = hdi.SCE2TM(cells, n_topics=10)
    >>> model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    >>> model.get_topic_proportions().shape == (cells.n_obs, 10)
    True

    Notes
    -----
    Source: scE2TM (Chen et al., doi:10.1038/s41467-026-76825-5; arXiv:2507.08355). Raw counts are
    normalised inside the model, transport is computed in the domain of logarithms with the gradient
    of the envelope theorem, topics and genes stay on the unit sphere (else transport is cheapest
    where all of them coincide), and the optimiser is AdamW under one cycle: our decisions. The user
    guide compares the model with what needs no training.
    """

    _module_cls = TopicModule
    _training_plan_cls = NeighborPlan

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: Mapping[str, Any] | None = None,
        *,
        n_topics: int = 30,
        n_hidden: int = 200,
        n_embed: int = 200,
        n_neighbors: int = 15,
        ecr_weight: float = 100.0,
        cm_weight: float = 1.0,
        balance_weight: float = 5.0,
        beta_temperature: float = 0.2,
        contrast_temperature: float = 0.5,
        dropout: float = 0.0,
        sinkhorn_epsilon: float = 0.01,
        sinkhorn_max_iter: int = 1000,
        sinkhorn_tol: float = 0.005,
        seed: int | None = None,
    ) -> None:
        check_integer("n_topics", n_topics, 2)
        check_number("dropout", dropout, 0, 0.99)
        super().__init__(adata, registry, seed=seed)
        self.init_params_ = self._get_init_params(locals())
        options = self.init_params_["non_kwargs"]
        network = {k: v for k, v in options.items() if k not in ("n_neighbors", "seed")}
        for name, value in options.items():
            if name.startswith("n_") or name.endswith("max_iter"):
                check_integer(name, value)
            elif name.endswith("weight"):
                check_number(name, value, hint="Pass 0 to switch it off.")
            elif name.endswith(("temperature", "epsilon", "tol")):
                check_number(name, value, 1e-6)
        options["seed"] = self.seed
        arrays: dict[str, np.ndarray] = {}
        if adata is not None:
            if n_topics > (n_cells := self.summary_stats.n_cells):
                raise invalid("n_topics", n_topics, f"at most {n_cells:,}, the number of cells")
            arrays = self._extra_arrays(adata.obs)
            if (key := self._embedding_key) is not None:
                arrays[EMBEDDING] = embedding_of(adata, key)
                arrays[POSITION] = np.arange(n_cells)[:, None]
            if len(self.genes) > MANY_GENES:
                logger.warning(
                    "The model reads %s genes. Topics of about 5,000 highly variable genes are "
                    "easier to tell apart, and fitted faster.",
                    f"{len(self.genes):,}",
                )
            self._read_genes(self.genes, arrays)
        fields = self.registry_["field_registries"]
        n_embedding = fields.get(EMBEDDING, {}).get("summary_stats", {}).get(f"n_{EMBEDDING}", 0)
        batches = fields.get(REGISTRY_KEYS.BATCH_KEY, {}).get("summary_stats", {})
        with seeded(self.seed):
            sizes = len(self.genes), n_embedding, batches.get("n_batch", 1)
            self.module = self._module_cls(*sizes, **network)
        if EMBEDDING in arrays:
            self.module.standardize_embedding(torch.tensor(arrays[EMBEDDING]))

    @classmethod
    def setup_anndata(  # type: ignore[override]
        cls,
        adata: AnnData,
        *,
        layer: str | None = None,
        embedding_obsm_key: str | None = None,
        batch_key: str | None = None,
        size_factor_key: str | None = None,
        source_registry: dict[str, Any] | None = None,
    ) -> None:
        """Register cells; nothing is written to them, and no labels are read.

        Parameters
        ----------
        adata
            Cells with raw counts, shape ``(n_obs, n_vars)``; about 5,000 highly variable genes.
        layer
            Layer with the counts; ``X`` by default.
        embedding_obsm_key
            Entry of ``obsm`` with a second view of the cells: of a foundation model, of surface
            proteins, or principal components. It must not have been made from labels. Without it
            the model is a plain embedded topic model.
        batch_key
            Column of ``obs`` with the batch of every cell; every gene then has a bias per batch.
        size_factor_key
            Column of ``obs`` with the total that a cell is scaled by; by default the total of the
            registered genes.
        source_registry
            Registry of a saved model, whose set-up is repeated on this object.

        Raises
        ------
        InputError
            If the matrix does not hold counts, and they cannot be recovered.
        KeyError
            If a column or an entry of ``obsm`` is not there.
        TypeError
            If ``adata`` is not an AnnData.
        ValueError
            If the embedding or a size factor is not finite, or ``adata`` is a view.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> cells = hdi.datasets.demo().reference
        >>> hdi.SCE2TM.setup_anndata(cells)
        """
        setup = registration.Setup(**cls._get_setup_method_args(**locals()))
        source = registration.open_without_labels(adata, layer)
        if embedding_obsm_key is not None:
            embedding_of(adata, embedding_obsm_key)
        if size_factor_key is not None:
            registration.size_factors(adata.obs, size_factor_key)
        registration.register(cls, adata, source, adata.obs, setup)

    def train(  # type: ignore[override]
        self,
        max_epochs: int | None = None,
        *,
        batch_size: int | None = None,
        train_size: float | None = None,
        datamodule: Any = None,
        **kwargs: Any,
    ) -> None:
        """Fit topics, and the two views to each other.

        Parameters
        ----------
        max_epochs
            Passes over the cells; by default as many as make about 300 steps, at least 20 and at
            most 300; topics grew alike again in longer trainings.
        batch_size
            Cells per step; 512 by default.
        train_size
            Share of cells to train on. All by default, since topics describe the cells at hand;
            below 1 the reconstruction of the others is logged as ``validation_loss``.
        datamodule
            As in :meth:`CountModel.train`, for a model without embedding.
        **kwargs
            Further arguments of :meth:`CountModel.train`: ``accelerator``, ``devices``,
            ``early_stopping``, ``plan_kwargs`` (``lr``, ``weight_decay``), ``checkpoint``, ...

        Raises
        ------
        ValueError
            If a setting is out of its range or has no effect.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> cells = hdi.datasets.demo().reference
        >>> cells.obsm["X_counts"] = cells.X.toarray()[:, :20]  # stands for a real embedding
        >>> hdi.SCE2TM.setup_anndata(cells, embedding_obsm_key="X_counts")
        >>> model = hdi.SCE2TM(cells, n_topics=10)
        >>> model.train(2, accelerator="cpu", enable_progress_bar=False)
        >>> sorted(name for name in model.history if "cross" in name)
        ['cross_view_train']
        """
        if datamodule is None:
            splits = ("validation_size", "split_key", "datasplitter_kwargs")
            train_size = (
                1.0 if train_size is None and not any(map(kwargs.get, splits)) else train_size
            )
            check_integer("batch_size", batch_size, 2, optional=True)
            batch_size = batch_size or BATCH_SIZE
            per_epoch = -(-self.summary_stats.n_cells // batch_size)
            max_epochs = max_epochs or int(np.clip(round(STEPS / per_epoch), *EPOCH_BOUNDS))
        super().train(
            max_epochs,
            train_size=train_size,
            batch_size=batch_size,
            datamodule=datamodule,
            **kwargs,
        )

    def _prepare(
        self, split: list[np.ndarray] | None, datamodule: Any, **options: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return counts, embedding and lists of neighbours among the cells that train."""
        if split is None or self._embedding_key is None:
            return (), {}
        shell, rows = self.adata_manager.adata, np.sort(split[0])
        arrays = {name: shell.obsm[name] for name in (SIZE_FACTOR, EMBEDDING) if name in shell.obsm}
        counts = shell.X[rows].astype(np.float64)
        totals = arrays[SIZE_FACTOR][rows] if SIZE_FACTOR in arrays else counts.sum(axis=1)
        logged = counts.multiply(TARGET_SUM / np.maximum(totals, 1e-6)).log1p().tocsr()
        n_components = min(N_COMPONENTS, min(logged.shape) - 1)
        pca = PCA(n_components, svd_solver="arpack", random_state=self.seed)
        lists = []
        for view in (pca.fit_transform(logged), arrays[EMBEDDING][rows]):
            near = mutual_neighbors(
                view, k=self.init_params_["non_kwargs"]["n_neighbors"], seed=self.seed
            )
            lists.append(np.full((shell.n_obs, near.shape[1]), -1, dtype=np.int64))
            lists[-1][rows] = np.where(near < 0, -1, rows[near])
        return ({REGISTRY_KEYS.X_KEY: shell.X, **arrays}, tuple(lists)), {}

    @torch.inference_mode()
    def get_knowledge_assignments(self, adata: AnnData | None = None) -> pd.DataFrame:
        """Return the probabilities of the topics by the embedding alone; rows sum to 1.

        Parameters
        ----------
        adata
            Cells with the embedding in ``obsm``; those that were registered by default.

        Raises
        ------
        ValueError
            If the model has no embedding, or that of these cells has another width.
        """
        if (key := self._embedding_key) is None:
            msg = "The model was set up without an embedding, so that none assigns topics."
            raise ValueError(f"{msg} Pass embedding_obsm_key=... to setup_anndata.")
        adata = self._resolve_adata(adata)
        values, width = embedding_of(adata, key), len(self.module.embedding_mean)
        if values.shape[1] != width:
            raise invalid(f"obsm[{key!r}]", f"{values.shape[1]} columns", f"of {width} columns")
        assigned = self.module.eval().know(torch.tensor(values, device=self.device)).cpu().numpy()
        return pd.DataFrame(assigned, index=adata.obs_names, columns=self.topic_names)

    @property
    def _embedding_key(self) -> str | None:
        """Entry of ``obsm`` that guides the topics."""
        key: str | None = self._setup.setup_args.get("embedding_obsm_key")
        return key

    def _extra_arrays(self, obs: pd.DataFrame) -> dict[str, np.ndarray]:
        key = self._setup.setup_args.get("size_factor_key")
        return {} if key is None else {SIZE_FACTOR: registration.size_factors(obs, key)}


def embedding_of(adata: AnnData, key: str) -> np.ndarray:
    """Return a second view of the cells, float32, shape ``(n_cells, n_features)``."""
    if key not in adata.obsm:
        hint = ""
        if key in adata.obs:
            hint = f"{key!r} is a column of obs; labels are no embedding. Pass an entry of obsm."
        raise missing_column(key, adata.obsm.keys(), where="obsm", hint=hint)
    given = adata.obsm[key]
    given = given.toarray() if issparse(given) else np.asarray(given)
    try:
        values = np.ascontiguousarray(given, dtype=np.float32)
    except ValueError:
        values = np.full((1, 1), np.nan)
    if values.ndim != 2 or not values.shape[1] or not np.isfinite(values).all():
        hint = "Labels and missing values are not taken: pass numbers, or leave those cells out."
        raise invalid(
            f"obsm[{key!r}]",
            f"{given.dtype} of shape {given.shape}",
            "a table of finite numbers",
            hint,
        )
    return values

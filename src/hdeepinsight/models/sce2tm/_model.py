"""SCE2TM, the model class."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from sklearn.decomposition import PCA

from hdeepinsight._errors import check_integer, check_number, invalid
from hdeepinsight.data import log_normalize
from hdeepinsight.graph import mutual_neighbors
from hdeepinsight.models._base._count_model import CountModel
from hdeepinsight.models._base._plan import Prepared
from hdeepinsight.models._base._unlabeled import EMBEDDING, SIZE_FACTOR, embedding_of
from hdeepinsight.models.sce2tm._module import POSITION, NeighborPlan, TopicModule
from hdeepinsight.models.sce2tm._topics import TopicsMixin

MANY_GENES = 10_000
N_COMPONENTS = 50
#: Neighbours per cell, including itself, of which one is drawn in each step.
N_NEIGHBORS = 15

logger = logging.getLogger(__name__)


class SCE2TM(TopicsMixin, CountModel):
    r"""Topic model whose topics are also clusters of cells, guided by an embedding of the cells.

    Parameters
    ----------
    adata
        Cells that were registered with :meth:`setup_anndata`.
    registry
        Registry of a saved model, or of a datamodule.
    n_topics
        Number of topics.
    n_hidden, n_embed
        Width of the encoder, and dimension of the embeddings of topics and genes.
    ecr_weight
        Weight of the transport cost between topics and genes, which separates the topics.
    cm_weight, balance_weight
        Weight of the agreement between expression and embedding, and in it of the entropy of the
        mean topic proportions.
    seed
        Seed of the initial weights, the split and the training; ``scvi.settings.seed`` by default,
        or 0 if that is not set.

    Raises
    ------
    ValueError
        If the cells are not registered, there are fewer cells than topics, or an option is out of
        range.

    Examples
    --------
    A quick example with a small, briefly trained model; omit the sizes in real applications:

    >>> import hdeepinsight as hdi
    >>> cells = hdi.datasets.demo().reference
    >>> hdi.SCE2TM.setup_anndata(cells)
    >>> model = hdi.SCE2TM(cells, n_topics=10)
    >>> model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    >>> model.get_topic_proportions().shape == (cells.n_obs, 10)
    True
    >>> model.top_genes(3).shape
    (10, 3)

    Notes
    -----
    Based on scE2TM (Chen et al., doi:10.1038/s41467-026-76825-5; arXiv:2507.08355), with these
    differences: raw counts are normalised in the model; transport is computed in the log domain,
    with gradients by the envelope theorem; topics and genes stay on the unit sphere, because
    transport would otherwise collapse them; and the optimiser is AdamW with a one-cycle learning
    rate. The user guide compares the model with methods that need no training.
    """

    _module_cls = TopicModule
    _training_plan_cls: ClassVar[type] = NeighborPlan
    _default_steps = 300  # topics became similar again in longer trainings
    _epoch_bounds = 20, 300
    _batch_size_bounds = 512, 512
    _default_train_size = 1.0

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: Mapping[str, Any] | None = None,
        *,
        n_topics: int = 30,
        n_hidden: int = 200,
        n_embed: int = 200,
        ecr_weight: float = 100.0,
        cm_weight: float = 1.0,
        balance_weight: float = 5.0,
        seed: int | None = None,
    ) -> None:
        super().__init__(adata, registry, seed=seed)
        options = self._record_options(locals())
        network = {name: value for name, value in options.items() if name != "seed"}
        for name, value in network.items():
            if name.endswith("weight"):
                check_number(name, value, hint="Pass 0 to switch it off.")
            else:
                check_integer(name, value, 2 if name == "n_topics" else 1)
        arrays: dict[str, np.ndarray] = {}
        if adata is not None:
            if n_topics > (n_cells := self.summary_stats.n_cells):
                raise invalid("n_topics", n_topics, f"at most {n_cells:,}, the number of cells")
            if (n_genes := len(self.genes)) > MANY_GENES:
                advice = "Select about 5,000 variable genes for faster training and clearer topics."
                logger.warning("The model has %s genes. %s", f"{n_genes:,}", advice)
            arrays = self._extra_arrays(adata.obs)
            if (key := self._embedding_key) is not None:
                arrays[EMBEDDING] = embedding_of(adata, key)
                arrays[POSITION] = np.arange(n_cells)[:, None]
            self._read_genes(None, arrays)
        widths = len(self.genes), self.summary_stats.get("n_embedding", 0)
        n_batch = self.summary_stats.get("n_batch", 1)
        self._build_module(*widths, n_batch, **network)
        if EMBEDDING in arrays:
            self.module.standardize_embedding(torch.tensor(arrays[EMBEDDING]))

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        *,
        layer: str | None = None,
        embedding_obsm_key: str | None = None,
        batch_key: str | None = None,
        size_factor_key: str | None = None,
        source_registry: dict[str, Any] | None = None,
        **others: Any,
    ) -> None:
        """Register cells without modifying them; no labels are used.

        Parameters
        ----------
        adata
            Cells with raw counts, shape ``(n_obs, n_vars)``; about 5,000 highly variable genes.
        layer
            Layer with the counts; ``X`` by default.
        embedding_obsm_key
            Entry of ``obsm`` with a second view of the cells: an embedding from a foundation model
            or surface proteins, or principal components. It must not be derived from labels.
            Without it, the model is a plain embedded topic model.
        batch_key
            Column of ``obs`` with the batch of each cell, for a gene bias per batch.
        size_factor_key
            Column of ``obs`` with the size factor (total count) of each cell; by default the total
            count of the registered genes.
        source_registry
            Registry of a saved model, used when the model is loaded with new cells.
        **others
            Other arguments are refused.

        Raises
        ------
        InputError
            If the matrix does not hold counts, and they cannot be recovered.
        KeyError
            If a column or an entry of ``obsm`` is missing.
        TypeError
            If ``adata`` is not an AnnData, or for other arguments.
        ValueError
            If the embedding or a size factor is not finite, the embedding has another number of
            columns than that of a loaded model, or ``adata`` is a view.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> cells = hdi.datasets.demo().reference
        >>> hdi.SCE2TM.setup_anndata(cells)
        """
        cls._set_up(locals())

    def train(  # type: ignore[override]
        self, max_epochs: int | None = None, *, batch_size: int | None = None, **kwargs: Any
    ) -> None:
        """Train the topic model.

        Parameters
        ----------
        max_epochs
            Number of epochs; by default as many as give about 300 steps, at least 20 and at most
            300.
        batch_size
            Cells per mini-batch; 512 by default.
        **kwargs
            Further arguments of :meth:`CountModel.train`: ``accelerator``, ``devices``,
            ``early_stopping``, ``plan_kwargs`` (``lr``, ``weight_decay``), ``checkpoint``, ...
            By default no cells are held out. With ``train_size`` or ``validation_size``, the
            reconstruction loss of held-out cells is logged as ``validation_loss``. Models with an
            embedding do not support a ``datamodule``.

        Raises
        ------
        ValueError
            If a setting is out of range or has no effect.

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
        check_integer("batch_size", batch_size, 2, optional=True)
        super().train(max_epochs, batch_size=batch_size, **kwargs)

    def _prepare(self, split: Any, datamodule: Any, **options: Any) -> Prepared:
        """Return counts, embedding and neighbours of the training cells."""
        if split is None or self._embedding_key is None:
            return (), {}
        shell, rows = self.adata_manager.adata, np.sort(split[0])
        arrays = {name: shell.obsm[name] for name in (SIZE_FACTOR, EMBEDDING) if name in shell.obsm}
        logged = log_normalize(shell.X, totals=arrays.get(SIZE_FACTOR))[rows].astype(np.float64)
        n_components = min(N_COMPONENTS, min(logged.shape) - 1)
        pca = PCA(n_components, svd_solver="arpack", random_state=self.seed)
        lists = []
        for view in (pca.fit_transform(logged), arrays[EMBEDDING][rows]):
            near = mutual_neighbors(view, k=N_NEIGHBORS, seed=self.seed)
            lists.append(np.full((shell.n_obs, near.shape[1]), -1, dtype=np.int64))
            lists[-1][rows] = np.where(near < 0, -1, rows[near])
        return ({"X": shell.X, **arrays}, tuple(lists)), {}

    @torch.inference_mode()
    def get_knowledge_assignments(self, adata: AnnData | None = None) -> pd.DataFrame:
        """Return topic probabilities from the embedding alone; rows sum to 1.

        Parameters
        ----------
        adata
            Cells with the embedding in ``obsm``; the registered cells by default.

        Raises
        ------
        ValueError
            If the model has no embedding, or the embedding has another number of columns.
        """
        if (key := self._embedding_key) is None:
            msg = "The model was set up without an embedding, which this method requires."
            raise ValueError(f"{msg} Pass embedding_obsm_key=... to setup_anndata.")
        adata = self._resolve_adata(adata)
        values = embedding_of(adata, key, len(self.module.embedding_mean))
        assigned = self.module.eval().assign(torch.tensor(values, device=self.device))
        return pd.DataFrame(assigned.cpu().numpy(), index=adata.obs_names, columns=self.topic_names)

    @property
    def _embedding_key(self) -> str | None:
        """Entry of ``obsm`` with the second view of the cells, or ``None``."""
        key: str | None = self._setup.setup_args.get("embedding_obsm_key")
        return key

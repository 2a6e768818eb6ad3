"""SCHDeepInsight: the model class, which only wires."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import rich.pretty  # noqa: F401 - scvi-tools uses it in view_setup_method_args without importing it
import torch
from scvi import settings

from hdeepinsight.annotation import Evaluation, check_level_names, evaluate_annotation
from hdeepinsight.image import GeneLayout
from hdeepinsight.models.schdeepinsight._adaptation_profiles import reference_sums
from hdeepinsight.models.schdeepinsight._explanation import ExplanationMixin
from hdeepinsight.models.schdeepinsight._module import GeneImageClassifier, HeadName
from hdeepinsight.models.schdeepinsight._reference import (
    as_options,
    layout_of,
    level_weights,
    read_counts,
    taxonomy_of,
)
from hdeepinsight.models.schdeepinsight._surgery import SurgeryMixin
from hdeepinsight.models.schdeepinsight._training import TrainingMixin
from hdeepinsight.nn import (
    CountThinning,
    GeneMasking,
    LeafSums,
    ModalityDropout,
    inverse_frequency_weights,
    usual_shift,
)

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from mudata import MuData
    from scipy.sparse import csr_matrix

    from hdeepinsight.image import LayoutMethod
    from hdeepinsight.models.schdeepinsight._base import Query
    from hdeepinsight.nn import Reduction
    from hdeepinsight.taxonomy import Taxonomy


class SCHDeepInsight(ExplanationMixin, TrainingMixin, SurgeryMixin):
    r"""Hierarchical annotation of cells from gene images.

    Parameters
    ----------
    adata
        Reference that was registered by :meth:`setup_anndata` or :meth:`setup_mudata`.
    registry
        Registry of a saved model; used by :meth:`load`.
    taxonomy
        Tree of the cell types; by default the one that the label columns span.
    layout
        Pixel of every gene: a :class:`~hdeepinsight.image.GeneLayout`, or how to fit one
        (``"tsne"``, ``"umap"``, ``"mde"``, ``"random"``).
    n_genes
        Most genes of a fitted layout: ``keep_genes`` first, then the most variable ones.
    keep_genes
        Genes that a fitted layout has to hold, such as markers.
    side
        Side of the image of a fitted layout; by default the smallest multiple of 8 that has a
        pixel for every gene.
    scale_percentile
        Percentile of the positive log values of a gene that is drawn as 1; 100 is the maximum.
    backbone
        Network that reads the image: ``"compact"``, ``"mlp"`` (a control that knows no
        neighbourhoods), ``"efficientnet_b0"`` to ``_b7``, ``"efficientnet_v2_s"``, ``_m``, ``_l``,
        or ``None`` for no image.
    head
        ``"linear"`` or ``"per_parent"`` (published).
    wide
        Add a linear path from the genes to the logits.
    n_latent
        Width of the features of the compact backbone.
    dropout
        Dropout rate before the head.
    channels
        Channels of the image: ``"masked"`` (expression and measured mask), ``"single"``, or
        ``"rgb"`` (three equal ones, published).
    gamma
        Focusing exponent of the loss; 0 is the cross-entropy.
    weighting
        Weights of the levels in the loss: ``"fixed"`` (uniform), ``"adaptive"`` (published: they
        follow the held-out losses), or one number a level.
    reduction
        ``"cell"`` or ``"published"``; see
        :class:`~hdeepinsight.nn.AdaptiveHierarchicalFocalLoss`.
    class_weights
        Exponent :math:`\beta` of the weights :math:`n^{-\beta}` of types within their siblings;
        0 weighs all cells alike.
    masking
        Random gene masking in training.
    thinning
        Random thinning of counts in training.
    proteins
        Pixel of every surface protein of a MuData; by default each is at its gene, see
        :func:`~hdeepinsight.image.protein_layout`.
    modality_dropout
        Random loss of proteins and of whole modalities in training, and noise on proteins.
    seed
        Seed of layout, weights, split and training; by default ``scvi.settings.seed``, or 0.

    Examples
    --------
    A first look, with a model that was hardly trained; leave out the sizes for a real one:

    >>> import hdeepinsight as hdi
    >>> data = hdi.datasets.demo()
    >>> hdi.SCHDeepInsight.setup_anndata(data.reference, labels_keys=["lineage", "cell_type"])
    >>> model = hdi.SCHDeepInsight(data.reference, layout="random", n_latent=16)
    >>> model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    >>> model.annotate(data.query).labels.shape
    (210, 3)

    Notes
    -----
    Source of the idea: scHDeepInsight (doi:10.1101/2025.06.23.661045). The network, the
    normalisation inside the model, thinning, masking, joint decoding and calibration are our
    decisions; the benchmark compares them with controls that undo one of them each.
    """

    _module_cls = GeneImageClassifier

    def __init__(
        self,
        adata: AnnData | MuData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        taxonomy: Taxonomy | dict[str, Any] | None = None,
        layout: GeneLayout | dict[str, Any] | LayoutMethod = "tsne",
        n_genes: int = 4096,
        keep_genes: Sequence[str] = (),
        side: int | None = None,
        scale_percentile: float = 99.0,
        backbone: str | None = "compact",
        head: HeadName = "linear",
        wide: bool = False,
        n_latent: int = 256,
        dropout: float = 0.1,
        channels: Literal["masked", "single", "rgb"] = "masked",
        gamma: float = 0.0,
        weighting: Literal["adaptive", "fixed"] | Sequence[float] = "fixed",
        reduction: Reduction = "cell",
        class_weights: float = 0.25,
        masking: GeneMasking | dict[str, float] | None = None,
        thinning: CountThinning | dict[str, float] | None = None,
        proteins: GeneLayout | dict[str, Any] | None = None,
        modality_dropout: ModalityDropout | dict[str, float] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(adata, registry)
        self.seed = seed if seed is not None else int(settings.seed or 0)
        self.taxonomy = taxonomy_of(
            self._cells(adata), taxonomy, self._label_keys, unlabeled=self._unlabeled_category
        )
        check_level_names(self.taxonomy)
        nodes = None if adata is None else self._label_nodes(adata)
        source = None if adata is None else self._counts(adata)
        self.layout = layout_of(
            source,
            layout,
            nodes,
            n_genes=n_genes,
            keep_genes=[*keep_genes, *self._genes_of_proteins(adata, keep_genes)],
            side=side,
            seed=self.seed,
        )
        self.protein_layout = self._place_proteins(adata, proteins)
        self.thinning = as_options(CountThinning, thinning)
        masking = as_options(GeneMasking, masking)
        modality_dropout = as_options(ModalityDropout, modality_dropout)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self.module = self._module_cls(
                self.taxonomy,
                self.layout,
                backbone=backbone,
                head=head,
                wide=wide,
                n_latent=n_latent,
                dropout=dropout,
                channels=channels,
                masking=masking,
                gamma=gamma,
                reduction=reduction,
                level_weights=level_weights(weighting, self.taxonomy.max_depth),
                proteins=self.protein_layout,
                modality_dropout=modality_dropout,
            )
        if source is not None and nodes is not None:
            counts = read_counts(source, self.layout.genes)
            self._fit_to_reference(counts, nodes, scale_percentile, class_weights)
        self.init_params_ = self._get_init_params(locals())
        self.init_params_["non_kwargs"] |= {
            "taxonomy": self.taxonomy.to_dict(),
            "layout": self.layout.to_dict(),
            "masking": masking.to_dict(),
            "proteins": self.protein_layout and self.protein_layout.to_dict(),
            "modality_dropout": modality_dropout.to_dict(),
            "thinning": self.thinning.to_dict(),
            "keep_genes": list(keep_genes),
            "weighting": weighting if isinstance(weighting, str) else list(weighting),
            "seed": self.seed,
        }
        self.recipe_: dict[str, Any] = {}
        self._model_summary_string = repr(self)

    @classmethod
    def published(
        cls, adata: AnnData, taxonomy: Taxonomy | None = None, **options: Any
    ) -> SCHDeepInsight:
        """Build the published configuration, for comparison.

        Parameters
        ----------
        adata
            Reference that was registered by :meth:`setup_anndata`.
        taxonomy
            Tree of the cell types; by default the one that the label columns span.
        **options
            Keyword arguments of the class; they win over the published ones.

        Returns
        -------
        A model with EfficientNet-B5 on three equal 224×224 channels, one small network a parent,
        no wide path, per-gene maxima, the published loss, no masking and no thinning.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> reference = hdi.datasets.demo().reference
        >>> hdi.SCHDeepInsight.setup_anndata(reference, labels_keys=["lineage", "cell_type"])
        >>> model = hdi.SCHDeepInsight.published(
        ...     reference, backbone="compact", side=32, layout="random"
        ... )  # smaller and faster than what was published
        >>> model.thinning, len(model.layout.genes)
        (CountThinning(p=0.0, min_rate=1.0), 765)

        Notes
        -----
        Train it with ``batch_size=256, max_lr=1e-4, weight_decay=1e-5`` and annotate with
        ``decoder="greedy", threshold=None``. It is the whole published pipeline only where
        reference and query were corrected with STACAS first; the published network starts from
        ImageNet weights, this one does not.
        """
        published: dict[str, Any] = {
            "n_genes": 5000,
            "side": 224,
            "scale_percentile": 100.0,
            "backbone": "efficientnet_b5",
            "head": "per_parent",
            "wide": False,
            "dropout": 0.3,
            "channels": "rgb",
            "gamma": 2.0,
            "weighting": "adaptive",
            "reduction": "published",
            "class_weights": 0.0,
            "masking": GeneMasking.none(),
            "thinning": CountThinning.none(),
        }
        return cls(adata, taxonomy=taxonomy, **(published | options))

    def evaluate(
        self,
        adata: Query | None = None,
        *,
        labels_keys: Sequence[str] | None = None,
        unlabeled_category: str | None = None,
        **kwargs: Any,
    ) -> Evaluation:
        """Score the model where labels are known.

        Parameters
        ----------
        adata
            Labelled AnnData, MuData or path; by default the cells of the reference that were held
            out in training.
        labels_keys, unlabeled_category
            As in :meth:`label_nodes`.
        **kwargs
            Keyword arguments of :meth:`annotate`.

        Returns
        -------
        Accuracy, macro-F1 and calibration error of every level, hierarchical scores, and how many
        cells stop above a type.

        Raises
        ------
        KeyError
            If a column is not there.
        ValueError
            If no cell has a label, or a label is not in the taxonomy.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query
        >>> names = {"T cell": "T", "NK cell": "NK", "B cell": "B", "Myeloid cell": "Myeloid"}
        >>> query.obs["known"] = query.obs["lineage"].astype(str).map(names)
        >>> scores = model.evaluate(query, labels_keys=["known"])
        >>> scores.n_cells, bool(scores.levels.loc["lineage", "accuracy"] > 0.8)
        (206, True)
        """
        if adata is None:
            adata = self._held_out()
        nodes = self.label_nodes(
            adata, labels_keys=labels_keys, unlabeled_category=unlabeled_category
        )
        return evaluate_annotation(self.annotate(adata, **kwargs), nodes)

    def _held_out(self) -> AnnData | MuData:
        reference = self._own_adata()
        if self.validation_indices_ is None or not len(self.validation_indices_):
            msg = (
                "No cells were held out in training. Valid are labelled cells that took no part "
                "in it. Pass some, or train with a larger validation_size."
            )
            raise ValueError(msg)
        return reference[self.validation_indices_]

    def __repr__(self) -> str:
        """Backbone, taxonomy, layout and state of training."""
        levels = ", ".join(
            f"{name} ({int((self.taxonomy.depth == depth).sum())})"
            for depth, name in enumerate(self.taxonomy.level_names, start=1)
        )
        n_weights = sum(p.numel() for p in self.module.parameters())
        missing = ", ".join(
            f"{n:,} without a label in {key!r}" for key, n in self._n_missing_labels.items()
        )
        return (
            f"SCHDeepInsight: {self.backbone_name} on {self.layout.side}×{self.layout.side} "
            f"images of {len(self.layout.genes)} genes ({self.layout.method} layout)"
            f"{f' and {len(self.proteins)} proteins' if self.proteins else ''}, "
            f"{n_weights:,} weights\n"
            f"taxonomy: {self.taxonomy.n_leaves} types at levels {levels}\n"
            f"{'' if self.is_trained_ else 'not '}trained on {self.summary_stats.n_cells} cells"
            f"{f' ({missing})' if missing else ''}"
        )

    def _fit_to_reference(
        self, counts: csr_matrix, nodes: np.ndarray, scale_percentile: float, class_weights: float
    ) -> None:
        """Normalisation and node weights, which are saved with the weights of the network."""
        self.module.normalizer.fit(counts, scale_percentile=scale_percentile)
        self._fit_proteins()
        key = self._setup_args["batch_key"]
        batches = None if key is None else self._column(key).astype(str).to_numpy()
        sums = reference_sums(self.module, counts, nodes, batches)
        self.profiles_ = LeafSums.sum(sums).profiles()
        self.shift_ = usual_shift(sums)
        objective = self.module.objective
        objective.node_weights.copy_(
            inverse_frequency_weights(objective.tree, torch.from_numpy(nodes), class_weights)
        )

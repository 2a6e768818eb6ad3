"""Hierarchical classifiers: the base class, and the classifier of gene images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from hdeepinsight._errors import check_choice
from hdeepinsight.image import GeneLayout, Raster
from hdeepinsight.nn._augment import CountThinning, GeneMasking
from hdeepinsight.nn._backbones import make_backbone
from hdeepinsight.nn._folded import FoldedClassifier
from hdeepinsight.nn._heads import LinearHead, PerParentHead
from hdeepinsight.nn._hierarchical_loss import AdaptiveHierarchicalFocalLoss, Reduction
from hdeepinsight.nn._members import MemberBackbones, MemberHeads
from hdeepinsight.nn._modality import ModalityDropout, ProteinChannels, ProteinValues
from hdeepinsight.nn._normalize import CountNormalizer
from hdeepinsight.taxonomy import Taxonomy, TreeAlgebra

HEADS = {"linear": LinearHead, "per_parent": PerParentHead}


class TreeClassifier(nn.Module):
    """Base class of hierarchical classifiers.

    A subclass sets ``tree``, ``objective``, ``masking``, ``thinning``, ``head`` and the buffer
    ``temperature`` (one per level), and defines ``inference``, which returns ``latent`` and
    ``logits``.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> from hdeepinsight.nn import TreeClassifier
    >>> isinstance(hdi.hub.pull("pbmc").module, TreeClassifier)
    True
    """

    tree: TreeAlgebra
    objective: AdaptiveHierarchicalFocalLoss
    masking: GeneMasking
    thinning: CountThinning
    temperature: Tensor
    head: Any
    inference: Any

    def generative(self, logits: Tensor) -> dict[str, Tensor]:
        """Compute conditional log-probabilities of the nodes, shape ``(n_cells, n_edges)``."""
        if not self.training:
            logits = logits / self.temperature[self.tree.edge_depth - 1]
        return {"conditional": self.tree.conditional_log_probs(logits)}

    @torch.inference_mode()
    def predict(self, counts: Tensor, measured: Tensor, **further: Tensor) -> dict[str, Tensor]:
        """Compute calibrated probabilities of all nodes and latent features, in evaluation mode.

        Returns
        -------
        ``probabilities`` ``(n_cells, n_nodes)``, ``latent`` ``(n_cells, n_latent)``, and for an
        ensemble the ``disagreement`` of its members, ``(n_cells,)``.
        """
        outputs: dict[str, Tensor] = self.inference(counts, measured, **further)
        return self.classify(outputs["latent"], outputs["logits"])

    def classify(self, latent: Tensor, logits: Tensor) -> dict[str, Tensor]:
        """Compute the outputs of :meth:`predict` from latent features and logits."""
        conditional = self.generative(logits)["conditional"]
        probabilities = self.tree.node_log_probs(conditional).exp()
        found = {"probabilities": probabilities, "latent": latent}
        heads = getattr(self.head, "head", self.head)  # without an adapter
        if isinstance(heads, MemberHeads):
            found["disagreement"] = heads.disagreement(latent)
        return found


@dataclass(frozen=True, kw_only=True)
class ModuleConfig:
    r"""Options of the network and its loss for comparisons and ablations.

    Parameters
    ----------
    scale_percentile
        Percentile of the positive log values of a gene that is mapped to 1; 100 is the maximum.
    head
        ``"linear"`` or ``"per_parent"`` (published).
    wide
        Add a linear path from the genes to the logits.
    dropout
        Dropout rate before the head.
    channels
        Channels of the image: ``"masked"`` (expression and mask of measured genes), ``"single"``,
        or ``"rgb"`` (three equal channels, published).
    gamma
        Focusing exponent of the loss; 0 is the cross-entropy.
    weighting
        Weights of the levels in the loss: ``"fixed"`` (uniform), ``"adaptive"`` (published: updated
        from the held-out losses), or one number per level.
    reduction
        ``"cell"`` or ``"published"``; see
        :class:`~hdeepinsight.nn.AdaptiveHierarchicalFocalLoss`.
    class_weights
        Exponent :math:`\beta` of the weights :math:`n^{-\beta}` of types among their siblings; with
        0 all cells have equal weight.
    modality_dropout
        Random dropout of proteins and of whole modalities in training, and noise on proteins.

    Examples
    --------
    >>> from hdeepinsight.models import ModuleConfig
    >>> ModuleConfig(gamma=2.0).head
    'linear'
    """

    scale_percentile: float = 99.0
    head: Literal["linear", "per_parent"] = "linear"
    wide: bool = False
    dropout: float = 0.1
    channels: Literal["masked", "single", "rgb"] = "masked"
    gamma: float = 0.0
    weighting: Literal["adaptive", "fixed"] | Sequence[float] = "fixed"
    reduction: Reduction = "cell"
    class_weights: float = 0.25
    modality_dropout: ModalityDropout | dict[str, float] | None = None

    @classmethod
    def of(cls, given: ModuleConfig | dict[str, Any] | None) -> ModuleConfig:
        """Return the options from an instance, a dict, or ``None`` (the defaults)."""
        return cls(**given) if isinstance(given, dict) else given or cls()

    def to_dict(self) -> dict[str, Any]:
        """Return plain types, for the model file."""
        weighting = self.weighting if isinstance(self.weighting, str) else list(self.weighting)
        dropout = ModalityDropout.of(self.modality_dropout).to_dict()
        return asdict(self) | {"weighting": weighting, "modality_dropout": dropout}


class GeneImageClassifier(TreeClassifier):
    """Hierarchical classifier of gene images: normalisation, image, backbone and head.

    Parameters
    ----------
    taxonomy
        Taxonomy of the cell types.
    layout
        Pixel of each gene.
    config
        Options of the network and its loss.
    backbone
        Name of the network that reads the image; ``None`` for the wide path alone, which is
        hierarchical logistic regression.
    n_latent
        Number of features of the compact backbone.
    n_members
        Number of backbones and heads, whose probabilities are averaged. In training each member
        reads a separately thinned and masked copy of a mini-batch.
    masking, thinning
        Random gene masking and thinning of counts in training.
    proteins
        Pixel of each surface protein, for additional channels.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import torch
    >>> module = hdi.hub.pull("pbmc").module.cpu()
    >>> found = module.predict(torch.ones(2, len(module.genes)), torch.ones(len(module.genes)))
    >>> found["probabilities"].shape == (2, module.tree.taxonomy.n_nodes)
    True
    """

    wide: nn.Linear | None
    wide_proteins: nn.Linear | None

    def __init__(
        self,
        taxonomy: Taxonomy,
        layout: GeneLayout,
        config: ModuleConfig,
        *,
        backbone: str | None,
        n_latent: int,
        n_members: int,
        masking: GeneMasking,
        thinning: CountThinning,
        proteins: GeneLayout | None,
    ) -> None:
        super().__init__()
        if backbone is None and not config.wide:
            msg = "A network needs a backbone or a wide path, got backbone=None and wide=False."
            raise ValueError(f"{msg} Set one of them.")
        if n_members > 1 and (backbone is None or config.wide):
            msg = "n_members has no effect on the wide path, which all members share. Pass"
            raise ValueError(f"{msg} n_members=1, or a backbone and wide=False.")
        n_genes = len(layout.genes)
        self.genes, self.protein_names = layout.genes, () if proteins is None else proteins.genes
        self.n_members = n_members
        self.tree = TreeAlgebra(taxonomy)
        self.normalizer = CountNormalizer(n_genes)
        self.raster = Raster(layout, channels=config.channels)
        self.masking, self.thinning = masking, thinning
        dropout = ModalityDropout.of(config.modality_dropout)
        self.proteins = None if proteins is None else ProteinChannels(proteins, dropout)
        n_channels = self.raster.n_channels + (self.proteins.n_channels if self.proteins else 0)
        make: Any = partial(make_backbone, backbone, n_channels, layout.side, n_latent=n_latent)
        self.backbone: Any = make() if n_members == 1 else MemberBackbones(make, n_members)
        self.wide = self.wide_proteins = self.head = None
        if config.wide:
            self.wide = _zero_linear(n_genes, taxonomy.n_edges, bias=backbone is None)
        if config.wide and self.proteins is not None:
            self.wide_proteins = _zero_linear(self.proteins.n_proteins, taxonomy.n_edges)
        if self.backbone is not None:
            check_choice("head", config.head, tuple(HEADS))
            width = self.backbone.n_latent // n_members
            head = partial(HEADS[config.head], width, self.tree, dropout=config.dropout)
            self.head = head() if n_members == 1 else MemberHeads(head, n_members, self.tree)
        self.objective = AdaptiveHierarchicalFocalLoss(
            self.tree,
            gamma=config.gamma,
            reduction=config.reduction,
            weighting=config.weighting,
        )
        self.temperature = nn.Buffer(torch.ones(taxonomy.max_depth))

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Build the network from the options of the model class."""
        taxonomy, layout, proteins = options["taxonomy"], options["layout"], options["proteins"]
        return cls(
            Taxonomy.from_dict(taxonomy) if isinstance(taxonomy, dict) else taxonomy,
            GeneLayout.from_dict(layout) if isinstance(layout, dict) else layout,
            ModuleConfig.of(options["config"]),
            backbone=options["backbone"],
            n_latent=options["n_latent"],
            n_members=options.get("n_members", 1),  # files of the present schema may lack it
            masking=GeneMasking.of(options["masking"]),
            thinning=CountThinning.of(options["thinning"]),
            proteins=GeneLayout.from_dict(proteins) if isinstance(proteins, dict) else proteins,
        )

    @staticmethod
    def present_options(options: dict[str, Any]) -> dict[str, Any]:
        """Return present options of the model class for those in older files."""
        names = {field.name for field in fields(ModuleConfig)}
        older = {name: options[name] for name in names & set(options)}
        rest = {name: value for name, value in options.items() if name not in names}
        return {"n_members": 1} | rest | ({"config": older} if older else {})

    def inference(
        self,
        counts: Tensor,
        measured: Tensor,
        nodes: Tensor | None = None,
        proteins: Tensor | None = None,
        proteins_measured: Tensor | None = None,
        shift: Tensor | None = None,
        member: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute latent features and logits.

        Parameters
        ----------
        counts
            Raw counts, shape ``(n_cells, n_genes)``.
        measured
            1 for measured genes, shape ``(n_genes,)`` or ``(n_cells, n_genes)``.
        nodes
            Labels of training cells, shape ``(n_cells,)``; used by the per-parent head only.
        proteins, proteins_measured
            Raw protein counts, and 1 for measured proteins, shape ``(n_cells, n_proteins)``; by
            default no proteins are measured.
        shift
            Batch correction of the log values, shape ``(n_cells, n_genes)``.
        member
            Ensemble member that predicts each cell, shape ``(n_cells,)``; all members by default.

        Returns
        -------
        ``latent`` ``(n_cells, n_latent)`` and ``logits`` ``(n_cells, n_edges)``.
        """
        values, protein_values = self.normalizer(counts, measured, shift), None
        if self.proteins is not None and proteins is not None and proteins_measured is not None:
            protein_values = self.proteins.normalize(proteins, proteins_measured)
        found = self.read(values, measured, nodes, protein_values)
        if member is not None:
            found["logits"] = self.head.by_one(found["latent"], member.long())
        return found

    def read(
        self,
        values: Tensor,
        measured: Tensor,
        nodes: Tensor | None = None,
        proteins: ProteinValues | None = None,
    ) -> dict[str, Tensor]:
        """Compute latent features and logits from normalised values."""
        if self.proteins is not None:
            proteins = proteins or self.proteins.unmeasured(len(values), like=values)
        wide = self.wide(values) if self.wide is not None else values.new_zeros(())
        if self.wide_proteins is not None and proteins is not None:
            wide = wide + self.wide_proteins(proteins.values)
        if self.backbone is None or self.head is None:
            return {"latent": wide, "logits": wide}
        image = self.raster(values, measured)
        if self.proteins is not None and proteins is not None:
            image = torch.cat([image, self.proteins(proteins)], dim=1)
        latent = self.backbone(image)
        return {"latent": latent, "logits": self.head(latent, nodes) + wide}

    def folded(self, measured: Tensor) -> FoldedClassifier | None:
        """Return an equivalent network for sparse counts and the genes of one query.

        ``None`` if the backbone cannot be folded.
        """
        return FoldedClassifier(self, measured) if FoldedClassifier.reads(self.backbone) else None


def _zero_linear(n_inputs: int, n_outputs: int, *, bias: bool = False) -> nn.Linear:
    layer = nn.Linear(n_inputs, n_outputs, bias=bias)
    nn.init.zeros_(layer.weight)
    return layer

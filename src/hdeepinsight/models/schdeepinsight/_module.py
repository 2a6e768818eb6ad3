"""The mathematics of SCHDeepInsight: counts to gene image to probabilities on a tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import auto_move_data
from torch import Tensor, nn

from hdeepinsight._errors import check_choice
from hdeepinsight._keys import FIELD_KEYS
from hdeepinsight.image import Raster
from hdeepinsight.models._base._module import TreeClassifier
from hdeepinsight.nn import (
    AdaptiveHierarchicalFocalLoss,
    CountNormalizer,
    CountThinning,
    FoldedClassifier,
    GeneMasking,
    LinearHead,
    MemberBackbones,
    MemberHeads,
    ModalityDropout,
    PerParentHead,
    ProteinChannels,
    ProteinValues,
    Reduction,
    make_backbone,
)
from hdeepinsight.taxonomy import TreeAlgebra

if TYPE_CHECKING:
    from hdeepinsight.image import GeneLayout
    from hdeepinsight.taxonomy import Taxonomy

HEADS = {"linear": LinearHead, "per_parent": PerParentHead}


@dataclass(frozen=True, kw_only=True)
class ModuleConfig:
    r"""Choices of the network and its loss that only comparisons change.

    Parameters
    ----------
    scale_percentile
        Percentile of the positive log values of a gene that is drawn as 1; 100 is the maximum.
    head
        ``"linear"`` or ``"per_parent"`` (published).
    wide
        Add a linear path from the genes to the logits.
    dropout
        Dropout rate before the head.
    channels
        Channels of the image: ``"masked"`` (expression and measured mask), ``"single"``, or
        ``"rgb"`` (three equal ones, published).
    gamma
        Focusing exponent of the loss; 0 is the cross-entropy.
    weighting
        Weights of the levels in the loss: ``"fixed"`` (uniform), ``"adaptive"`` (published: they
        follow the held-out losses), or one number per level.
    reduction
        ``"cell"`` or ``"published"``; see
        :class:`~hdeepinsight.nn.AdaptiveHierarchicalFocalLoss`.
    class_weights
        Exponent :math:`\beta` of the weights :math:`n^{-\beta}` of types within their siblings;
        0 weighs all cells alike.
    modality_dropout
        Random loss of proteins and of whole modalities in training, and noise on proteins.

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

    def to_dict(self) -> dict[str, Any]:
        """Return plain types, for the model file."""
        weighting = self.weighting if isinstance(self.weighting, str) else list(self.weighting)
        dropout = ModalityDropout.of(self.modality_dropout).to_dict()
        return asdict(self) | {"weighting": weighting, "modality_dropout": dropout}


class GeneImageClassifier(TreeClassifier):
    """Normalise, draw the gene image, read it, and classify along the tree.

    Parameters
    ----------
    taxonomy
        The tree of cell types.
    layout
        Pixel of every gene.
    config
        Choices of the network and its loss.
    backbone
        Name of the network that reads the image; ``None`` leaves the wide path alone, which is
        hierarchical logistic regression.
    n_latent
        Width of the features of the compact backbone.
    n_members
        Number of backbones and heads, whose probabilities are averaged. In training each reads
        its own thinned and masked copy of a mini-batch.
    masking, thinning
        Random gene masking and thinning of counts in training.
    proteins
        Pixel of every surface protein; they become further channels.
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
            msg = "backbone=None and wide=False leave nothing to learn. Switch one of them on."
            raise ValueError(msg)
        if n_members > 1 and (backbone is None or config.wide):
            msg = "n_members has no effect on the wide path, which all members share. Pass"
            raise ValueError(f"{msg} n_members=1, or a backbone and wide=False.")
        n_genes = len(layout.genes)
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
        self.register_buffer("temperature", torch.ones(taxonomy.max_depth))

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs: Any) -> dict[str, Any]:
        return {
            **super()._get_inference_input(tensors),
            "proteins": tensors.get(FIELD_KEYS.PROTEINS),
            "proteins_measured": tensors.get("proteins_measured"),
        }

    def augment(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Make training cells look like those of queries: shallower, and with fewer genes.

        Parameters
        ----------
        tensors
            Mini-batch with raw counts, shape ``(n_cells, n_genes)``; ``measured`` of the same
            shape, if it is there, is 1 for genes that may be shown.

        Returns
        -------
        The mini-batch with thinned counts and masks of what is shown, once for every member. A
        member gets no label of cells that it must not see (``unseen_by``).
        """
        if self.n_members > 1:
            tensors = {name: torch.cat([each] * self.n_members) for name, each in tensors.items()}
        if "unseen_by" in tensors:
            labels, unseen_by = tensors[REGISTRY_KEYS.LABELS_KEY], tensors["unseen_by"]
            member = torch.arange(self.n_members, device=labels.device)
            seen = unseen_by != member.repeat_interleave(len(labels) // self.n_members)
            tensors[REGISTRY_KEYS.LABELS_KEY] = labels * seen
        tensors = super().augment(tensors)
        if self.proteins is None:
            return tensors
        thinned = self.thinning.sample_dense(tensors[FIELD_KEYS.PROTEINS])
        return self.proteins.hide({**tensors, FIELD_KEYS.PROTEINS: thinned})

    @auto_move_data  # type: ignore[untyped-decorator]
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
        """Features and logits.

        Parameters
        ----------
        counts
            Raw counts, shape ``(n_cells, n_genes)``.
        measured
            1 where a gene was measured, shape ``(n_genes,)`` or ``(n_cells, n_genes)``.
        nodes
            Labels of training cells, shape ``(n_cells,)``; only the per-parent head uses them.
        proteins, proteins_measured
            Raw protein counts and 1 where measured, shape ``(n_cells, n_proteins)``; without them
            all proteins count as not measured.
        shift
            Batch correction of the log values, shape ``(n_cells, n_genes)``.
        member
            Number of the member that reads each cell, shape ``(n_cells,)``; all do by default.

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
        """As :meth:`inference`, from values that are normalised already."""
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
        """Return what predicts the same from sparse counts, for the genes of one query.

        ``None`` where the backbone cannot be folded.
        """
        return FoldedClassifier(self, measured) if FoldedClassifier.reads(self.backbone) else None


def _zero_linear(n_inputs: int, n_outputs: int, *, bias: bool = False) -> nn.Linear:
    layer = nn.Linear(n_inputs, n_outputs, bias=bias)
    nn.init.zeros_(layer.weight)
    return layer

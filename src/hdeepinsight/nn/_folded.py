"""A classifier of gene images at prediction, read straight from the counts that are not zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn import functional

from hdeepinsight.nn._backbones import PATCH, CompactBackbone, MLPBackbone
from hdeepinsight.nn._norm import BatchNorm1d, FrozenNorm


@dataclass(frozen=True, eq=False)
class SparseCounts:
    """Raw counts of some cells without the zeros: the arrays of a CSR matrix, as tensors.

    Parameters
    ----------
    starts
        Where the values of each cell start, int64, shape ``(n_cells + 1,)``.
    genes
        Gene of every value, int32 or int64, shape ``(n_values,)``; none twice in one cell.
    values
        The counts, shape ``(n_values,)``.

    Examples
    --------
    >>> import torch
    >>> from scipy.sparse import csr_matrix
    >>> counts = SparseCounts.of(csr_matrix([[0.0, 3.0], [1.0, 2.0]]), "cpu")
    >>> len(counts), counts.cells.tolist(), counts[:, torch.tensor([1])].tolist()
    (2, [0, 1, 1], [[3.0], [2.0]])
    """

    starts: Tensor
    genes: Tensor
    values: Tensor

    @classmethod
    def of(cls, counts: csr_matrix, device: torch.device | str) -> SparseCounts:
        """Take those of a matrix, float32; on the CPU without a copy."""
        if not counts.has_canonical_format:
            counts = counts.copy()
            counts.sum_duplicates()
        arrays = counts.indptr.astype(np.int64, copy=False), counts.indices, counts.data
        tensors = [torch.from_numpy(array) for array in arrays]
        if torch.device(device).type == "cuda":  # from pinned memory, while the device computes
            tensors = [each.pin_memory().to(device, non_blocking=True) for each in tensors]
        return cls(*(each.to(device) for each in tensors))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, key: tuple[slice, Tensor]) -> Tensor:
        """Return the counts of some genes dense, as ``counts[:, genes]``."""
        _, wanted = key
        found = self.values.new_zeros(len(self), len(wanted))
        if not len(wanted) or not len(self.genes):
            return found
        size = int(max(wanted.max(), self.genes.max())) + 1
        place = torch.full((size,), -1, device=wanted.device)
        place[wanted] = torch.arange(len(wanted), device=wanted.device)
        column = place[self.genes]
        kept = column >= 0
        found[self.cells[kept], column[kept]] = self.values[kept]
        return found

    @property
    def cells(self) -> Tensor:
        """Cell of every value, int64, shape ``(n_values,)``."""
        lengths = self.starts.diff()
        rows = torch.arange(len(self), device=lengths.device)
        return torch.repeat_interleave(rows, lengths, output_size=len(self.genes))


class FoldedClassifier:
    r"""A classifier of gene images for the genes of one query, with all that is constant folded.

    It gives what the module does at prediction, to rounding, several times faster: the mask of
    measured genes is the same for all cells, so its channel and the normalisations are folded into
    weights and constants, and only counts that are not zero are normalised and drawn.

    Parameters
    ----------
    module
        Classifier with a ``normalizer``, ``raster``, ``proteins``, ``backbone``, ``head``,
        ``wide``, ``wide_proteins`` and ``classify``, whose backbone is compact, an MLP, several of
        these side by side (``members``), or ``None``. Later changes of its weights are not seen.
    measured
        1 for the genes of the query, shape ``(n_genes,)``, on the device of the module.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import torch
    >>> model = hdi.hub.pull("pbmc")
    >>> module, counts = model.module.eval(), model.bank_.counts[:100]
    >>> measured = (torch.arange(counts.shape[1]) % 3 > 0).float()
    >>> folded = FoldedClassifier(module, measured)
    >>> counts = counts.multiply(measured.numpy()).tocsr()
    >>> found = folded.predict(SparseCounts.of(counts, "cpu"))["probabilities"]
    >>> plain = module.predict(torch.from_numpy(counts.toarray()), measured)["probabilities"]
    >>> torch.allclose(found, plain, atol=1e-5)
    True

    Notes
    -----
    A place of the image is a patch of the compact backbone, or the whole image for an MLP. With
    values :math:`s_{ig}`, weights :math:`W`, normalisation :math:`a\,x + b` and mask :math:`m`,
    the first layer at place :math:`p` is

    .. math::
        h_{ip} = \max\Bigl(0, \sum_{g \in p} s_{ig}\, a W_{pg}
        + a \bigl(c_p + \sum_{g \in p} m_g W'_{pg}\bigr) + b\Bigr),

    where the second sum, over the channel of the mask, does not depend on the cell.
    """

    def __init__(self, module: Any, measured: Tensor) -> None:
        self.module = module
        normalizer = module.normalizer
        measured = measured.to(normalizer.scale)
        expected = normalizer.mean_share * normalizer.library_gene
        coverage = (measured * expected).sum() / expected.sum().clamp_min(1e-12)
        self.target = normalizer.target_sum * coverage
        self.library_gene, self.scale = normalizer.library_gene, normalizer.scale
        self.wide = None if module.wide is None else module.wide.weight.detach().T.contiguous()
        backbone = module.backbone
        members = [] if backbone is None else list(getattr(backbone, "members", [backbone]))
        self.parts = [_Folded(module, each, measured) for each in members]

    @staticmethod
    def reads(backbone: nn.Module | None) -> bool:
        """Whether a backbone can be folded.

        Examples
        --------
        >>> from hdeepinsight.nn import FoldedClassifier, make_backbone
        >>> names = "compact", "mlp", "efficientnet_b0", None
        >>> [FoldedClassifier.reads(make_backbone(name, 2, 32)) for name in names]
        [True, True, False, True]
        """
        members = [] if backbone is None else getattr(backbone, "members", [backbone])
        return all(isinstance(each, CompactBackbone | MLPBackbone) for each in members)

    def __getattr__(self, name: str) -> Any:
        """Return the head (with its adapter if it has one), tree or temperatures of the module."""
        if name not in ("head", "tree", "temperature"):
            raise AttributeError(name)
        return getattr(self.module, name)

    @torch.inference_mode()
    def inference(
        self,
        counts: SparseCounts,
        measured: Tensor | None = None,
        *,
        has_rna: Tensor | None = None,
        proteins: Tensor | None = None,
        proteins_measured: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return features and logits.

        Parameters
        ----------
        counts
            Raw counts of the cells.
        measured
            Has no effect: the genes are those that the classifier was folded for.
        has_rna
            Whether RNA was measured in each cell, shape ``(n_cells, 1)``; in all by default.
        proteins, proteins_measured
            As of the module.

        Returns
        -------
        ``latent`` ``(n_cells, n_latent)``, ``logits`` ``(n_cells, n_edges)``, and whether anything
        that is read was counted in each cell, ``seen`` ``(n_cells,)``.
        """
        module, n_cells, genes = self.module, len(counts), counts.genes
        cells, values = counts.cells, counts.values.to(self.scale)
        # Counts are whole, so that these sums are exact in any order.
        total, library = values.new_zeros(2, n_cells)
        total.index_add_(0, cells, values)
        library.index_add_(0, cells, values * self.library_gene.index_select(0, genes))
        seen, factor = total > 0, self.target / library.clamp_min(1.0) * (library > 0)
        if has_rna is not None:
            factor = factor * has_rna.view(-1)
        values = (values * factor.index_select(0, cells)).add_(1.0).log_()
        values = values.div_(self.scale.index_select(0, genes)).clamp_max_(1.0)
        stained = None
        if module.proteins is not None:
            stained = module.proteins.unmeasured(n_cells, like=values)
            if proteins is not None and proteins_measured is not None:
                stained = module.proteins.normalize(proteins, proteins_measured)
                seen |= proteins_measured.any(1)
        wide = values.new_zeros(())
        if self.wide is not None:
            starts = counts.starts[:-1]
            wide = functional.embedding_bag(
                genes.long(), self.wide, starts, mode="sum", per_sample_weights=values
            )
            wide = wide if module.wide.bias is None else wide + module.wide.bias
        if module.wide_proteins is not None and stained is not None:
            wide = wide + module.wide_proteins(stained.values)
        if not self.parts:
            return {"latent": wide, "logits": wide, "seen": seen}
        first = self.parts[0]
        image = values.new_zeros(n_cells, first.n_inputs)
        place = first.gene_input.index_select(0, genes).add_(cells, alpha=first.n_inputs)
        image.view(-1).scatter_(0, place, values)
        if stained is not None:
            image[:, first.protein_input] = stained.values
            image[:, first.protein_mask_input] = stained.measured
        latent = torch.cat([part(image, has_rna) for part in self.parts], dim=1)
        return {"latent": latent, "logits": module.head(latent) + wide, "seen": seen}

    @torch.inference_mode()
    def predict(
        self, counts: SparseCounts, measured: Tensor | None = None, **extra: Any
    ) -> dict[str, Tensor]:
        """Return what the module's ``predict`` does, and ``seen``; inputs as of `inference`."""
        found = self.inference(counts, measured, **extra)
        classified: dict[str, Tensor] = self.module.classify(found["latent"], found["logits"])
        return classified | {"seen": found["seen"]}


class _Folded:
    """Folded weights of one backbone, from the channels that differ from cell to cell."""

    norm: nn.Module

    def __init__(self, module: Any, backbone: Any, measured: Tensor) -> None:
        raster, stain = module.raster, module.proteins
        if isinstance(backbone, CompactBackbone):
            weight, bias = backbone.patches.weight.detach(), backbone.patches.bias.detach().T
            norm, dense, self.norm = backbone.norm, backbone.dense, backbone.dense_norm
            n_places, per_side = len(bias), backbone.patches.per_side

            def find(pixel: Tensor) -> tuple[Tensor, Tensor]:
                row, column = pixel // raster.side, pixel % raster.side
                place = row // PATCH * per_side + column // PATCH
                return place, row % PATCH * PATCH + column % PATCH
        else:
            _, linear, norm, _, dense, self.norm, _ = backbone.layers
            weight, n_places = linear.weight.detach().T.contiguous().unsqueeze(0), 1
            bias = weight.new_zeros(1, weight.shape[2])

            def find(pixel: Tensor) -> tuple[Tensor, Tensor]:
                return torch.zeros_like(pixel), pixel

        n_channels = raster.n_channels + (stain.n_channels if stain else 0)
        weight = weight.view(n_places, n_channels, -1, weight.shape[2])
        n_pixels, width = weight.shape[2:]
        n_values = 3 if raster.channels == "rgb" else 1  # equal channels act as one
        place, pixel = find(raster.pixel)
        mask = torch.zeros_like(bias)
        if raster.channels == "masked":
            mask.index_add_(0, place, weight[place, 1, pixel] * measured.unsqueeze(1))
        kept = [weight[:, :n_values].sum(1)]
        n_kept = n_pixels * (3 if stain else 1)
        self.gene_input = place * n_kept + pixel
        if stain:
            kept += weight[:, -2], weight[:, -1]
            place, pixel = find(stain.raster.pixel)
            self.protein_input = place * n_kept + n_pixels + pixel
            self.protein_mask_input = self.protein_input + n_pixels
        self.n_inputs = n_places * n_kept
        # Scale and shift of a normalisation, one row for each batch if it is adapted to some.
        self.adapted = None if isinstance(norm, BatchNorm1d) else norm
        frozen = FrozenNorm(norm) if self.adapted is None else None
        scale, shift = (frozen.scale, frozen.shift) if frozen else (1.0, 0.0)
        self.table = None if self.adapted is None else [x.detach() for x in self.adapted.affine()]
        self.weight = (torch.cat(kept, dim=1) * scale).contiguous()
        self.mask = mask * scale
        self.constant = ((bias + mask) * scale + shift).unsqueeze(1)
        inputs: Any = dense.weight.detach().T
        if n_places > 1:  # features of one filter lie side by side there, those of one patch here
            inputs = inputs.unflatten(0, (width, n_places)).transpose(0, 1).flatten(0, 1)
        self.dense = inputs.contiguous()

    def __call__(self, image: Tensor, has_rna: Tensor | None) -> Tensor:
        n_places, n_kept, width = self.weight.shape
        hidden = image.new_empty(len(image), n_places, width)
        inputs = image.view(len(image), n_places, n_kept).transpose(0, 1)
        torch.baddbmm(self.constant, inputs, self.weight, out=hidden.transpose(0, 1))
        if has_rna is not None:
            hidden -= self.mask * ~has_rna.view(-1, 1, 1).bool()
        if self.adapted is not None and self.table is not None:
            batch = self.adapted.switch.batch
            rows = [-1] * len(image) if batch is None else batch
            scale, shift = (each[rows].unsqueeze(1) for each in self.table)
            hidden.mul_(scale).add_(shift)
        latent: Tensor = self.norm(hidden.relu_().flatten(1) @ self.dense).relu_()
        return latent

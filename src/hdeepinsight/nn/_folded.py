"""Prediction with a gene image classifier directly from non-zero counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix
from torch import Tensor, nn
from torch.nn import functional

from hdeepinsight.nn._backbones import PATCH, CompactBackbone, MLPBackbone
from hdeepinsight.nn._norm import BatchNorm1d, FrozenNorm

#: Values of the first layer per step, few enough to stay in the cache.
CACHED_VALUES = 2**20


@dataclass(frozen=True, eq=False)
class SparseCounts:
    """Non-zero counts of cells, as the three arrays of a CSR matrix in tensors.

    Parameters
    ----------
    starts
        Offset of the first value of each cell, int32 or int64, shape ``(n_cells + 1,)``.
    genes
        Gene of each value, of the same dtype, shape ``(n_values,)``; unique within a cell.
    values
        Counts, shape ``(n_values,)``.

    Examples
    --------
    >>> import torch
    >>> from scipy.sparse import coo_matrix, csr_matrix
    >>> counts = SparseCounts.of(csr_matrix([[0.0, 3.0], [1.0, 2.0]]), "cpu")
    >>> len(counts), counts.cells.tolist(), counts[:, torch.tensor([1])].tolist()
    (2, [0, 1, 1], [[3.0], [2.0]])
    """

    starts: Tensor
    genes: Tensor
    values: Tensor

    @classmethod
    def of(cls, counts: csr_matrix, device: torch.device | str) -> SparseCounts:
        """Convert a float32 matrix, without a copy on the CPU."""
        if not counts.has_canonical_format:
            counts = counts.copy()
            counts.sum_duplicates()
        arrays = counts.indptr, counts.indices, counts.data
        tensors = [torch.from_numpy(array) for array in arrays]
        if torch.device(device).type == "cuda":  # from pinned memory, while the device computes
            tensors = [each.pin_memory().to(device, non_blocking=True) for each in tensors]
        return cls(*(each.to(device) for each in tensors))

    @classmethod
    def of_dense(cls, counts: Tensor) -> SparseCounts:
        """Convert a tensor of shape ``(n_cells, n_genes)``."""
        cells, genes = counts.nonzero(as_tuple=True)
        starts = functional.pad(cells.bincount(minlength=len(counts)).cumsum(0), (1, 0))
        return cls(starts, genes, counts[cells, genes])

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, key: tuple[slice, Tensor]) -> Tensor:
        """Return the counts of selected genes as a dense tensor, as in ``counts[:, genes]``."""
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
        """Cell of each value, shape ``(n_values,)``."""
        return self.spread(torch.arange(len(self), device=self.genes.device))

    def spread(self, of_cells: Tensor) -> Tensor:
        """Repeat a value per cell for each of its non-zero counts."""
        lengths = self.starts.diff()
        if of_cells.is_cpu:  # NumPy is three times as fast
            return torch.from_numpy(np.repeat(of_cells.numpy(), lengths.numpy()))
        return torch.repeat_interleave(of_cells, lengths, output_size=len(self.genes))

    def rows(self, start: int, stop: int) -> SparseCounts:
        """Return the cells from `start` to before `stop`."""
        starts = self.starts[start : stop + 1]
        span = slice(int(starts[0]), int(starts[-1]))
        return SparseCounts(starts - starts[0], self.genes[span], self.values[span])

    def grouped(self, place: Tensor, n_places: int) -> SparseCounts:
        """Group the values of each cell by patch of the image.

        Parameters
        ----------
        place
            Patch of each gene, int32, shape ``(n_genes,)``.
        n_places
            Number of patches. The rows of the result are patches of cells, ``n_cells * n_places``.

        Examples
        --------
        >>> import torch
        >>> from scipy.sparse import coo_matrix, csr_matrix
        >>> counts = SparseCounts.of(csr_matrix([[5.0, 3.0, 4.0], [1.0, 0.0, 2.0]]), "cpu")
        >>> places = counts.grouped(torch.tensor([1, 0, 1], dtype=torch.int32), 2)
        >>> places.starts.tolist(), places.genes.tolist(), places.values.tolist()
        ([0, 1, 3, 3, 5], [1, 0, 2, 0, 2], [3.0, 5.0, 4.0, 1.0, 2.0])
        """
        n_bags = len(self) * n_places
        first = torch.arange(0, n_bags, n_places, dtype=place.dtype, device=place.device)
        bag = place.index_select(0, self.genes) + self.spread(first)
        if bag.is_cpu:  # a bucket sort
            values, genes = self.values.numpy(), self.genes.numpy()
            table = coo_matrix((values, (bag.numpy(), genes)), shape=(n_bags, len(place)))
            table.has_canonical_format = True
            table = table.tocsr()
            return SparseCounts(*map(torch.from_numpy, (table.indptr, table.indices, table.data)))
        order = bag.argsort(stable=True)
        starts = bag.bincount(minlength=n_bags).cumsum(0).to(self.starts)
        starts = functional.pad(starts, (1, 0))
        return SparseCounts(starts, self.genes[order], self.values[order])

    def log_normalized(
        self, library: Tensor, target: Tensor, has_rna: Tensor | None = None
    ) -> SparseCounts:
        """Compute log1p of the counts after scaling each cell to the same library size.

        Parameters
        ----------
        library
            Library size per cell, shape ``(n_cells,)``.
        target
            Common library size.
        has_rna
            Whether RNA was measured in each cell; values of other cells are 0.
        """
        factor = target / library.clamp_min(1.0) * (library > 0)
        if has_rna is not None:
            factor = factor * has_rna.view(-1)
        return replace(self, values=self.spread(factor).mul_(self.values).add_(1.0).log_())

    def weighted_sums(self, weight: Tensor) -> Tensor:
        """Multiply by a dense matrix ``(n_genes, n_columns)``; shape ``(n_cells, n_columns)``."""
        return functional.embedding_bag(
            self.genes,
            weight,
            self.starts,
            mode="sum",
            per_sample_weights=self.values,
            include_last_offset=True,
        )


class FoldedClassifier:
    r"""Gene image classifier for the genes of one query, with constants folded into its weights.

    The predictions equal those of the module up to rounding, several times faster. The mask of
    measured genes is the same for all cells, so its channel and the normalisation layers are folded
    into weights and constants, and only non-zero counts are processed.

    Parameters
    ----------
    module
        Classifier with a ``normalizer``, ``raster``, ``proteins``, ``backbone``, ``head``,
        ``wide``, ``wide_proteins`` and ``classify``. Its backbone is compact, an MLP, an ensemble
        of these (``members``), or ``None``. Later changes of its weights have no effect.
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
    A place :math:`p` of the image is a patch of the compact backbone, or the whole image for an
    MLP. With values :math:`s_{ig}`, weights :math:`W`, normalisation :math:`a\,x + b` and mask
    :math:`m`, the first layer at place :math:`p` is

    .. math::
        h_{ip} = \max\Bigl(0, \sum_{g \in p} s_{ig}\, a W_{pg}
        + a \bigl(c_p + \sum_{g \in p} m_g W'_{pg}\bigr) + b\Bigr),

    where the second sum, over the channel of the mask, does not depend on the cell.

    With ``torch.set_float32_matmul_precision("medium")``, the product with the dense layer is
    computed in bfloat16, which is faster on processors with instructions for it.
    """

    def __init__(self, module: Any, measured: Tensor) -> None:
        self.module = module
        normalizer = module.normalizer
        measured = measured.to(normalizer.scale)
        self.target = normalizer.target_for(measured)
        self.scale, library_gene = normalizer.scale, normalizer.library_gene
        self.tallied = torch.stack([torch.ones_like(library_gene), library_gene], dim=1)
        self.wide = None if module.wide is None else module.wide.weight.detach().T.contiguous()
        backbone = module.backbone
        members = [] if backbone is None else list(getattr(backbone, "members", [backbone]))
        self.parts = [_Folded(module, each, measured) for each in members]

    @staticmethod
    def reads(backbone: nn.Module | None) -> bool:
        """Return whether a backbone can be folded.

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
        """Return the head (with its adapter, if any), tree or temperatures of the module."""
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
            Ignored; the measured genes are those that the classifier was folded for.
        has_rna
            Whether RNA was measured in each cell, shape ``(n_cells, 1)``; by default in all.
        proteins, proteins_measured
            As in the module.

        Returns
        -------
        ``latent`` ``(n_cells, n_latent)``, ``logits`` ``(n_cells, n_edges)``, and ``seen``
        ``(n_cells,)``: whether a cell has any count that the model uses.
        """
        module, n_cells, genes = self.module, len(counts), counts.genes
        counts = replace(counts, values=counts.values.to(self.scale))
        # Counts are integers, so these sums are exact in any order.
        total, library = counts.weighted_sums(self.tallied).T
        seen = total > 0
        values = counts.log_normalized(library, self.target, has_rna).values
        values = values.div_(self.scale.index_select(0, genes)).clamp_max_(1.0)
        counts = replace(counts, values=values)
        stained = None
        if module.proteins is not None:
            stained = module.proteins.unmeasured(n_cells, like=values)
            if proteins is not None and proteins_measured is not None:
                stained = module.proteins.normalize(proteins, proteins_measured)
                seen |= proteins_measured.any(1)
        wide = values.new_zeros(())
        if self.wide is not None:
            wide = counts.weighted_sums(self.wide)
            wide = wide if module.wide.bias is None else wide + module.wide.bias
        if module.wide_proteins is not None and stained is not None:
            wide = wide + module.wide_proteins(stained.values)
        if not self.parts:
            return {"latent": wide, "logits": wide, "seen": seen}
        latent = torch.cat([part(counts, stained, has_rna) for part in self.parts], dim=1)
        return {"latent": latent, "logits": module.head(latent) + wide, "seen": seen}

    @torch.inference_mode()
    def predict(
        self, counts: SparseCounts, measured: Tensor | None = None, **extra: Any
    ) -> dict[str, Tensor]:
        """Return the output of the module's ``predict`` and ``seen``; inputs as in `inference`."""
        found = self.inference(counts, measured, **extra)
        classified: dict[str, Tensor] = self.module.classify(found["latent"], found["logits"])
        return classified | {"seen": found["seen"]}


class _Folded:
    """Folded weights of one backbone, for the channels that differ between cells."""

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
        n_values = 3 if raster.channels == "rgb" else 1  # equal channels act as one
        place, pixel = find(raster.pixel)
        mask = torch.zeros_like(bias)
        if raster.channels == "masked":
            mask.index_add_(0, place, weight[place, 1, pixel] * measured.unsqueeze(1))
        # Scale and shift of the normalisation; if adapted, one row per batch.
        self.adapted = None if isinstance(norm, BatchNorm1d) else norm
        frozen = FrozenNorm(norm) if self.adapted is None else None
        scale, shift = (frozen.scale, frozen.shift) if frozen else (1.0, 0.0)
        self.table = None if self.adapted is None else [x.detach() for x in self.adapted.affine()]
        self.n_places, self.place = n_places, place.int()
        self.weight = (weight[place, :n_values, pixel].sum(1) * scale).contiguous()
        if stain:
            self.protein_place, pixel = find(stain.raster.pixel)
            self.protein_weight = weight[self.protein_place, -2:, pixel] * scale
        self.mask = (mask * scale).reshape(1, -1)
        self.constant = ((bias + mask) * scale + shift).reshape(1, -1)
        inputs: Any = dense.weight.detach().T
        if n_places > 1:  # from the order (filter, patch) to (patch, filter)
            inputs = inputs.unflatten(0, (-1, n_places)).transpose(0, 1).flatten(0, 1)
        self.after = self.constant @ inputs
        self.dense = inputs.T.contiguous()
        has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        if self.dense.is_cpu and torch.get_float32_matmul_precision() == "medium":
            self.dense = self.dense.bfloat16()
        elif self.dense.is_cpu and has_onednn:
            self.dense = self.dense.to_mkldnn()

    def __call__(self, counts: SparseCounts, stained: Any, has_rna: Tensor | None) -> Tensor:
        n_cells = len(counts)
        step = CACHED_VALUES // self.constant.shape[1] if self.constant.is_cpu else n_cells
        step, parts = max(step, 1), []
        bags = counts.grouped(self.place, self.n_places) if self.n_places > 1 else counts
        for start in range(0, max(n_cells, 1), step):
            rows = slice(start, min(start + step, n_cells))
            part = bags.rows(rows.start * self.n_places, rows.stop * self.n_places)
            parts.append(self._product(self._hidden(part, rows, stained, has_rna)))
        latent: Tensor = self.norm(torch.cat(parts) + self.after).relu_()
        return latent

    def _product(self, hidden: Tensor) -> Tensor:
        """Multiply by the weights of the dense layer."""
        if not self.dense.is_mkldnn:
            return functional.linear(hidden.to(self.dense.dtype), self.dense).float()
        packed: Any = hidden.to_mkldnn()  # up to twice as fast as the default product
        return functional.linear(packed, self.dense).to_dense()

    def _hidden(
        self, bags: SparseCounts, rows: slice, stained: Any, has_rna: Tensor | None
    ) -> Tensor:
        """Compute max(h, -c), which is max(0, h + c) - c with the constant c of all cells."""
        n_cells = len(bags) // self.n_places
        hidden = bags.weighted_sums(self.weight)
        by_place = hidden.view(n_cells, self.n_places, self.weight.shape[1])
        if stained is not None:
            both = torch.stack([stained.values[rows], stained.measured[rows]], dim=2)
            added = torch.einsum("ipc,pcf->ipf", both, self.protein_weight)
            by_place.index_add_(1, self.protein_place, added)
        hidden = by_place.flatten(1)
        if has_rna is not None:
            hidden -= self.mask * ~has_rna[rows].view(-1, 1).bool()
        if self.adapted is not None and self.table is not None:
            batch = self.adapted.switch.batch
            taken = [-1] * n_cells if batch is None else batch[rows]
            scale, shift = (each[taken].unsqueeze(1) for each in self.table)
            hidden += self.constant
            by_place.mul_(scale).add_(shift)
            hidden -= self.constant
        return torch.maximum(hidden, -self.constant, out=hidden)

"""What the held-out cells say about confidence: conformal scores, and what is usual."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS

from hdeepinsight.annotation import (
    Annotation,
    Calibration,
    FeatureCells,
    NoveltyDetector,
    calibrate,
)
from hdeepinsight.models.schdeepinsight._base import ReferenceModel
from hdeepinsight.models.schdeepinsight._reference import stratified_sample
from hdeepinsight.nn import fit_temperatures
from hdeepinsight.taxonomy import TreeAlgebra

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from hdeepinsight.models.schdeepinsight._batches import ReferenceBatches, SparseBatches

SOURCE = "held-out reference cells"
REFERENCE_CELLS = 20_000
CONFORMAL_CELLS = 20_000
VIEWED_CELLS = 4_000
TEMPERATURE_DEPTHS = (1.0, 0.5, 0.25)
VIEW_DEPTHS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.15)
"""Shares of their counts that held-out cells keep, to learn what is usual at lower depths."""


class CalibrationMixin(ReferenceModel):
    """Calibration cells and a novelty detector, which travel with the model."""

    calibration_: Calibration | None = None
    novelty_detector_: NoveltyDetector | None = None

    @property
    def calibration(self) -> Calibration | None:
        """Conformal scores of the held-out cells; ``None`` where none were held out."""
        return self.calibration_

    @property
    def novelty_detector(self) -> NoveltyDetector | None:
        """What is usual for cells of the reference; ``None`` where none were held out."""
        return self.novelty_detector_

    def _fit_temperatures(self, batches: ReferenceBatches) -> None:
        """Fit one temperature a level on the held-out cells, whole and thinned.

        Held-out cells resemble the training cells more than a query does: where nearly all of them
        are right, they alone would make the model surer than any other study bears out.
        """
        self.module.eval()
        self.module.temperature.fill_(1.0)
        logits, nodes = [], []
        with torch.inference_mode():
            for share in TEMPERATURE_DEPTHS:
                for batch in self._thinned(batches.val_dataloader(), share):
                    inputs = self.module._get_inference_input(batch)
                    logits.append(self.module.inference(**inputs)["logits"].cpu())
                    nodes.append(batch[REGISTRY_KEYS.LABELS_KEY])
        tree = TreeAlgebra(self.taxonomy)  # on the CPU, wherever the network is
        temperature = fit_temperatures(tree, torch.cat(logits), torch.cat(nodes))
        self.module.temperature.copy_(temperature)

    def _fit_confidence(self, batches: ReferenceBatches) -> None:
        """Score the held-out cells, with the temperatures that are in place."""
        self.module.eval()
        rng = np.random.default_rng(self.seed)
        # Drawn blindly: conformal promises hold for cells of the same mixture of types.
        held_out = rng.permutation(batches.val_idx)[:CONFORMAL_CELLS]
        reference = batches.train_idx
        if len(reference) > REFERENCE_CELLS:
            rows = stratified_sample(batches.cell_nodes[reference], REFERENCE_CELLS, rng)
            reference = reference[rows]
        self.calibration_ = self._conformal_scores(
            batches.in_order(held_out), batches.cell_nodes[held_out]
        )
        self.novelty_detector_ = NoveltyDetector.fit(
            self.taxonomy,
            self._features(batches.in_order(reference)),
            batches.cell_nodes[reference],
            self._thinned_features(batches.in_order(held_out[:VIEWED_CELLS])),
        )

    def _conformal_scores(self, batches: SparseBatches, nodes: np.ndarray) -> Calibration | None:
        if not (nodes > 0).any():
            return None
        parts = [as_array(part["probabilities"]) for part in self._predict_batches(batches)]
        annotation = Annotation(
            taxonomy=self.taxonomy,
            obs_names=pd.RangeIndex(len(nodes)),
            node_probabilities=np.concatenate(parts),
        )
        return calibrate(annotation, nodes, source=SOURCE)

    def _thinned_features(self, batches: SparseBatches) -> FeatureCells:
        views = [self._features(batches, share) for share in VIEW_DEPTHS]
        return FeatureCells(*(np.concatenate(part) for part in zip(*views, strict=True)))

    def _features(self, batches: SparseBatches, share: float = 1.0) -> FeatureCells:
        parts = list(self._predict_batches(batches, share))
        columns = [[as_array(part[name]) for part in parts] for name in FeatureCells._fields]
        return FeatureCells(*(np.concatenate(column) for column in columns))

    def _predict_batches(
        self, batches: SparseBatches, share: float = 1.0
    ) -> Iterator[dict[str, Tensor]]:
        """Run cells that keep a share of their counts through the network."""
        with torch.inference_mode():
            for batch in self._thinned(batches, share):
                inputs = self.module._get_inference_input(batch)
                inputs.pop("nodes")
                yield self.module.predict(**{k: v for k, v in inputs.items() if v is not None})

    def _thinned(self, batches: SparseBatches, share: float) -> Iterator[dict[str, Tensor]]:
        """Mini-batches whose cells keep a share of their counts."""
        generator = torch.Generator().manual_seed(self.seed)
        for batch in batches:
            if share == 1.0:
                yield batch
                continue
            counts = batch[REGISTRY_KEYS.X_KEY].round()
            kept = torch.binomial(counts, torch.full_like(counts, share), generator)
            yield {**batch, REGISTRY_KEYS.X_KEY: kept}

    def _confidence_payload(self) -> dict[str, Any]:
        """Calibration and detector in plain types, for the model file."""
        return {
            "calibration_": self.calibration_ and self.calibration_.to_dict(),
            "novelty_detector_": self.novelty_detector_ and self.novelty_detector_.to_dict(),
        }

    def _restore_confidence(self, attributes: Mapping[str, Any]) -> None:
        """Set what :meth:`_confidence_payload` gave; models saved before have neither."""
        calibration = attributes.get("calibration_")
        detector = attributes.get("novelty_detector_")
        self.calibration_ = calibration and Calibration.from_dict(calibration, self.taxonomy)
        self.novelty_detector_ = detector and NoveltyDetector.from_dict(detector)


def as_array(tensor: Tensor) -> np.ndarray:
    """Tensor as an array in memory, half precision raised to single."""
    return np.asarray(tensor.float().cpu().numpy())

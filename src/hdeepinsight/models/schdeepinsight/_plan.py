"""How the network is optimised, and what is logged on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from scvi import REGISTRY_KEYS
from torch import Tensor

from hdeepinsight.annotation import level_calibration
from hdeepinsight.taxonomy import level_scores

if TYPE_CHECKING:
    from hdeepinsight.models.schdeepinsight._module import GeneImageClassifier
    from hdeepinsight.taxonomy import Taxonomy

WARM_UP = 0.15


class HierarchicalTrainingPlan(pl.LightningModule):  # type: ignore[misc]
    """AdamW with a one-cycle learning rate, gene masking, and metrics for every level.

    Parameters
    ----------
    module
        The network.
    taxonomy
        Names the levels in the log.
    max_lr
        Peak of the learning rate.
    weight_decay
        Decoupled weight decay of all weight matrices.
    """

    def __init__(
        self,
        module: GeneImageClassifier,
        taxonomy: Taxonomy,
        *,
        max_lr: float = 1e-3,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__()
        self.module = module
        self.taxonomy = taxonomy
        self.max_lr = max_lr
        self.weight_decay = weight_decay
        self._held_out: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """One mini-batch with randomly masked genes."""
        counts = batch[REGISTRY_KEYS.X_KEY]
        n_cells, n_genes = counts.shape
        measured = self.module.masking.sample(n_cells, n_genes, counts.device)
        batch = {**batch, "measured": measured}
        if self.module.proteins is not None:
            batch = self.module.proteins.hide(batch)
        *_, loss = self.module(batch)
        self.log(
            "train_loss",
            loss.loss,
            on_epoch=True,
            on_step=False,
            prog_bar=True,
            batch_size=len(counts),
        )
        total: Tensor = loss.loss
        return total

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Collect the predictions of held-out cells, with all their genes."""
        _, generative, _ = self.module(batch)
        self._held_out.append((generative["conditional"].float(), batch[REGISTRY_KEYS.LABELS_KEY]))

    def on_validation_epoch_end(self) -> None:
        """Log the loss and every level's metrics, and adapt the weights of the levels."""
        conditional = torch.cat([part for part, _ in self._held_out])
        nodes = torch.cat([part for _, part in self._held_out])
        self._held_out.clear()
        per_level = self.module.objective.per_level(conditional, nodes)
        self.module.objective.update_level_weights(per_level)
        metrics = level_metrics(self.taxonomy, self.module.tree.node_log_probs(conditional), nodes)
        weights = self.module.objective.level_weights
        for level, name in enumerate(self.taxonomy.level_names):
            metrics[f"level_weight_{name}"] = float(weights[level])
        # Uniform over levels, whatever the weights are now, so that epochs can be compared.
        self.log("validation_loss", per_level.mean(), prog_bar=True)
        self.log_dict(metrics)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW; biases and normalisation parameters are not decayed."""
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.max_lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.max_lr,
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=WARM_UP,
            div_factor=10.0,
            final_div_factor=100.0,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def level_metrics(taxonomy: Taxonomy, log_probs: Tensor, nodes: Tensor) -> dict[str, float]:
    """Accuracy, macro-F1 and calibration error of every level.

    Parameters
    ----------
    taxonomy
        The tree.
    log_probs
        Log-probability of every node, shape ``(n_cells, n_nodes)``.
    nodes
        Node of every cell's label, shape ``(n_cells,)``.

    Returns
    -------
    ``accuracy_<level>``, ``macro_f1_<level>``, ``ece_<level>`` on cells labelled at least that
    deep, and ``log_loss``, the mean negative log-probability of the labels.
    """
    probabilities = log_probs.exp().cpu().numpy()
    truth = nodes.cpu().numpy()
    leaves = np.asarray(taxonomy.leaves)
    predicted = leaves[probabilities[:, leaves].argmax(axis=1)]
    scores = level_scores(taxonomy, truth, predicted)
    metrics = {"log_loss": float(-log_probs.gather(1, nodes.unsqueeze(1)).mean())}
    errors = level_calibration(taxonomy, probabilities, truth, predicted)
    for (name, row), error in zip(scores.iterrows(), errors, strict=True):
        metrics[f"accuracy_{name}"] = float(row["accuracy"])
        metrics[f"macro_f1_{name}"] = float(row["macro_f1"])
        metrics[f"ece_{name}"] = error
    return metrics

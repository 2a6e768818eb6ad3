"""Training plans: optimiser, learning rate schedule, losses and logged metrics."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import BaseModuleClass
from scvi.train import TrainingPlan
from torch import Tensor, distributed
from torch.nn import Parameter
from torch.optim.lr_scheduler import OneCycleLR

from hdeepinsight._errors import check_number, invalid
from hdeepinsight.annotation import level_metrics
from hdeepinsight.models._base._setup import PANEL_KEY
from hdeepinsight.models._base._training import check_finite
from hdeepinsight.taxonomy import Taxonomy

#: Further arguments of a training plan, and settings for the recipe.
Prepared: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
#: One-cycle schedule: the learning rate rises in 15 % of the steps, then falls to lr / 1,000.
ONE_CYCLE: dict[str, Any] = {"pct_start": 0.15, "div_factor": 10.0, "final_div_factor": 100.0}


class OneCyclePlan(TrainingPlan):  # type: ignore[misc]
    """Training plan with AdamW and a one-cycle learning rate.

    Parameters
    ----------
    module
        Module to train.
    lr
        Peak of the learning rate.
    weight_decay
        Decoupled weight decay of weight matrices; biases and normalisation are not decayed.
    **others
        Other options of :class:`scvi.train.TrainingPlan`; they have no effect and raise an error.

    Raises
    ------
    TypeError
        If another option is given.
    ValueError
        If ``lr`` or ``weight_decay`` is out of range.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> from hdeepinsight.models import OneCyclePlan
    >>> OneCyclePlan(hdi.hub.pull("pbmc").module, lr=1e-3).weight_decay
    0.0001
    """

    def __init__(
        self,
        module: BaseModuleClass,
        *,
        lr: float = 2e-3,
        weight_decay: float = 1e-4,
        **others: Any,
    ) -> None:
        if others:
            msg = f"plan_kwargs must be lr or weight_decay, got {', '.join(others)}, which has no"
            raise TypeError(f"{msg} effect with a one-cycle learning rate. Omit it.")
        is_number = isinstance(lr, int | float | np.number) and not isinstance(lr, bool)
        if not (is_number and 0 < lr < np.inf):
            raise invalid("lr", lr, "a number > 0", "Omit it to use the default.")
        check_number("weight_decay", weight_decay, hint="Pass 0 to switch it off.")
        super().__init__(module, optimizer="AdamW", lr=float(lr), weight_decay=float(weight_decay))

    def rates(self) -> dict[float, list[Parameter]]:
        """Return the trainable parameters, grouped by their factor of the learning rate."""
        return {1.0: [p for p in self.module.parameters() if p.requires_grad]}

    def configure_optimizers(self) -> dict[str, Any]:
        """Return AdamW and the one-cycle schedule over all training steps."""
        groups = [
            {"params": some, "weight_decay": decay, "lr": share * self.lr}
            for share, parameters in self.rates().items()
            for some, decay in (
                ([p for p in parameters if p.ndim > 1], self.weight_decay),
                ([p for p in parameters if p.ndim <= 1], 0.0),
            )
        ]
        # The fused optimiser is faster, but half precision with gradient clipping excludes it.
        fused = self.device.type in ("cpu", "cuda") and not self.trainer.gradient_clip_val
        optimizer = torch.optim.AdamW(groups, lr=self.lr, fused=fused)
        peaks = [group["lr"] for group in groups]
        n_steps = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = OneCycleLR(optimizer, max_lr=peaks, total_steps=n_steps, **ONE_CYCLE)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @torch.no_grad()
    def compute_and_log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Log metrics outside of inference mode, whose tensors processes cannot average."""
        TrainingPlan.compute_and_log_metrics.__wrapped__(self, *args, **kwargs)


class HierarchicalPlan(OneCyclePlan):
    """Training plan of a hierarchical classifier, with validation metrics for each level.

    Parameters
    ----------
    module
        Module to train; its ``augment`` thins counts and masks genes.
    taxonomy
        Taxonomy of the cell types, which names the levels in the log.
    node_of_code
        Node of each label code that the loader returns, shape ``(n_codes,)``.
    columns
        Columns of the loader's matrix that the network reads; all columns by default.
    unseen_by
        Ensemble member from which the labels of a code are withheld, -1 for none, shape
        ``(n_codes,)``; see :func:`~hdeepinsight.data.deal_out`.
    panels
        Whether each gene panel of the reference has each gene, shape ``(n_panels, n_genes)``; by
        default all genes were measured.
    **kwargs
        Passed to :class:`OneCyclePlan`.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import numpy as np
    >>> from hdeepinsight.models import HierarchicalPlan
    >>> model = hdi.hub.pull("pbmc")
    >>> nodes = np.arange(model.taxonomy.n_nodes)  # label codes are nodes
    >>> HierarchicalPlan(model.module, model.taxonomy, nodes).lr
    0.002
    """

    def __init__(
        self,
        module: BaseModuleClass,
        taxonomy: Taxonomy,
        node_of_code: np.ndarray,
        columns: np.ndarray | None = None,
        unseen_by: np.ndarray | None = None,
        panels: np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(module, **kwargs)
        self.taxonomy = taxonomy
        tables = {"node_of_code": node_of_code, "columns": columns, "unseen_by": unseen_by}
        tables |= {"panels": None if panels is None else panels.astype(np.float32)}
        for name, table in tables.items():
            tensor = None if table is None else torch.tensor(table)
            self.register_buffer(name, tensor, persistent=False)
        self._held_out: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the loss of an augmented mini-batch."""
        inputs = self.module.augment(self._inputs(batch))
        *_, loss = self.module(inputs)
        total: Tensor = loss.loss
        how: Any = {"batch_size": loss.n_obs_minibatch, "sync_dist": self.use_sync_dist}
        self.log("train_loss", total, on_epoch=True, on_step=False, prog_bar=True, **how)
        return total

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Predict held-out cells without augmentation."""
        inputs = self._inputs(batch)
        _, generative, _ = self.module(inputs)
        nodes = inputs[REGISTRY_KEYS.LABELS_KEY]
        self._held_out.append((generative["conditional"].float(), nodes))

    def on_validation_epoch_end(self) -> None:
        """Log the loss and the metrics of each level, and update the level weights."""
        check_finite(self.module)
        conditional, nodes = (torch.cat(parts) for parts in zip(*self._held_out, strict=True))
        self._held_out.clear()
        if distributed.is_available() and distributed.is_initialized():
            conditional, nodes = _gathered(conditional), _gathered(nodes)
        per_level = self.module.objective.per_level(conditional, nodes)
        self.module.objective.update_level_weights(per_level)
        log_probs = self.module.tree.node_log_probs(conditional)
        metrics = level_metrics(self.taxonomy, log_probs.cpu().numpy(), nodes.cpu().numpy())
        weights = self.module.objective.level_weights.tolist()
        for name, weight in zip(self.taxonomy.level_names, weights, strict=True):
            metrics[f"level_weight_{name}"] = weight
        # Levels have equal weight here, so that epochs can be compared.
        self.log("validation_loss", per_level.mean(), prog_bar=True, sync_dist=self.use_sync_dist)
        self.log_dict(metrics, sync_dist=self.use_sync_dist)

    def _inputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Select the genes of the network, and convert label codes to nodes."""
        counts = batch[REGISTRY_KEYS.X_KEY]
        if self.columns is not None:
            counts = counts[:, self.columns]
        codes = batch[REGISTRY_KEYS.LABELS_KEY].long().ravel()
        labels = {REGISTRY_KEYS.LABELS_KEY: self.node_of_code[codes]}
        if self.unseen_by is not None:
            labels["unseen_by"] = self.unseen_by[codes]
        if self.panels is not None:
            labels["measured"] = self.panels[batch[PANEL_KEY].long().ravel()]
        return {**batch, REGISTRY_KEYS.X_KEY: counts, **labels}


def _gathered(values: Tensor) -> Tensor:
    """Gather rows from all processes, which may have different numbers of them."""
    parts: list[Tensor | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, values.cpu())
    return torch.cat([part for part in parts if part is not None]).to(values.device)

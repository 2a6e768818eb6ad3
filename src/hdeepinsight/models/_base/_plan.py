"""How networks are optimised, and what is logged on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from scvi.train import TrainingPlan
from torch import Tensor, distributed
from torch.nn import Parameter
from torch.optim.lr_scheduler import OneCycleLR

from hdeepinsight._errors import check_number, invalid
from hdeepinsight.annotation import level_metrics
from hdeepinsight.models._base._training import check_finite

if TYPE_CHECKING:
    from scvi.module.base import BaseModuleClass

    from hdeepinsight.adaptation import QueryCells
    from hdeepinsight.taxonomy import Taxonomy

#: Further arguments of a training plan, and settings to write down.
Prepared: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
#: Shape of the learning rate: 15 % of the steps rise to the peak, the rest fall to almost nothing.
ONE_CYCLE: dict[str, Any] = {"pct_start": 0.15, "div_factor": 10.0, "final_div_factor": 100.0}


class OneCyclePlan(TrainingPlan):  # type: ignore[misc]
    """Train with AdamW under a one-cycle learning rate.

    Parameters
    ----------
    module
        The network.
    lr
        Peak of the learning rate.
    weight_decay
        Decoupled weight decay of all weight matrices; biases and normalisation are not decayed.
    **others
        Options of :class:`scvi.train.TrainingPlan` that have no effect under this schedule, and
        are refused.

    Raises
    ------
    TypeError
        If another option is given.
    ValueError
        If a rate is out of its range.

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
            msg = f"plan_kwargs takes lr and weight_decay, got {', '.join(others)}: no effect under"
            raise TypeError(f"{msg} a one-cycle learning rate. Omit it.")
        if not (isinstance(lr, int | float | np.number) and lr > 0):
            raise invalid("lr", lr, "a number > 0", "Omit it to use the default.")
        check_number("weight_decay", weight_decay, hint="Pass 0 to switch it off.")
        super().__init__(module, optimizer="AdamW", lr=float(lr), weight_decay=float(weight_decay))

    def rates(self) -> dict[float, list[Parameter]]:
        """Return what is trained by the share of the learning rate that it is trained at."""
        return {1.0: [p for p in self.module.parameters() if p.requires_grad]}

    def configure_optimizers(self) -> dict[str, Any]:
        """Return AdamW and the one-cycle schedule over all steps of the training."""
        groups = [
            {"params": some, "weight_decay": decay, "lr": share * self.lr}
            for share, parameters in self.rates().items()
            for some, decay in (
                ([p for p in parameters if p.ndim > 1], self.weight_decay),
                ([p for p in parameters if p.ndim <= 1], 0.0),
            )
        ]
        # One pass over the weights; under clipping, half precision needs it step by step.
        fused = self.device.type in ("cpu", "cuda") and not self.trainer.gradient_clip_val
        optimizer = torch.optim.AdamW(groups, lr=self.lr, fused=fused)
        peaks = [group["lr"] for group in groups]
        n_steps = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = OneCycleLR(optimizer, max_lr=peaks, total_steps=n_steps, **ONE_CYCLE)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class HierarchicalPlan(OneCyclePlan):
    """Train a hierarchical classifier, with metrics of every level on held-out cells.

    Parameters
    ----------
    module
        The network; its ``augment`` makes training cells shallower and hides genes.
    taxonomy
        Names the levels in the log.
    node_of_code
        Node of every label code that the loader gives.
    columns
        Columns of the loader's matrix that the network reads; all of them by default.
    unseen_by
        Member of the network that must not see the labels of a code, -1 for none; see
        :func:`~hdeepinsight.data.deal_out`.
    query, measured
        Cells of a query with the probabilities of their nodes (``soft_labels``), of which as many
        join every mini-batch, and 1 for the genes that they have, shape ``(n_genes,)``.
    **kwargs
        As in :class:`OneCyclePlan`.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import numpy as np
    >>> from hdeepinsight.models import HierarchicalPlan
    >>> model = hdi.hub.pull("pbmc")
    >>> nodes = np.arange(model.taxonomy.n_nodes)  # loaders that give nodes themselves
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
        query: QueryCells | None = None,
        measured: np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(module, **kwargs)
        self.taxonomy, self.query = taxonomy, query
        tables = {"node_of_code": node_of_code, "columns": columns}
        tables |= {"unseen_by": unseen_by, "measured": measured}
        for name, table in tables.items():
            tensor = None if table is None else torch.tensor(table)
            self.register_buffer(name, tensor, persistent=False)
        self._held_out: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a mini-batch of augmented cells."""
        inputs = self._inputs(batch)
        if self.query is not None:
            inputs = self._with_query(inputs, self.query)
        inputs = self.module.augment(inputs)
        *_, loss = self.module(inputs)
        total: Tensor = loss.loss
        self.log(
            "train_loss",
            total,
            on_epoch=True,
            on_step=False,
            prog_bar=True,
            batch_size=loss.n_obs_minibatch,
            sync_dist=self.use_sync_dist,
        )
        return total

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Collect the predictions for held-out cells, with all their genes and counts."""
        inputs = self._inputs(batch)
        _, generative, _ = self.module(inputs)
        nodes = inputs[REGISTRY_KEYS.LABELS_KEY]
        self._held_out.append((generative["conditional"].float(), nodes))

    def on_validation_epoch_end(self) -> None:
        """Log the loss and every level's metrics, and adapt the weights of the levels."""
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
        # Uniform over levels, whatever the weights are now, so that epochs can be compared.
        self.log("validation_loss", per_level.mean(), prog_bar=True, sync_dist=self.use_sync_dist)
        self.log_dict(metrics, sync_dist=self.use_sync_dist)

    def _inputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the loader's mini-batch with the network's genes, and nodes for label codes."""
        counts = batch[REGISTRY_KEYS.X_KEY]
        if self.columns is not None:
            counts = counts[:, self.columns]
        codes = batch[REGISTRY_KEYS.LABELS_KEY].long().ravel()
        labels = {REGISTRY_KEYS.LABELS_KEY: self.node_of_code[codes]}
        if self.unseen_by is not None:
            labels["unseen_by"] = self.unseen_by[codes]
        return {**batch, REGISTRY_KEYS.X_KEY: counts, **labels}

    def _with_query(self, inputs: dict[str, Tensor], query: QueryCells) -> dict[str, Tensor]:
        """Return a mini-batch with as many cells of the query; all of them have soft labels."""
        nodes, counts = inputs[REGISTRY_KEYS.LABELS_KEY], inputs[REGISTRY_KEYS.X_KEY]
        on_path = self.module.tree.node_at_level[nodes].clamp_min(0)
        paths = counts.new_zeros(len(nodes), self.taxonomy.n_nodes).scatter(1, on_path, 1.0)
        inputs = {**inputs, "measured": torch.ones_like(counts), "soft_labels": paths[:, 1:]}
        cells = query[torch.randint(len(query), nodes.shape).numpy()]
        found = cells.tensors(self.measured)
        found[REGISTRY_KEYS.X_KEY] = found.pop("counts")
        found[REGISTRY_KEYS.LABELS_KEY] = torch.as_tensor(cells.nodes).to(nodes)
        found["measured"] = found["measured"].expand_as(counts)
        if "unseen_by" in inputs:
            found["unseen_by"] = torch.full_like(nodes, -1)
        return {
            name: torch.cat([values, found.get(name, torch.zeros_like(values))])
            for name, values in inputs.items()
        }


def _gathered(values: Tensor) -> Tensor:
    """Return the rows of all processes, whose numbers may differ."""
    parts: list[Tensor | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, values.cpu())
    return torch.cat([part for part in parts if part is not None]).to(values.device)

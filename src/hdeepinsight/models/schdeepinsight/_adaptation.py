"""How a network adapts to a query: statistics first, then training on two opinions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from hdeepinsight.models.schdeepinsight._adaptation_cells import CELLS, Cells, chunks, dense
from hdeepinsight.nn import (
    AdapterSwitch,
    CountThinning,
    GeneMasking,
    HeadAdapter,
    LeafProfiles,
    MovingAverage,
    NormAdapter,
    ProfileMatcher,
    Targets,
    balance_classes,
    covered_share,
    record_moments,
    restrict_to_labels,
    select_targets,
    soft_cross_entropy,
    wrap_norms,
)

if TYPE_CHECKING:
    from hdeepinsight.models.schdeepinsight._module import GeneImageClassifier

TRUSTED_CELLS = 100
WARM_UP_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class AdaptationOptions:
    """How far, how fast and how long; defaults were chosen on pairs of studies kept for that.

    Parameters
    ----------
    max_steps
        Steps of the optimiser; 0 adapts the normalisation and adds the second opinion only.
    batch_size
        Most query cells a step, and as many of the reference where there is one.
    statistics
        How far the statistics of the normalisations go from the reference's to a large batch's.
    adapter_lr, network_lr
        Learning rates of the adapters, and of whatever is unfrozen.
    refresh
        Steps between two new sets of targets by the teacher.
    threshold
        Probability from which a cell takes part, or the median of its class.
    max_mask_rate
        Most genes hidden from the student.
    max_cells
        Most query cells that an adaptation reads, drawn evenly from the batches. In its steps the
        optimiser sees 12,800; the figures of the guard settle long before 20,000.
    """

    max_steps: int = 200
    batch_size: int = 64
    statistics: float = 0.5
    adapter_lr: float = 2e-3
    network_lr: float = 3e-4
    weight_decay: float = 1e-4
    refresh: int = 50
    threshold: float = 0.5
    max_mask_rate: float = 0.5
    max_cells: int = 20_000

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_size", "refresh", "max_cells"):
            value, least = getattr(self, name), int(name != "max_steps")
            whole = f"a whole number from {least} up"
            _require(name, value, value >= least and value == int(value), whole)
        for name in ("statistics", "threshold", "max_mask_rate"):
            value = getattr(self, name)
            _require(name, value, 0 <= value <= 1, "a number from 0 to 1")
        for name in ("adapter_lr", "network_lr", "weight_decay"):
            value = getattr(self, name)
            _require(name, value, value >= 0, "a number from 0 up")

    def to_dict(self) -> dict[str, float]:
        """Plain types, for the model file."""
        return asdict(self)


def _require(name: str, value: float, holds: bool, valid: str) -> None:
    if not holds:
        msg = f"{name}={value}; valid is {valid}. Change it, or leave it out for the default."
        raise ValueError(msg)


class Adaptation:
    """A network with adapters around it, and everything to train them.

    Parameters
    ----------
    module
        The network; adapters are put into it, in place.
    profiles
        Mean profiles of the reference.
    trust
        How far each batch may go, from 0 to 1.
    freeze_backbone, freeze_head
        Keep the weights of the reference; the adapters learn in any case.
    """

    def __init__(
        self,
        module: GeneImageClassifier,
        profiles: LeafProfiles,
        trust: list[float],
        *,
        freeze_backbone: bool = True,
        freeze_head: bool = True,
    ) -> None:
        self.module, self.profiles, self.trust = module, profiles, list(trust)
        self.switch = AdapterSwitch()
        share = torch.tensor(trust, device=module.temperature.device)
        self.norms: list[NormAdapter] = []
        self.head: HeadAdapter | None = None
        backbone, head = module.backbone, module.head
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        for part, frozen in ((backbone, freeze_backbone), (head, freeze_head)):
            for parameter in part.parameters() if part is not None else ():
                parameter.requires_grad_(not frozen)
        self.unfrozen = [p for p in module.parameters() if p.requires_grad]
        if backbone is not None and head is not None:
            self.norms = wrap_norms(backbone, share, self.switch)
            n_edges = module.tree.taxonomy.n_edges
            self.head = HeadAdapter(head, backbone.n_latent, n_edges, share, self.switch)
            module.head = self.head

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.module.temperature.device

    def adapter_parameters(self) -> list[nn.Parameter]:
        """Return what is trained beside whatever was unfrozen."""
        parameters = [p for norm in self.norms for p in (norm.scale, norm.shift)]
        return parameters + (list(self.head.correction.parameters()) if self.head else [])

    def matcher(self, measured: Tensor, *, skip: int = 0) -> ProfileMatcher:
        """Return the second opinion for a query with these genes."""
        return ProfileMatcher(self.profiles, measured.cpu(), skip=skip).to(self.device)

    @torch.no_grad()
    def network_opinion(
        self, cells: Cells, measured: Tensor, *, adapted: bool = True, replay: bool = False
    ) -> Tensor:
        """Calibrated leaf probabilities by the network, shape ``(n_cells, n_leaves)``."""
        self.module.eval()
        parts = []
        for rows, counts in chunks(cells.counts, self.device):
            with self._mode(cells.batch[rows] if adapted else None, replay=replay):
                inputs = {"measured": measured} | cells.extra(rows, self.device)
                found = self.module.predict(counts, **inputs)["probabilities"]
            parts.append(found[:, self.module.tree.leaf_index])
        return torch.cat(parts)

    @torch.no_grad()
    def profile_opinion(
        self, cells: Cells, measured: Tensor, network: Tensor, *, skip: int = 0
    ) -> Tensor:
        """Leaf probabilities by resemblance; the network's where there is nothing to resemble."""
        matcher = self.matcher(measured, skip=skip)
        if not matcher.is_useful:
            return network
        parts = [matcher(counts).exp() for _, counts in chunks(cells.counts, self.device)]
        found = fill_unknown(torch.cat(parts), network, matcher.known)
        return torch.where(cells.has_rna.to(self.device).unsqueeze(1), found, network)

    def adapt_statistics(
        self, cells: Cells, measured: Tensor, belief: Tensor, options: AdaptationOptions
    ) -> None:
        """Move each batch's statistics, its classes weighed as in the reference.

        Classes weigh alike on both sides, so that what differs is the expression of a class and
        not how many cells it has.
        """
        shares = self.profiles.shares.to(self.device)
        for batch in range(len(self.trust) if self.norms else 0):
            rows = np.flatnonzero(cells.batch == batch)
            share = covered_share(belief[rows], shares) * self.trust[batch]
            weights = balance_classes(belief[rows], shares)
            with record_moments(self.norms) as (moments, told), torch.no_grad():
                for start in range(0, len(rows), CELLS):
                    some = rows[start : start + CELLS]
                    told.weights = weights[start : start + CELLS]
                    counts = dense(cells.counts[some], self.device)
                    inputs = {"measured": measured} | cells.extra(some, self.device)
                    self.module.eval()
                    self.module.inference(counts, **inputs)
            for norm, found in zip(self.norms, moments, strict=True):
                norm.blend(batch, found, options.statistics * share)

    def train(
        self,
        cells: Cells,
        measured: Tensor,
        profile: Tensor,
        options: AdaptationOptions,
        *,
        reference: Cells | None = None,
        thinning: CountThinning | None = None,
        seed: int = 0,
    ) -> list[float]:
        """Train on the mean of both opinions, and replay the reference where it is given.

        Returns
        -------
        Loss of every step.
        """
        parameters = [*self.adapter_parameters(), *self.unfrozen]
        if not parameters or not options.max_steps:
            return []
        teacher = MovingAverage(parameters)
        optimizer, schedule = self._optimizer(options)
        rng, draw = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        queries = endless(len(cells), options.batch_size, rng)
        replays = endless(len(reference), options.batch_size, rng) if reference else None
        student = Student(self.module, measured, thinning or CountThinning(), rng, draw)
        losses = []
        for step in range(options.max_steps):
            if step % options.refresh == 0:
                with teacher.in_place():
                    targets = self.targets(cells, measured, profile, options)
            rows = next(queries)
            with self._mode(cells.batch[rows]):
                log_probs = student.see(cells, rows, options.max_mask_rate)
                part = Targets(*(values[rows] for values in targets))
                loss = soft_cross_entropy(log_probs[:, self.module.tree.leaf_index], part)
                torch.autograd.backward(loss)
            if reference is not None and replays is not None:
                loss = loss + self._replay(reference, next(replays), student)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            teacher.update()
            losses.append(float(loss.detach()))
        return losses

    def targets(
        self, cells: Cells, measured: Tensor, profile: Tensor, options: AdaptationOptions
    ) -> Targets:
        """Mean of both opinions, within what labels allow."""
        belief = (self.network_opinion(cells, measured) + profile) / 2
        nodes = torch.as_tensor(cells.nodes, device=self.device)
        allowed = self.leaves_under()[nodes]
        targets = select_targets(restrict_to_labels(belief, allowed), threshold=options.threshold)
        labelled = (nodes > 0).to(targets.weights)
        return Targets(targets.probabilities, torch.maximum(targets.weights, labelled))

    def _replay(self, reference: Cells, rows: np.ndarray, student: Student) -> Tensor:
        """Loss of reference cells with the query's genes and the query's adapters."""
        n_batches = len(self.trust)
        batch = student.rng.integers(0, n_batches, len(rows))
        with self._mode(batch, replay=True):
            log_probs = student.see(reference, rows, None, conditional=True)
            nodes = torch.as_tensor(reference.nodes[rows], device=self.device)
            total: Tensor = self.module.objective(log_probs, nodes).total
            torch.autograd.backward(total)
        return total.detach()

    def leaves_under(self) -> Tensor:
        """Whether each leaf is under each node, shape ``(n_nodes, n_leaves)``."""
        tree = self.module.tree
        under = torch.zeros(tree.taxonomy.n_nodes, len(tree.leaf_index), dtype=torch.bool)
        under[0] = True
        paths = tree.node_at_level[tree.leaf_index].cpu()
        for leaf, path in enumerate(paths):
            under[path[path > 0], leaf] = True
        return under.to(self.device)

    @contextmanager
    def _mode(self, batch: np.ndarray | None, *, replay: bool = False) -> Iterator[None]:
        if batch is None:
            yield
            return
        rows = torch.as_tensor(batch, dtype=torch.int64, device=self.device)
        with self.switch.using(rows, replay=replay):
            yield

    def _optimizer(self, options: AdaptationOptions) -> tuple[Any, Any]:
        groups = [
            {"params": self.adapter_parameters(), "lr": options.adapter_lr},
            {"params": self.unfrozen, "lr": options.network_lr},
        ]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], weight_decay=options.weight_decay
        )

        def factor(step: int) -> float:
            fall = 0.5 * (1 + np.cos(np.pi * step / options.max_steps))
            return float(min(1.0, (step + 1) / WARM_UP_STEPS) * fall)

        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


@dataclass(frozen=True, eq=False)
class Student:
    """Sees thinned cells through random masks."""

    module: GeneImageClassifier
    measured: Tensor
    thinning: CountThinning
    rng: np.random.Generator
    draw: torch.Generator

    def see(
        self, cells: Cells, rows: np.ndarray, max_rate: float | None, *, conditional: bool = False
    ) -> Tensor:
        """Log-probabilities of the nodes, or those given their parents, of worse views."""
        device = self.measured.device
        counts = dense(self.thinning.sample(cells.counts[rows], self.rng), device)
        masking = self.module.masking if max_rate is None else GeneMasking(max_rate=max_rate)
        keep = sample_mask(masking, counts.shape, self.draw).to(device)
        inputs = cells.extra(rows, device)
        inputs["measured"] = keep * inputs.get("measured", self.measured)
        logits = self.module.inference(counts, **inputs)["logits"]
        found = self.module.tree.conditional_log_probs(logits)
        return found if conditional else self.module.tree.node_log_probs(found)


def sample_mask(masking: GeneMasking, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Masks as `GeneMasking.sample` draws them, from a generator of one's own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        return masking.sample(shape[0], shape[1])


def fill_unknown(matched: Tensor, network: Tensor, known: Tensor) -> Tensor:
    """Leaves without a profile keep the network's probability, the others share the rest."""
    rest = torch.zeros_like(network).index_copy(1, known, network[:, known])
    return matched * rest.sum(dim=1, keepdim=True) + (network - rest)


def endless(n_cells: int, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Shuffled mini-batches, for ever; every cell once before any cell twice."""
    size = min(batch_size, n_cells)
    while True:
        order = rng.permutation(n_cells)
        for start in range(0, n_cells - size + 1, size):
            yield order[start : start + size]


def trust_in(n_cells: int) -> float:
    """How far a batch of so many cells may go: half the way with a hundred."""
    return n_cells / (n_cells + TRUSTED_CELLS)

"""One or two adaptations of a network, judged by the referee."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from hdeepinsight.models.schdeepinsight._adaptation import Adaptation, AdaptationOptions
from hdeepinsight.models.schdeepinsight._adaptation_guard import (
    AdaptationFigures,
    AdaptationReport,
    balanced_accuracy,
    decide,
    measure,
)
from hdeepinsight.models.schdeepinsight._adaptation_profiles import leaf_numbers, leaf_sums
from hdeepinsight.nn import profile_shift

if TYPE_CHECKING:
    from torch import Tensor

    from hdeepinsight.models.schdeepinsight._adaptation_cells import Cells
    from hdeepinsight.models.schdeepinsight._module import GeneImageClassifier
    from hdeepinsight.nn import CountThinning, LeafProfiles

REPLAYED_CELLS = 2000


@dataclass(frozen=True, eq=False, kw_only=True)
class Run:
    """Everything that an adaptation starts from.

    Parameters
    ----------
    pristine
        Network of the reference; copied, never changed.
    profiles
        Mean profiles of the reference.
    trust
        How far each batch may go.
    frozen
        Whether the backbone is, and whether the head is.
    options
        Settings of the training.
    thinning
        How the student's counts are thinned.
    seed
        Seed of everything drawn.
    agreement
        How often network and profiles agree on held-out reference cells.
    shift
        How far a batch of the reference usually is from the others.
    """

    pristine: GeneImageClassifier
    profiles: LeafProfiles
    trust: list[float]
    frozen: tuple[bool, bool]
    options: AdaptationOptions
    thinning: CountThinning
    seed: int
    agreement: float | None = None
    shift: float | None = None

    def adapt(
        self, cells: Cells, measured: Tensor, profile: Tensor, reference: Cells | None
    ) -> Adaptation:
        """Adapt a copy of the network."""
        backbone, head = self.frozen
        adaptation = Adaptation(
            copy.deepcopy(self.pristine),
            self.profiles,
            self.trust,
            freeze_backbone=backbone,
            freeze_head=head,
        )
        belief = (adaptation.network_opinion(cells, measured, adapted=False) + profile) / 2
        adaptation.adapt_statistics(cells, measured, belief, self.options)
        adaptation.train(
            cells,
            measured,
            profile,
            self.options,
            reference=reference,
            thinning=self.thinning,
            seed=self.seed,
        )
        return adaptation


@dataclass(frozen=True, eq=False)
class Outcome:
    """An adaptation, and what is to be made of it."""

    adaptation: Adaptation
    report: AdaptationReport


def best_of(
    run: Run, cells: Cells, measured: Tensor, reference: Cells | None, *, guard: bool
) -> Outcome:
    """Adapt with the reference, where it is given, and without; take what the referee prefers.

    A reference that is impure passes its faults on when it is replayed, a pure one protects:
    which of both it is shows on the query.
    """
    start = Adaptation(copy.deepcopy(run.pristine), run.profiles, run.trust)
    before = start.network_opinion(cells, measured, adapted=False)
    profile = start.profile_opinion(cells, measured, before)
    referee = start.profile_opinion(cells, measured, before, skip=1)
    found = torch.where(cells.has_rna, before.argmax(1).cpu(), -1)
    query = leaf_sums(start.module, cells.counts, found, measured).profiles()
    shift = profile_shift(query, run.profiles, measured.cpu())
    outcomes = []
    for replayed in [None] if reference is None else [None, reference]:
        adaptation = run.adapt(cells, measured, profile, replayed)
        after = (adaptation.network_opinion(cells, measured) + profile) / 2
        figures = measure(
            before,
            after,
            profile,
            referee,
            genes=float(measured.mean()),
            agreement_reference=run.agreement,
        )
        figures = replace(figures, shift_query=shift, shift_reference=run.shift)
        if reference is not None:
            figures = _with_replay(figures, start, adaptation, reference, measured, run.seed)
        decision, reason = decide(figures)
        if not guard and decision == "zero-shot":
            decision, reason = "adapted", f"the guard is off; it would have said: {reason}"
        report = AdaptationReport(
            decision=decision,
            reason=reason,
            figures=figures,
            n_cells=len(cells),
            n_batches=len(run.trust),
            n_labeled=int((cells.nodes > 0).sum()),
            used_reference=replayed is not None,
            options=run.options.to_dict(),
        )
        outcomes.append(Outcome(adaptation, report))
    return max(outcomes, key=_preference)


def _preference(outcome: Outcome) -> tuple[bool, float]:
    report = outcome.report
    return report.decision == "adapted", report.figures.agreement_after


def _with_replay(
    figures: AdaptationFigures,
    start: Adaptation,
    adaptation: Adaptation,
    reference: Cells,
    measured: Tensor,
    seed: int,
) -> AdaptationFigures:
    """Add how well reference cells are read that show the query's genes alone."""
    rows = np.random.default_rng(seed).permutation(len(reference))[:REPLAYED_CELLS]
    some = replace(
        reference,
        counts=reference.counts[rows],
        batch=np.zeros(len(rows), dtype=np.int64),
        nodes=reference.nodes[rows],
    )
    truth = leaf_numbers(start.module.tree, some.nodes).to(start.device)
    before = start.network_opinion(some, measured, adapted=False)
    after = adaptation.network_opinion(some, measured, replay=True)
    return replace(
        figures,
        replay_before=balanced_accuracy(before, truth),
        replay_after=balanced_accuracy(after, truth),
    )

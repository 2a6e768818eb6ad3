"""Label-free check of an adaptation: which label changes are applied, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from math import inf
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hdeepinsight._errors import check_choice, check_integer, check_number, counted, examples

#: Support of a label change below which it is rejected, and above which it is applied in full.
SUPPORT = (0.35, 0.45)
#: Limits of measurements of the whole query, in the same form, and the reason for a rejection.
DOUBTS = {
    "genes": ((0.0, 1e-6), "the query has none of the genes of the model"),
    "unlike": (
        (0.6, 0.4),
        "the query does not look like the reference: {:.0%} of its cells get no label, and an "
        "adaptation would force them into the types of the reference",
    ),
    "n_types": (
        (1.6, 2.0),
        "the query has little more than one type (effectively {:.1f}), so that differences "
        "between studies and between types cannot be distinguished",
    ),
    "unsupported": (
        (0.5, 0.3),
        "{:.0%} of the labels would change without joint support from network, profiles and "
        "held-out markers",
    ),
    "times_as_far": (
        (0.05, 0.15),
        "the query differs from the reference no more than cells of the same batch differ from "
        "each other ({:.2f} of the distance between batches), so that no adaptation is needed",
    ),
    "shift_query": (
        (0.35, 0.45),
        "the types of the query are hardly farther from those of the reference ({:.2f} of the "
        "distance between types) than in another batch of the same study, where adapting the "
        "network does not help",
    ),
}
#: Measurements that limit the adaptation of the network alone.
OF_NETWORK = "unsupported", "shift_query"
#: Distance below which a query is regarded as another batch of the same study.
NEAR = 0.4
#: Pseudocount of cells, and their support, which reduces the support of changes of few cells.
EXTRA_CELLS, EXTRA_SUPPORT = 5, 0.3
#: Weight of the adapted probabilities if the most probable leaf is unchanged.
SAME_LEAF = 0.5
#: Minimum distance between batches of a reference; also assumed for a single batch.
MIN_SHIFT = 0.1
MIN_GENES = 0.9
FLOOR = 1e-6
#: Number of label changes that a reason lists.
LISTED = 3

#: Former names of measurements, in the files of older releases.
OLD_NAMES = {"referee": "held_out_marker_score", "n_types_before": "n_types"}

Record = TypeVar("Record", "AdaptationFigures", "AdaptationReport")


@dataclass(frozen=True, kw_only=True)
class AdaptationOptions:
    """Options of an adaptation; the defaults were selected on separate development datasets.

    Parameters
    ----------
    max_steps
        Number of optimiser steps. With 0, the normalisation statistics are adapted and profiles are
        used, but nothing is trained.
    guard
        Apply only label changes that network, profiles and held-out markers support, and none if
        measurements of the whole query rule them out. ``False`` applies all changes.
    batch_size
        Maximum number of cells per step.
    statistics
        Weight of a large batch's statistics relative to those of the reference, from 0 to 1.
    adapter_lr
        Learning rate of the adapters.
    max_cells
        Maximum number of query cells in the adaptation, sampled evenly from the batches. By default
        the optimiser reads 12,800 cells, and measurements are stable well below 20,000.

    Raises
    ------
    ValueError
        If a value is out of range.

    Examples
    --------
    >>> AdaptationOptions(max_steps=20).batch_size
    64
    """

    max_steps: int = 200
    guard: bool = True
    batch_size: int = 64
    statistics: float = 0.5
    adapter_lr: float = 2e-3
    max_cells: int = 20_000

    def __post_init__(self) -> None:
        for option in fields(self):
            name, value = option.name, getattr(self, option.name)
            hint = f"Omit it to use {option.default}."
            if name == "guard":
                check_choice(name, value, (True, False), hint)
            elif isinstance(option.default, int):
                check_integer(name, value, int(name != "max_steps"), hint=hint)
            else:
                check_number(name, value, high=inf if name.endswith("lr") else 1.0, hint=hint)


@dataclass(frozen=True, kw_only=True)
class LabelChange:
    """Label change proposed by an adaptation, and its support by several classifiers.

    Parameters
    ----------
    old, new
        Most probable leaf by the reference model, and by the mean of adapted network and profiles.
    n_cells
        Number of cells with this change.
    plain, network, profiles, held_out
        Mean probability of the new leaf in these cells by the reference model with the class means
        of the query, the adapted network, the profiles, and markers that were not used in the
        adaptation.
    followed
        Weight of the change, from 0 (rejected) to 1.

    Examples
    --------
    >>> from hdeepinsight.adaptation import LabelChange
    >>> estimates = {"plain": 0.1, "network": 0.22, "profiles": 0.9, "held_out": 0.8}
    >>> LabelChange(old="Mono", new="Mk", n_cells=49, **estimates, followed=0.0).support
    0.22
    """

    old: str
    new: str
    n_cells: int
    plain: float
    network: float
    profiles: float
    held_out: float
    followed: float

    @property
    def support(self) -> float:
        """Minimum of the probabilities by adapted network, profiles and held-out markers."""
        return min(self.network, self.profiles, self.held_out)


def weigh_changes(
    plain: Tensor,
    network: Tensor,
    profiles: Tensor,
    held_out: Tensor,
    labels: Sequence[str],
    proposed: Tensor | None = None,
) -> tuple[Tensor, tuple[LabelChange, ...]]:
    """Compute weights of label changes from the lowest support among the classifiers.

    Parameters
    ----------
    plain, network, profiles, held_out
        Leaf probabilities, shape ``(n_cells, n_leaves)``, as in `LabelChange`. The mean of
        ``network`` and ``profiles`` proposes the changes.
    labels
        Names of the leaves.
    proposed
        Leaf probabilities that are proposed instead of that mean.

    Returns
    -------
    Weights of old leaf and new leaf, shape ``(n_leaves, n_leaves)``: 0 up to a support of 0.35, 1
    from 0.45, linear in between, with a pseudocount of five cells with support 0.3; 0.5 on the
    diagonal, and 0 for changes that do not occur. And the changes, in decreasing order of cells.

    Examples
    --------
    Both sets of markers support a change of 45 cells, the network less so:

    >>> import torch
    >>> from hdeepinsight.adaptation import weigh_changes
    >>> plain, network, markers = (
    ...     torch.tensor([[b, 1 - b]] * 45 + [[0.0, 1.0]]) for b in (0.9, 0.59, 0.1)
    ... )
    >>> weights, changes = weigh_changes(plain, network, markers, markers, ["B", "T"])
    >>> weights
    tensor([[0.5000, 0.4900],
            [0.0000, 0.5000]])
    >>> changes[0].old, changes[0].new, changes[0].n_cells
    ('B', 'T', 45)
    """
    tables = {"plain": plain, "network": network, "profiles": profiles, "held_out": held_out}
    proposed = network + profiles if proposed is None else proposed
    old, new = plain.argmax(1), proposed.argmax(1)
    of_new = {name: each.gather(1, new[:, None]).ravel() for name, each in tables.items()}
    columns = of_new | {"old": old, "new": new}
    cells = pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})
    weights, changes = SAME_LEAF * torch.eye(plain.shape[1]), []
    for (leaf, other), part in cells[cells["old"] != cells["new"]].groupby(["old", "new"]):
        means, n_cells = part[list(tables)].astype(float).mean().to_dict(), len(part)
        change = LabelChange(
            old=labels[leaf], new=labels[other], n_cells=n_cells, **means, followed=0.0
        )
        total = change.support * n_cells + EXTRA_SUPPORT * EXTRA_CELLS
        share = float(_share(total / (n_cells + EXTRA_CELLS), SUPPORT))
        weights[leaf, other] = share
        changes.append(replace(change, followed=share))
    return weights.to(plain), tuple(sorted(changes, key=lambda change: -change.n_cells))


def follow_changes(plain: Tensor, proposed: Tensor, weights: Tensor) -> Tensor:
    """Interpolate between two distributions of each cell by the weight of its label change.

    Parameters
    ----------
    plain, proposed
        Leaf probabilities, shape ``(n_cells, n_leaves)``.
    weights
        Weights from :func:`weigh_changes`.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.adaptation import follow_changes
    >>> plain, proposed = torch.tensor([[0.8, 0.2]]), torch.tensor([[0.0, 1.0]])
    >>> follow_changes(plain, proposed, torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
    tensor([[0.4000, 0.6000]])
    """
    share = weights.to(plain)[plain.argmax(1), proposed.argmax(1)]
    return torch.lerp(plain, proposed, share.unsqueeze(1))


@dataclass(frozen=True, kw_only=True)
class AdaptationFigures:
    """Measurements of an adaptation on the query, without labels.

    Parameters
    ----------
    changed
        Share of cells whose most probable leaf differs from that of the reference model.
    held_out_marker_score
        Mean log-odds of the new against the old leaf in the changed cells, by markers that were
        not used in the adaptation; positive values support the changes.
    n_types
        Effective number of leaves: the exponential of the entropy of their shares by the reference
        model.
    unsupported
        Share of cells with a proposed label change that is rejected.
    genes
        Share of the model's genes that the query has.
    shift_query, shift_reference
        Distance of the types of the query from those of the reference, and typical distance of a
        batch of the reference from the other batches (:func:`~hdeepinsight.nn.profile_shift`);
        ``None`` if unknown. For a reference of one batch 0.1 is assumed.
    unlike
        Share of cells that the reference model rejects because the query or the cell differs from
        the reference; ``None`` for a model without held-out cells.

    Examples
    --------
    >>> from hdeepinsight.adaptation import AdaptationFigures
    >>> figures = AdaptationFigures(
    ...     changed=0.08, held_out_marker_score=1.3, n_types=9.5, unlike=0.5
    ... )
    >>> figures.doubt()[1].split(",")[0]
    'the query does not look like the reference: 50% of its cells get no label'
    """

    changed: float
    held_out_marker_score: float
    n_types: float
    unsupported: float = 0.0
    genes: float = 1.0
    shift_query: float | None = None
    shift_reference: float | None = None
    unlike: float | None = None

    @classmethod
    def measure(
        cls, before: Tensor, after: Tensor, held_out: Tensor, **further: Any
    ) -> AdaptationFigures:
        """Compare leaf probabilities before and after, all of shape ``(n_cells, n_leaves)``.

        Parameters
        ----------
        before, after
            Probabilities of the reference model and of the adapted model.
        held_out
            Probabilities by markers that were not used in the adaptation.
        **further
            Other measurements.
        """
        old, new = before.argmax(1), after.argmax(1)
        shares, changed = before.mean(0), old != new
        odds = held_out.clamp_min(FLOOR).log()
        gain = (odds.gather(1, new.unsqueeze(1)) - odds.gather(1, old.unsqueeze(1))).ravel()
        return cls(
            changed=_mean(changed),
            held_out_marker_score=_mean(gain[changed]),
            n_types=float((-(shares * shares.clamp_min(FLOOR).log()).sum()).exp()),
            **further,
        )

    @property
    def times_as_far(self) -> float | None:
        """Distance of the query relative to that between batches; ``None`` with too few genes."""
        if self.shift_query is None or self.genes < MIN_GENES:
            return None
        return self.shift_query / max(self.shift_reference or 0.0, MIN_SHIFT)

    @property
    def like_a_batch(self) -> bool:
        """Whether the query is as near to the reference as another batch of the same study."""
        return self.shift_query is not None and self.shift_query < NEAR

    def doubt(self, *, of_network: bool = True) -> tuple[float, str]:
        """Return the maximum weight of label changes, from 0 to 1, and the reason for it.

        The measurement with the lowest weight decides. With ``of_network=False``, those that limit
        the adaptation of the network alone are left out.
        """
        found = [(1.0, "")]
        for name, (limits, sentence) in DOUBTS.items():
            if not of_network and name in OF_NETWORK:
                continue
            if (value := getattr(self, name)) is not None:
                found.append((float(_share(value, limits)), sentence.format(value)))
        return min(found, key=lambda doubt: doubt[0])


@dataclass(frozen=True, kw_only=True)
class AdaptationReport:
    """Result of an adaptation: decision, reason and measurements.

    Parameters
    ----------
    decision
        ``"adapted"``, or ``"zero-shot"`` if the predictions of the reference model are kept.
    reason
        Reason for the decision, in a sentence.
    figures
        Measurements that the decision is based on.
    changes
        Proposed label changes with their weights, in decreasing order of cells.
    n_cells, n_batches, n_labeled
        Numbers of query cells, batches and labelled cells in the adaptation.
    options
        Options of the adaptation.

    Examples
    --------
    >>> import warnings
    >>> import hdeepinsight as hdi
    >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
    >>> query = hdi.datasets.demo().query
    >>> adapted = hdi.SCHDeepInsight.load_query_data(query, hdi.hub.pull("pbmc"))
    >>> adapted.train(max_steps=0)
    >>> report = adapted.adapter_.report
    >>> report.n_cells, report.n_batches, report.n_labeled
    (210, 1, 0)
    """

    decision: Literal["adapted", "zero-shot"]
    reason: str
    figures: AdaptationFigures
    n_cells: int
    n_batches: int = 1
    n_labeled: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    changes: tuple[LabelChange, ...] = ()

    def __str__(self) -> str:
        found = self.figures
        return (
            f"{self.decision}: {self.reason}\n"
            f"  cells     {self.n_cells:,} in {counted(self.n_batches, 'batch', 'batches')}, "
            f"{self.n_labeled} labelled\n"
            f"  labels    {found.changed:.1%} changed, {found.unsupported:.1%} rejected\n"
            f"  markers   log-odds of changes by held-out ones {found.held_out_marker_score:+.2f}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain types, for the model file.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> query = hdi.datasets.demo().query
        >>> adapted = hdi.SCHDeepInsight.load_query_data(query, hdi.hub.pull("pbmc"))
        >>> adapted.train(max_steps=0)
        >>> adapted.adapter_.report.to_dict()["n_cells"]
        210
        """
        return asdict(self) | {"changes": [asdict(each) for each in self.changes]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AdaptationReport:
        """Rebuild a report from :meth:`to_dict` of this or an older release.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> from hdeepinsight.adaptation import AdaptationReport
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> query = hdi.datasets.demo().query
        >>> adapted = hdi.SCHDeepInsight.load_query_data(query, hdi.hub.pull("pbmc"))
        >>> adapted.train(max_steps=0)
        >>> AdaptationReport.from_dict(adapted.adapter_.report.to_dict()) == adapted.adapter_.report
        True
        """
        figures = {OLD_NAMES.get(name, name): value for name, value in values["figures"].items()}
        changes = tuple(LabelChange(**each) for each in values.get("changes", ()))
        further = {"figures": _with_known(AdaptationFigures, figures), "changes": changes}
        return _with_known(cls, values | further)


def check_adaptation(
    plain: Tensor,
    network: Tensor,
    profiles: Tensor,
    held_out: Tensor,
    labels: Sequence[str],
    proposed: Tensor | None = None,
    *,
    before: Tensor | None = None,
    guard: bool = True,
    **figures: Any,
) -> tuple[Tensor, AdaptationReport]:
    """Compute the weights of label changes, and report the decision.

    Parameters
    ----------
    plain, network, profiles, held_out, labels, proposed
        As in :func:`weigh_changes`.
    before
        Probabilities of the reference model, if ``plain`` are those with the class means of the
        query.
    guard
        ``False`` applies all changes in full.
    **figures
        Other measurements of the query.

    Returns
    -------
    Weights for :func:`follow_changes`, and the report on ``len(plain)`` cells.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.adaptation import check_adaptation
    >>> plain = torch.eye(3)[[0] * 50 + [1] * 50 + [2] * 50]
    >>> markers = torch.eye(3)[[1] * 20 + [0] * 30 + [1] * 50 + [2] * 50]
    >>> weights, report = check_adaptation(plain, markers, markers, markers, ["B", "T", "NK"])
    >>> report.decision, report.reason
    ('adapted', 'network, profiles and held-out markers support B to T (20 cells)')
    """
    proposed = (network + profiles) / 2 if proposed is None else proposed
    weights, changes = weigh_changes(plain, network, profiles, held_out, labels, proposed)
    rejected = sum(change.n_cells * (1 - change.followed) for change in changes)
    figures["unsupported"] = rejected / max(len(plain), 1)
    found = AdaptationFigures.measure(plain, proposed, held_out, **figures)
    limit, doubt = found.doubt()
    if found.like_a_batch:  # calibration holds for such cells
        weights.fill_diagonal_(0.0)
    reason = explain_changes(changes) if limit else doubt
    if limit and doubt:
        reason += f"; changes have a weight of at most {limit:.0%}, because {doubt}"
    if not guard:
        weights, limit = torch.ones_like(weights), 1.0
        reason = f"the check is switched off; with it: {reason}"
    if before is not None:
        reason = f"class means were recomputed with the cells of the query; {reason}"
    weights = limit * weights
    after = follow_changes(plain, proposed, weights)
    found = AdaptationFigures.measure(
        plain if before is None else before, after, held_out, **figures
    )
    report = AdaptationReport(
        decision="adapted" if found.changed or not guard else "zero-shot",
        reason=reason,
        figures=found,
        n_cells=len(plain),
        changes=changes,
    )
    return weights, report


def explain_changes(changes: Sequence[LabelChange]) -> str:
    """Describe applied and rejected label changes in a sentence.

    Examples
    --------
    >>> support = {"plain": 0.1, "profiles": 0.9, "held_out": 0.8}
    >>> changes = [
    ...     LabelChange(old="CD8", new="CD4", n_cells=57, network=0.7, **support, followed=1.0),
    ...     LabelChange(old="Mono", new="Mk", n_cells=49, network=0.2, **support, followed=0.0),
    ... ]
    >>> applied, rejected = explain_changes(changes).split("; ")
    >>> applied
    'network, profiles and held-out markers support CD8 to CD4 (57 cells)'
    >>> rejected
    'rejected because of low support or few cells: Mono to Mk (49 cells, 20%)'
    """
    groups = {
        "network, profiles and held-out markers support": [c for c in changes if c.followed],
        "rejected because of low support or few cells:": [c for c in changes if not c.followed],
    }
    sentences = (f"{start} {_listed(some)}" for start, some in groups.items() if some)
    return "; ".join(sentences) or "no label would change"


def _listed(changes: Sequence[LabelChange]) -> str:
    """List the changes with the most cells, and the number of others."""
    texts = []
    for change in changes:
        details = counted(change.n_cells, "cell")
        if not change.followed:
            details += f", {change.support:.0%}"
        elif change.followed < 0.995:
            details += f", weight {change.followed:.0%}"
        texts.append(f"{change.old} to {change.new} ({details})")
    return examples(texts, LISTED)


def _share(value: Any, limits: tuple[float, float]) -> Any:
    """Interpolate linearly from 0 at the first limit to 1 at the second, clipped."""
    none, everything = limits
    return np.clip((value - none) / (everything - none), 0.0, 1.0)


def _mean(values: Tensor) -> float:
    return float(values.float().mean()) if len(values) else 0.0


def _with_known(kind: type[Record], values: Mapping[str, Any]) -> Record:
    """Create a dataclass from the values that it has fields for."""
    return kind(**{each.name: values[each.name] for each in fields(kind) if each.name in values})

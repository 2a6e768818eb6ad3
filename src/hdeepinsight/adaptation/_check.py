"""Label-free check of an adaptation: which changes of label it may make, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from math import inf
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hdeepinsight._errors import check_choice, check_integer, check_number, counted

#: Support of a change of label up to which it is refused, and from which it is followed in full.
SUPPORT = (0.35, 0.45)
#: The same of figures of the whole query, and what is said where one of them forbids more.
DOUBTS = {
    "genes": (
        (0.0, 1e-6),
        "the query has none of the genes of the model, from which it would learn",
    ),
    "unlike": (
        (0.6, 0.4),
        "the query does not look like the reference: {:.0%} of its cells get no label, and an "
        "adaptation would take them for its types with more force",
    ),
    "n_types": (
        (1.6, 2.0),
        "the query has hardly more than one type (effectively {:.1f}), from which a difference "
        "between studies cannot be told from one between types",
    ),
    "unsupported": (
        (0.5, 0.3),
        "{:.0%} of the labels would change without network, profiles and held-out markers "
        "supporting it alike",
    ),
    "times_as_far": (
        (0.05, 0.15),
        "the query is hardly farther from the reference than cells of one batch are from each "
        "other ({:.2f} of the distance between batches), so there is nothing to adapt to",
    ),
}
#: A change counts so many cells more than it has, whose support is so low: few cells say little.
EXTRA_CELLS, EXTRA_SUPPORT = 5, 0.3
#: How far probabilities go to the adapted ones where the leaf stays.
SAME_LEAF = 0.5
#: Distance between batches of a reference that has one, or whose batches are nearer to each other.
LEAST_SHIFT = 0.1
#: A query that is not so many times as far could be one more batch.
MAX_TIMES = 3.0
MIN_GENES = 0.9
FLOOR = 1e-6
#: Changes of label that a sentence names.
NAMED = 3

#: Names of figures in the files of older releases, which also had some that nothing rested on.
OLD_NAMES = {"referee": "held_out_marker_score", "n_types_before": "n_types"}

Made = TypeVar("Made", "AdaptationFigures", "AdaptationReport")


@dataclass(frozen=True, kw_only=True)
class AdaptationOptions:
    """How far, how fast and how long to adapt; the defaults were chosen on pairs kept for that.

    Parameters
    ----------
    max_steps
        Steps of the optimiser. With 0 the normalisation adapts, profiles are used, and
        nothing is trained.
    guard
        Follow only the changes of label that network, profiles and held-out markers support, and
        none where the figures of the whole query speak against it. Off, all are followed.
    batch_size
        Largest number of query cells per step, and as many of the reference where there is one.
    statistics
        How far the statistics of the normalisations go from the reference's to a large batch's.
    adapter_lr, network_lr
        Learning rates of the adapters, and of whatever is unfrozen.
    max_cells
        Largest number of query cells that an adaptation reads, drawn evenly from the batches. In
        its steps the optimiser sees 12,800; the figures settle long before 20,000.

    Raises
    ------
    ValueError
        If a value is out of its range.

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
    network_lr: float = 3e-4
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
    """One change of label that an adaptation proposes, and what each opinion says of it.

    Parameters
    ----------
    old, new
        Most probable leaf by the reference model, and by the mean of adapted network and profiles.
    n_cells
        Cells that would change so.
    plain, network, profiles, held_out
        Mean probability of the new leaf in these cells: by the reference model, the adapted
        network, the profiles, and by markers that took no part in the adaptation.
    followed
        How far the change is followed, from 0 (refused) to 1.

    Examples
    --------
    >>> from hdeepinsight.adaptation import LabelChange
    >>> opinions = {"plain": 0.1, "network": 0.22, "profiles": 0.9, "held_out": 0.8}
    >>> LabelChange(old="Mono", new="Mk", n_cells=49, **opinions, followed=0.0).support
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
        """Least of the opinions, that of the reference model, which is of another one, aside."""
        return min(self.network, self.profiles, self.held_out)


def weigh_changes(
    plain: Tensor,
    network: Tensor,
    profiles: Tensor,
    held_out: Tensor,
    labels: Sequence[str],
    proposed: Tensor | None = None,
) -> tuple[Tensor, tuple[LabelChange, ...]]:
    """Weigh every change from one leaf to another by the opinion that supports it least.

    Parameters
    ----------
    plain, network, profiles, held_out
        Leaf probabilities, shape ``(n_cells, n_leaves)``, as in `LabelChange`. The mean of
        ``network`` and ``profiles`` proposes.
    labels
        Names of the leaves.
    proposed
        Leaf probabilities that are proposed instead of that mean.

    Returns
    -------
    Weights of old leaf and new leaf, shape ``(n_leaves, n_leaves)``: 0 up to a support of 0.35,
    1 from 0.45, and between them in proportion, after five cells of 0.3 were added; 0.5 where the
    leaf stays, and 0 for changes that no cell showed. And the changes, most cells first.

    Examples
    --------
    Both kinds of markers speak for a change of 45 cells, the network less so:

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
    opinions = {"plain": plain, "network": network, "profiles": profiles, "held_out": held_out}
    proposed = network + profiles if proposed is None else proposed
    old, new = plain.argmax(1), proposed.argmax(1)
    of_new = {name: each.gather(1, new[:, None]).ravel() for name, each in opinions.items()}
    columns = of_new | {"old": old, "new": new}
    cells = pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})
    weights, changes = SAME_LEAF * torch.eye(plain.shape[1]), []
    for (leaf, other), part in cells[cells["old"] != cells["new"]].groupby(["old", "new"]):
        means, n_cells = part[list(opinions)].astype(float).mean().to_dict(), len(part)
        change = LabelChange(
            old=labels[leaf], new=labels[other], n_cells=n_cells, **means, followed=0.0
        )
        total = change.support * n_cells + EXTRA_SUPPORT * EXTRA_CELLS
        share = float(_share(total / (n_cells + EXTRA_CELLS), SUPPORT))
        weights[leaf, other] = share
        changes.append(replace(change, followed=share))
    return weights.to(plain), tuple(sorted(changes, key=lambda change: -change.n_cells))


def follow_changes(plain: Tensor, proposed: Tensor, weights: Tensor) -> Tensor:
    """Go from one distribution of every cell to another, as far as its change of leaf is followed.

    Parameters
    ----------
    plain, proposed
        Leaf probabilities, shape ``(n_cells, n_leaves)``.
    weights
        As of :func:`weigh_changes`.

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
    """What was measured on the query, without any label of it.

    Parameters
    ----------
    changed
        Share of cells whose most probable leaf changed against the reference model.
    held_out_marker_score
        Mean log-odds, by markers that took no part in the adaptation, of the new leaf against the
        old one, over the changed cells; above 0 the changes are supported.
    n_types
        Effective number of leaves: the exponential of the entropy of their shares
        by the reference model.
    unsupported
        Share of cells for which a change of leaf was proposed that is not followed.
    genes
        Share of the model's genes that the query has.
    shift_query, shift_reference
        How far the types of the query are from those of the reference, and a batch of the
        reference usually from the others (:func:`~hdeepinsight.nn.profile_shift`); ``None`` where
        that is not known, as for a reference of one batch, where 0.1 is taken.
    unlike
        Share of the cells that the reference model gives no label, because the query as a whole,
        or the cell, does not look like the reference; ``None`` for a model without held-out cells.

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
            Of the reference model and of the adapted one.
        held_out
            By markers that took no part in the adaptation.
        **further
            Figures that were measured elsewhere.
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
        """Distance of a query with all genes, in distances between batches of the reference."""
        if self.shift_query is None or self.genes < MIN_GENES:
            return None
        return self.shift_query / max(self.shift_reference or 0.0, LEAST_SHIFT)

    @property
    def like_a_batch(self) -> bool:
        """Whether the query could be one more batch of a reference of several batches."""
        times, usual = self.times_as_far, self.shift_reference
        return times is not None and usual is not None and times < MAX_TIMES

    def doubt(self) -> tuple[float, str]:
        """Return how far an adaptation may be followed, from 0 to 1, and what speaks against more.

        The strongest doubt counts, and only as far as its figure goes.
        """
        found = [(1.0, "")]
        for name, (limits, sentence) in DOUBTS.items():
            if (value := getattr(self, name)) is not None:
                found.append((float(_share(value, limits)), sentence.format(value)))
        return min(found, key=lambda doubt: doubt[0])


@dataclass(frozen=True, kw_only=True)
class AdaptationReport:
    """Whether a query was adapted to, why, and what speaks for it.

    Parameters
    ----------
    decision
        ``"adapted"``, or ``"zero-shot"`` where the model annotates as the reference model does.
    reason
        Why, in a sentence.
    figures
        What the decision rests on.
    changes
        The changes of label that were proposed, most cells first, and how far each is followed.
    n_cells, n_batches, n_labeled
        Query cells that were read, their batches, and how many brought a label.
    options
        Settings of the adaptation.

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
            f"  cells     {self.n_cells:,} in {self.n_batches} batches, {self.n_labeled} labelled\n"
            f"  labels    {found.changed:.1%} changed, {found.unsupported:.1%} refused to\n"
            f"  markers   held-out ones give changes log-odds {found.held_out_marker_score:+.2f}"
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
        """Rebuild from :meth:`to_dict`, of this release or an older one.

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
        further = {"figures": _known(AdaptationFigures, figures), "changes": changes}
        return _known(cls, values | further)


def check_adaptation(
    plain: Tensor,
    network: Tensor,
    profiles: Tensor,
    held_out: Tensor,
    labels: Sequence[str],
    proposed: Tensor | None = None,
    *,
    guard: bool = True,
    **figures: Any,
) -> tuple[Tensor, AdaptationReport]:
    """Decide how far each change of label is followed, and say why.

    Parameters
    ----------
    plain, network, profiles, held_out, labels, proposed
        As of :func:`weigh_changes`.
    guard
        Off, all changes are followed in full.
    **figures
        Figures of the query that were measured elsewhere.

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
    lost = sum(change.n_cells * (1 - change.followed) for change in changes)
    figures["unsupported"] = lost / max(len(plain), 1)
    found = AdaptationFigures.measure(plain, proposed, held_out, **figures)
    trust, doubt = found.doubt()
    if found.like_a_batch:  # on which the model was calibrated
        weights.fill_diagonal_(0.0)
    reason = explain_changes(changes) if trust else doubt
    if trust and doubt:
        reason += f"; no change is followed by more than {trust:.0%}, as {doubt}"
    if not guard:
        weights, trust = torch.ones_like(weights), 1.0
        reason = f"the check is off; it would have said: {reason}"
    weights = trust * weights
    after = follow_changes(plain, proposed, weights)
    found = AdaptationFigures.measure(plain, after, held_out, **figures)
    report = AdaptationReport(
        decision="adapted" if found.changed or not guard else "zero-shot",
        reason=reason,
        figures=found,
        n_cells=len(plain),
        changes=changes,
    )
    return weights, report


def explain_changes(changes: Sequence[LabelChange]) -> str:
    """Say in a sentence which changes are followed, which are refused, and why.

    Examples
    --------
    >>> opinions = {"plain": 0.1, "profiles": 0.9, "held_out": 0.8}
    >>> changes = [
    ...     LabelChange(old="CD8", new="CD4", n_cells=57, network=0.7, **opinions, followed=1.0),
    ...     LabelChange(old="Mono", new="Mk", n_cells=49, network=0.2, **opinions, followed=0.0),
    ... ]
    >>> kept, refused = explain_changes(changes).split("; ")
    >>> kept
    'network, profiles and held-out markers support CD8 to CD4 (57 cells)'
    >>> refused
    'refused, for little support or few cells: Mono to Mk (49 cells, 20%)'
    """
    said = {
        "network, profiles and held-out markers support": [c for c in changes if c.followed],
        "refused, for little support or few cells:": [c for c in changes if not c.followed],
    }
    named = (f"{start} {_named(some)}" for start, some in said.items() if some)
    return "; ".join(named) or "no label would change"


def _named(changes: Sequence[LabelChange]) -> str:
    """Name the changes of most cells, and count the others."""
    named = []
    for change in changes[:NAMED]:
        figures = counted(change.n_cells, "cell")
        if not change.followed:
            figures += f", {change.support:.0%}"
        elif change.followed < 0.995:
            figures += f", followed by {change.followed:.0%}"
        named.append(f"{change.old} to {change.new} ({figures})")
    return ", ".join(named) + (f" and {len(changes) - NAMED} more" if len(changes) > NAMED else "")


def _share(value: Any, limits: tuple[float, float]) -> Any:
    """Return 0 at the first limit and beyond, 1 at the second, and in proportion between them."""
    none, everything = limits
    return np.clip((value - none) / (everything - none), 0.0, 1.0)


def _mean(values: Tensor) -> float:
    return float(values.float().mean()) if len(values) else 0.0


def _known(made: type[Made], values: Mapping[str, Any]) -> Made:
    """Make a dataclass of those values that it has a field for."""
    return made(**{each.name: values[each.name] for each in fields(made) if each.name in values})

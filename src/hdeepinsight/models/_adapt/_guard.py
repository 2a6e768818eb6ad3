"""Label-free check of an adaptation: figures of the unlabelled query, and what they decide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from math import inf
from typing import TYPE_CHECKING, Any, Literal

import torch

from hdeepinsight._errors import check_choice, check_integer, check_number

if TYPE_CHECKING:
    from torch import Tensor

CONFIDENT = 0.9
MIN_KEPT = 0.95
MIN_TYPES_KEPT = 0.5
MAX_REPLAY_LOSS = 0.25
MIN_TYPES = 1.8
MIN_GENES = 0.9
MAX_SHIFT = 3.0
FLOOR = 1e-6

#: Names of figures in the files of older releases.
OLD_NAMES = {"referee": "held_out_marker_score"}

Decision = Literal["adapted", "zero-shot"]


@dataclass(frozen=True, kw_only=True)
class AdaptationOptions:
    """How far, how fast and how long to adapt; the defaults were chosen on pairs kept for that.

    Parameters
    ----------
    max_steps
        Steps of the optimiser. With 0 the normalisation adapts and the profiles are heard, and
        nothing is trained.
    guard
        Fall back to the reference model where the label-free figures speak against the
        adaptation. Off, the adaptation is kept whatever they say.
    batch_size
        Largest number of query cells per step, and as many of the reference where there is one.
    statistics
        How far the statistics of the normalisations go from the reference's to a large batch's.
    adapter_lr, network_lr
        Learning rates of the adapters, and of whatever is unfrozen.
    weight_decay
        Weight decay of AdamW.
    refresh
        Steps between two new sets of targets by the teacher.
    threshold
        Probability from which a cell takes part, or the median of its class.
    max_mask_rate
        Largest share of the genes that is hidden in training.
    max_cells
        Largest number of query cells that an adaptation reads, drawn evenly from the batches. In
        its steps the optimiser sees 12,800; the figures settle long before 20,000.

    Raises
    ------
    ValueError
        If a value is out of its range.

    Examples
    --------
    >>> AdaptationOptions(max_steps=20).threshold
    0.5
    """

    max_steps: int = 200
    guard: bool = True
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
        for option in fields(self):
            name, value = option.name, getattr(self, option.name)
            hint = f"Omit it to use {option.default}."
            if name == "guard":
                check_choice(name, value, (True, False), hint)
            elif isinstance(option.default, int):
                check_integer(name, value, int(name != "max_steps"), hint=hint)
            else:
                rate = name in ("adapter_lr", "network_lr", "weight_decay")
                check_number(name, value, high=inf if rate else 1.0, hint=hint)


@dataclass(frozen=True, kw_only=True)
class AdaptationFigures:
    """What was measured on the query, without any label of it.

    Parameters
    ----------
    changed
        Share of cells whose most probable leaf changed against the reference model.
    kept
        Of the cells whose leaf the reference model gave 90 % or more and the profiles confirmed,
        the share that kept it.
    confident
        Share of such cells.
    held_out_marker_score
        Mean log-odds, by markers that took no part in the adaptation, of the new leaf against the
        old one, over the changed cells; above 0 the changes are supported.
    agreement_before, agreement_after
        Share of cells whose leaf is the one that the held-out markers would choose.
    n_types_before, n_types_after
        Effective number of leaves: the exponential of the entropy of their shares.
    entropy_before, entropy_after
        Mean entropy of the leaf probabilities per cell, in nats.
    genes
        Share of the model's genes that the query has.
    agreement_query, agreement_reference
        Share of cells to which the reference model and the profiles give the same leaf: of the
        query before the adaptation, and of the held-out reference cells; ``None`` for a model
        that did not keep the latter.
    shift_query, shift_reference
        How far the types of the query are from those of the reference, and a batch of the
        reference usually from the others (:func:`~hdeepinsight.nn.profile_shift`); ``None`` where
        that is not known, as for a reference of one batch.
    replay_before, replay_after
        Balanced accuracy on reference cells that show the query's genes alone; ``None`` where no
        reference was given.

    Examples
    --------
    >>> from hdeepinsight.models import AdaptationFigures
    >>> figures = AdaptationFigures(
    ...     changed=0.08,
    ...     kept=0.99,
    ...     confident=0.7,
    ...     held_out_marker_score=1.3,
    ...     agreement_before=0.81,
    ...     agreement_after=0.86,
    ...     n_types_before=9.5,
    ...     n_types_after=10.1,
    ...     entropy_before=0.4,
    ...     entropy_after=0.2,
    ...     agreement_query=0.79,
    ... )
    >>> figures.held_out_marker_score > 0
    True
    """

    changed: float
    kept: float
    confident: float
    held_out_marker_score: float
    agreement_before: float
    agreement_after: float
    n_types_before: float
    n_types_after: float
    entropy_before: float
    entropy_after: float
    agreement_query: float
    genes: float = 1.0
    agreement_reference: float | None = None
    shift_query: float | None = None
    shift_reference: float | None = None
    replay_before: float | None = None
    replay_after: float | None = None

    @property
    def like_a_batch(self) -> bool:
        """Whether the query could be one more batch of the reference, with all its genes."""
        apart, usual = self.shift_query, self.shift_reference
        if apart is None or usual is None or self.genes < MIN_GENES:
            return False
        return apart < MAX_SHIFT * usual


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
    n_cells, n_batches, n_labeled
        Query cells that were read, their batches, and how many brought a label.
    used_reference
        Whether reference cells were replayed.
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
    >>> report.n_cells, report.n_batches, report.n_labeled, report.used_reference
    (210, 1, 0, False)
    """

    decision: Decision
    reason: str
    figures: AdaptationFigures
    n_cells: int
    n_batches: int = 1
    n_labeled: int = 0
    used_reference: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        found, before, after = self.figures, self.figures.replay_before, self.figures.replay_after
        lines = [
            f"{self.decision}: {self.reason}",
            f"  cells     {self.n_cells:,} in {self.n_batches} batches, {self.n_labeled} labelled",
            f"  labels    {found.changed:.1%} changed, {found.kept:.1%} of undisputed ones kept",
            f"  markers   held-out ones give changes log-odds {found.held_out_marker_score:+.2f}, "
            f"agree with {found.agreement_before:.1%} before, {found.agreement_after:.1%} after",
            f"  types     effectively {found.n_types_before:.1f} before, {found.n_types_after:.1f} "
            "after",
        ]
        if before is not None and after is not None:
            lines += [f"  reference balanced accuracy {before:.1%} before, {after:.1%} after"]
        return "\n".join(lines)

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
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AdaptationReport:
        """Rebuild from :meth:`to_dict`, of this release or an older one.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> from hdeepinsight.models import AdaptationReport
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> query = hdi.datasets.demo().query
        >>> adapted = hdi.SCHDeepInsight.load_query_data(query, hdi.hub.pull("pbmc"))
        >>> adapted.train(max_steps=0)
        >>> AdaptationReport.from_dict(adapted.adapter_.report.to_dict()) == adapted.adapter_.report
        True
        """
        figures = {OLD_NAMES.get(name, name): value for name, value in values["figures"].items()}
        return cls(**{**values, "figures": AdaptationFigures(**figures)})


def measure(
    before: Tensor, after: Tensor, profile: Tensor, held_out: Tensor, **further: Any
) -> AdaptationFigures:
    """Compare leaf probabilities before and after, all of shape ``(n_cells, n_leaves)``.

    Parameters
    ----------
    before, after
        Of the reference model and of the adapted one.
    profile
        By the markers that took part in the adaptation.
    held_out
        By other markers, which did not.
    **further
        Figures of :class:`AdaptationFigures` that were measured elsewhere.
    """
    old, new, judged = before.argmax(1), after.argmax(1), held_out.argmax(1)
    changed = old != new
    undisputed = (before.max(1).values >= CONFIDENT) & (profile.argmax(1) == old)
    odds = held_out.clamp_min(FLOOR).log()
    gain = (odds.gather(1, new.unsqueeze(1)) - odds.gather(1, old.unsqueeze(1))).ravel()
    return AdaptationFigures(
        changed=_mean(changed),
        kept=_mean(~changed[undisputed], empty=1.0),
        confident=_mean(undisputed),
        held_out_marker_score=_mean(gain[changed]),
        agreement_before=_mean(judged == old),
        agreement_after=_mean(judged == new),
        n_types_before=float(_entropy(before.mean(0)).exp()),
        n_types_after=float(_entropy(after.mean(0)).exp()),
        entropy_before=_mean(_entropy(before)),
        entropy_after=_mean(_entropy(after)),
        agreement_query=_mean(profile.argmax(1) == old),
        **further,
    )


def decide(figures: AdaptationFigures, *, guard: bool = True) -> tuple[Decision, str]:
    """Keep the adaptation unless one of the figures speaks against it, and say why."""
    for objection in _objections(figures):
        if not guard:
            return "adapted", f"the check is off; it would have said: {objection}"
        return "zero-shot", objection
    if figures.changed == 0:
        return "adapted", "no label changed"
    return "adapted", "markers that took no part support the changed labels"


def _objections(figures: AdaptationFigures) -> Iterator[str]:
    """Yield why there is nothing to adapt to or to judge by, then what speaks against it."""
    if figures.genes == 0:
        yield "the query has none of the genes of the model, from which it would learn"
    if figures.n_types_before < MIN_TYPES:
        yield (
            f"the query has hardly more than one type (effectively {figures.n_types_before:.1f}), "
            "from which a difference between studies cannot be told from one between types"
        )
    if figures.like_a_batch:
        apart, usual = max(figures.shift_query or 0, 0), max(figures.shift_reference or 0, 0)
        yield (
            f"the query is {apart / usual if apart > 0 else 0:.1f} times as far from the reference "
            f"as the reference's batches are from each other ({apart:.2f} against {usual:.2f}; up "
            f"to {MAX_SHIFT:g} counts as alike), which the model has learnt to ignore"
        )
    agreement = figures.agreement_reference
    if agreement is not None and figures.agreement_query >= agreement:
        yield (
            f"network and profiles agree on {figures.agreement_query:.1%} of the cells, as they "
            f"do on the reference itself ({agreement:.1%}), so there is nothing to adapt to"
        )
    if figures.kept < MIN_KEPT:
        yield (
            f"only {figures.kept:.1%} of the cells that network and profiles agreed on kept "
            f"their label; at least {MIN_KEPT:.0%} should"
        )
    if figures.n_types_after < MIN_TYPES_KEPT * figures.n_types_before:
        yield (
            f"the effective number of types fell from {figures.n_types_before:.1f} to "
            f"{figures.n_types_after:.1f}, as when one type swallows others"
        )
    if figures.changed > 0 and figures.held_out_marker_score <= 0:
        yield "markers that took no part speak against the changed labels"
    if figures.replay_before is not None and figures.replay_after is not None:
        fall = figures.replay_before - figures.replay_after
        if fall > MAX_REPLAY_LOSS:
            yield f"the reference itself is annotated {fall:.1%} worse"


def balanced_accuracy(probabilities: Tensor, leaves: Tensor) -> float:
    """Return the mean recall of the leaves; cells of leaf -1 are left out."""
    predicted = probabilities.argmax(1)
    known = [leaf for leaf in torch.arange(probabilities.shape[1]) if (leaves == leaf).any()]
    right = [_mean(predicted[leaves == leaf] == leaf) for leaf in known]
    return sum(right) / max(1, len(right))


def _entropy(probabilities: Tensor) -> Tensor:
    return -(probabilities * probabilities.clamp_min(1e-12).log()).sum(-1)


def _mean(values: Tensor, *, empty: float = 0.0) -> float:
    return float(values.float().mean()) if len(values) else empty

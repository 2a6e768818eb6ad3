"""Label-free check of an adaptation: figures of the unlabelled query, and what they decide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from math import inf
from typing import TYPE_CHECKING, Any, Literal

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
MAX_UNLIKE = 0.5
FLOOR = 1e-6

#: Names of figures in the files of older releases, which also had some that nothing rested on.
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
class AdaptationFigures:
    """What was measured on the query, without any label of it.

    Parameters
    ----------
    changed
        Share of cells whose most probable leaf changed against the reference model.
    kept
        Of the cells whose leaf the reference model gave 90 % or more and the profiles confirmed,
        the share that kept it.
    held_out_marker_score
        Mean log-odds, by markers that took no part in the adaptation, of the new leaf against the
        old one, over the changed cells; above 0 the changes are supported.
    agreement_before, agreement_after
        Share of cells whose leaf is the one that the held-out markers would choose.
    n_types_before, n_types_after
        Effective number of leaves: the exponential of the entropy of their shares.
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
    unlike
        Share of the cells that the reference model gives no label, because the query as a whole,
        or the cell, does not look like the reference; ``None`` for a model without held-out cells.

    Examples
    --------
    >>> from hdeepinsight.adaptation import AdaptationFigures
    >>> figures = AdaptationFigures(
    ...     changed=0.08,
    ...     kept=0.99,
    ...     held_out_marker_score=1.3,
    ...     agreement_before=0.81,
    ...     agreement_after=0.86,
    ...     n_types_before=9.5,
    ...     n_types_after=10.1,
    ...     agreement_query=0.79,
    ... )
    >>> figures.held_out_marker_score > 0
    True
    """

    changed: float
    kept: float
    held_out_marker_score: float
    agreement_before: float
    agreement_after: float
    n_types_before: float
    n_types_after: float
    agreement_query: float
    genes: float = 1.0
    agreement_reference: float | None = None
    shift_query: float | None = None
    shift_reference: float | None = None
    replay_before: float | None = None
    replay_after: float | None = None
    unlike: float | None = None

    @property
    def like_a_batch(self) -> bool:
        """Whether the query could be one more batch of the reference, with all its genes."""
        apart, usual = self.shift_query, self.shift_reference
        if apart is None or usual is None or self.genes < MIN_GENES:
            return False
        return apart < MAX_SHIFT * usual

    @classmethod
    def measure(
        cls, before: Tensor, after: Tensor, profile: Tensor, held_out: Tensor, **further: Any
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
            Figures that were measured elsewhere.
        """
        old, new, judged = before.argmax(1), after.argmax(1), held_out.argmax(1)
        changed = old != new
        undisputed = (before.max(1).values >= CONFIDENT) & (profile.argmax(1) == old)
        odds = held_out.clamp_min(FLOOR).log()
        gain = (odds.gather(1, new.unsqueeze(1)) - odds.gather(1, old.unsqueeze(1))).ravel()
        return cls(
            changed=_mean(changed),
            kept=_mean(~changed[undisputed], empty=1.0),
            held_out_marker_score=_mean(gain[changed]),
            agreement_before=_mean(judged == old),
            agreement_after=_mean(judged == new),
            n_types_before=_effective_number(before),
            n_types_after=_effective_number(after),
            agreement_query=_mean(profile.argmax(1) == old),
            **further,
        )

    def decide(self, *, guard: bool = True) -> tuple[Decision, str]:
        """Keep the adaptation unless one of the figures speaks against it, and say why."""
        for objection in self._objections():
            if not guard:
                return "adapted", f"the check is off; it would have said: {objection}"
            return "zero-shot", objection
        if self.changed == 0:
            return "adapted", "no label changed"
        return "adapted", "independent marker genes favour the new labels"

    def _objections(self) -> Iterator[str]:
        """Yield why there is nothing to adapt to or to judge by, then what speaks against it."""
        if self.genes == 0:
            yield "the query has none of the genes of the model, from which it would learn"
        if self.unlike is not None and self.unlike > MAX_UNLIKE:
            yield (
                f"the query does not look like the reference: {self.unlike:.0%} of its cells get "
                "no label, and an adaptation would take them for its types with more force"
            )
        if self.n_types_before < MIN_TYPES:
            yield (
                f"the query has hardly more than one type (effectively {self.n_types_before:.1f}), "
                "from which a difference between studies cannot be told from one between types"
            )
        if self.like_a_batch:
            apart, usual = max(self.shift_query or 0, 0), max(self.shift_reference or 0, 0)
            times = apart / usual if apart > 0 else 0
            yield (
                f"the query is {times:.1f} times as far from the reference as the reference's "
                f"batches are from each other ({apart:.2f} against {usual:.2f}; up to "
                f"{MAX_SHIFT:g} counts as alike), which the model has learnt to ignore"
            )
        agreement = self.agreement_reference
        if agreement is not None and self.agreement_query >= agreement:
            yield (
                f"network and profiles agree on {self.agreement_query:.1%} of the cells, as they "
                f"do on the reference itself ({agreement:.1%}), so there is nothing to adapt to"
            )
        if self.kept < MIN_KEPT:
            yield (
                f"only {self.kept:.1%} of the cells that network and profiles agreed on kept "
                f"their label; at least {MIN_KEPT:.0%} should"
            )
        if self.n_types_after < MIN_TYPES_KEPT * self.n_types_before:
            yield (
                f"the effective number of types fell from {self.n_types_before:.1f} to "
                f"{self.n_types_after:.1f}, as when one type swallows others"
            )
        if self.changed > 0 and self.held_out_marker_score <= 0:
            yield "independent marker genes do not favour the new labels"
        if self.replay_before is not None and self.replay_after is not None:
            fall = self.replay_before - self.replay_after
            if fall > MAX_REPLAY_LOSS:
                yield f"the reference itself is annotated {fall:.1%} worse"


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
        >>> from hdeepinsight.adaptation import AdaptationReport
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> query = hdi.datasets.demo().query
        >>> adapted = hdi.SCHDeepInsight.load_query_data(query, hdi.hub.pull("pbmc"))
        >>> adapted.train(max_steps=0)
        >>> AdaptationReport.from_dict(adapted.adapter_.report.to_dict()) == adapted.adapter_.report
        True
        """
        figures = {OLD_NAMES.get(name, name): value for name, value in values["figures"].items()}
        known = {f.name: figures[f.name] for f in fields(AdaptationFigures) if f.name in figures}
        return cls(**{**values, "figures": AdaptationFigures(**known)})


def _effective_number(probabilities: Tensor) -> float:
    """Return the exponential of the entropy of the shares of the leaves."""
    shares = probabilities.mean(0)
    return float((-(shares * shares.clamp_min(1e-12).log()).sum()).exp())


def _mean(values: Tensor, *, empty: float = 0.0) -> float:
    return float(values.float().mean()) if len(values) else empty

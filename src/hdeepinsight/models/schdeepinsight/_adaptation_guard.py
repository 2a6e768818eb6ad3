"""Did the adaptation help? Asked of the unlabelled query, answered by whoever did not take part."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

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

Decision = Literal["adapted", "zero-shot"]


@dataclass(frozen=True, kw_only=True)
class AdaptationFigures:
    """What was measured on the query, without any label of it.

    Parameters
    ----------
    changed
        Share of cells whose most probable leaf changed against the reference model.
    kept
        Of the cells whose leaf the reference model was sure of (90 %) and the profiles confirmed,
        the share that kept it.
    confident
        Share of such cells.
    referee
        Mean log-odds, by markers that took no part in the adaptation, of the new leaf against the
        old one, over the changed cells; above 0 the changes are supported.
    agreement_before, agreement_after
        Share of cells whose leaf is the one that the referee would choose.
    n_types_before, n_types_after
        Effective number of leaves: the exponential of the entropy of their shares.
    entropy_before, entropy_after
        Mean entropy of a cell's leaf probabilities, in nats.
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
    ...     referee=1.3,
    ...     agreement_before=0.81,
    ...     agreement_after=0.86,
    ...     n_types_before=9.5,
    ...     n_types_after=10.1,
    ...     entropy_before=0.4,
    ...     entropy_after=0.2,
    ...     agreement_query=0.79,
    ... )
    >>> figures.referee > 0 and figures.agreement_after > figures.agreement_before
    True
    """

    changed: float
    kept: float
    confident: float
    referee: float
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
        Settings of the training.

    Examples
    --------
    >>> import warnings
    >>> import hdeepinsight as hdi
    >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
    >>> query = hdi.datasets.demo().query
    >>> mapped = hdi.SCHDeepInsight.load_query_data(query, hdi.hub.pull("pbmc"))
    >>> mapped.train(max_steps=0)
    >>> report = mapped.adaptation
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
        found = self.figures
        lines = [
            f"{self.decision}: {self.reason}",
            f"  cells     {self.n_cells:,} in {self.n_batches} batches, {self.n_labeled} labelled",
            f"  labels    {found.changed:.1%} changed, "
            f"{found.kept:.1%} of the undisputed ones kept",
            f"  referee   log-odds {found.referee:+.2f} of the changes, agrees with "
            f"{found.agreement_before:.1%} before and {found.agreement_after:.1%} after",
            f"  types     {found.n_types_before:.1f} before, {found.n_types_after:.1f} after "
            "(effective number)",
        ]
        if found.replay_before is not None:
            lines.append(
                f"  reference balanced accuracy {found.replay_before:.1%} before, "
                f"{found.replay_after:.1%} after"
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for the model file.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> query = hdi.datasets.demo().query
        >>> mapped = hdi.SCHDeepInsight.load_query_data(query, hdi.hub.pull("pbmc"))
        >>> mapped.train(max_steps=0)
        >>> mapped.adaptation.to_dict()["n_cells"]
        210
        """
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AdaptationReport:
        """Rebuild from :meth:`to_dict`.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> from hdeepinsight.models import AdaptationReport
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> query = hdi.datasets.demo().query
        >>> mapped = hdi.SCHDeepInsight.load_query_data(query, hdi.hub.pull("pbmc"))
        >>> mapped.train(max_steps=0)
        >>> AdaptationReport.from_dict(mapped.adaptation.to_dict()) == mapped.adaptation
        True
        """
        return cls(**{**values, "figures": AdaptationFigures(**values["figures"])})


def measure(
    before: Tensor,
    after: Tensor,
    profile: Tensor,
    referee: Tensor,
    *,
    genes: float = 1.0,
    agreement_reference: float | None = None,
) -> AdaptationFigures:
    """Compare leaf probabilities before and after, all of shape ``(n_cells, n_leaves)``.

    Parameters
    ----------
    before, after
        Of the reference model and of the adapted one.
    profile
        Second opinion that took part in the adaptation.
    referee
        Second opinion by other markers, which did not.
    genes, agreement_reference
        As in :class:`AdaptationFigures`.
    """
    old, new, judged = before.argmax(1), after.argmax(1), referee.argmax(1)
    changed = old != new
    undisputed = (before.max(1).values >= CONFIDENT) & (profile.argmax(1) == old)
    odds = referee.clamp_min(FLOOR).log()
    gain = (odds.gather(1, new.unsqueeze(1)) - odds.gather(1, old.unsqueeze(1))).ravel()
    return AdaptationFigures(
        changed=_mean(changed),
        kept=_mean(~changed[undisputed], empty=1.0),
        confident=_mean(undisputed),
        referee=_mean(gain[changed]),
        agreement_before=_mean(judged == old),
        agreement_after=_mean(judged == new),
        n_types_before=_n_types(before),
        n_types_after=_n_types(after),
        entropy_before=_mean(_entropy(before)),
        entropy_after=_mean(_entropy(after)),
        agreement_query=_mean(profile.argmax(1) == old),
        genes=genes,
        agreement_reference=agreement_reference,
    )


def decide(figures: AdaptationFigures) -> tuple[Decision, str]:
    """Keep the adaptation unless one of the figures speaks against it."""
    objection = _no_need(figures) or _harm(figures)
    if objection:
        return "zero-shot", objection
    if figures.changed == 0:
        return "adapted", "no label changed"
    return "adapted", "markers that took no part support the changed labels"


def _no_need(figures: AdaptationFigures) -> str:
    """Say why there is nothing to adapt to, or nothing to judge it by; empty if there is."""
    if figures.genes == 0:
        return "the query has none of the genes of the model, from which it would learn"
    if figures.n_types_before < MIN_TYPES:
        return (
            f"the query has hardly more than one type (effectively {figures.n_types_before:.1f}), "
            "from which a difference between studies cannot be told from one between types"
        )
    if figures.like_a_batch:
        return (
            f"the query is about as far from the reference ({figures.shift_query:.2f}) as the "
            f"batches of the reference are from each other ({figures.shift_reference:.2f}), which "
            "the model has learnt to ignore"
        )
    usual = figures.agreement_reference
    if usual is not None and figures.agreement_query >= usual:
        return (
            f"network and profiles agree on {figures.agreement_query:.1%} of the cells, as they "
            f"do on the reference itself ({usual:.1%}), so there is nothing to adapt to"
        )
    return ""


def _harm(figures: AdaptationFigures) -> str:
    """Say what speaks against an adaptation; empty if nothing does."""
    if figures.kept < MIN_KEPT:
        return (
            f"only {figures.kept:.1%} of the cells that network and profiles agreed on kept "
            f"their label; at least {MIN_KEPT:.0%} should"
        )
    if figures.n_types_after < MIN_TYPES_KEPT * figures.n_types_before:
        return (
            f"the effective number of types fell from {figures.n_types_before:.1f} to "
            f"{figures.n_types_after:.1f}, as when one type swallows others"
        )
    if figures.changed > 0 and figures.referee <= 0:
        return "markers that took no part speak against the changed labels"
    if figures.replay_before is not None and figures.replay_after is not None:
        fall = figures.replay_before - figures.replay_after
        if fall > MAX_REPLAY_LOSS:
            return f"the reference itself is annotated {fall:.1%} worse"
    return ""


def balanced_accuracy(probabilities: Tensor, leaves: Tensor) -> float:
    """Mean over leaves of the share of their cells that are right; leaf -1 is left out."""
    predicted = probabilities.argmax(1)
    known = [leaf for leaf in torch.arange(probabilities.shape[1]) if (leaves == leaf).any()]
    right = [_mean(predicted[leaves == leaf] == leaf) for leaf in known]
    return sum(right) / max(1, len(right))


def _entropy(probabilities: Tensor) -> Tensor:
    return -(probabilities * probabilities.clamp_min(1e-12).log()).sum(-1)


def _n_types(probabilities: Tensor) -> float:
    return float(_entropy(probabilities.mean(0)).exp())


def _mean(values: Tensor, *, empty: float = 0.0) -> float:
    return float(values.float().mean()) if len(values) else empty

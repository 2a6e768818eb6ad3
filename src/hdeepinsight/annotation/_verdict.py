"""Verdict on a query, and decisions of the workflow, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from hdeepinsight._errors import check_choice
from hdeepinsight.annotation._decode import Reject, most_probable_leaf
from hdeepinsight.annotation._novelty import UNLIKE
from hdeepinsight.annotation._trust import (
    INDISTINCT,
    MIN_VARIATION,
    NO_LIMIT,
    QueryComparison,
    looks_foreign,
)
from hdeepinsight.data import AlignedQuery, GeneReport
from hdeepinsight.taxonomy import Taxonomy

Light = Literal["green", "yellow", "red"]

EMPTY = "have no counts in any feature of the model"
#: Reason for such cells, also in saved annotations; they have no most probable leaf either.
NO_COUNTS = "no counts"
#: Correlation of means below which a verdict is not green.
ALIKE = 0.85
#: Share of cells without a lineage above which a verdict is red, or not green.
MAX_UNKNOWN, MANY_UNKNOWN = 0.5, 0.15
#: Share of the reference's expression in the genes of the query below which it is not green.
MIN_COVERAGE = 0.5
#: Share of simulated doublets found below which the verdict mentions it.
MIN_POWER = 0.7
#: Share of cells from which on the verdict mentions a finding.
MIN_SHARE = 0.01
#: Most lineages that a sentence lists.
MAX_LISTED = 8
SHARES = {
    "unrecognised": "match no lineage of the model ({lineages}).",
    "ambient": "cannot be distinguished from empty droplets.",
    "doublets": "look like doublets of two lineages; up to 5% of single cells do.",
}
#: Sentences for steps that were applied, and for those that were not.
STEPS = {
    "adapt": ("Model adapted to the query", "Model not adapted to the query"),
    "refine": (
        "Labels smoothed over the neighbour graph",
        "Labels not smoothed over the neighbour graph",
    ),
    "vote": ("Labels voted on by clusters", "Labels not voted on by clusters"),
    "page": ("Page written", "Page not written"),
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Overall assessment of how well a query fits the reference.

    Parameters
    ----------
    light
        ``"green"``: the query looks like the reference; ``"yellow"``: in part; ``"red"``: it does
        not, and its labels should not be used without other evidence.
    sentences
        One sentence per finding, with its figure; the first one is the summary.
    figures
        Figures that the sentences are based on, by name.

    Raises
    ------
    ValueError
        If there is no such light.

    Examples
    --------
    >>> verdict = Verdict(
    ...     light="red",
    ...     sentences=("The query does not look like the reference.", "No lineage fits 99.0%."),
    ...     figures={"unrecognised": 0.99},
    ... )
    >>> print(verdict)
    RED: The query does not look like the reference.
      No lineage fits 99.0%.
    """

    light: Light
    sentences: tuple[str, ...]
    figures: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("light", self.light, get_args(Light))
        object.__setattr__(self, "sentences", tuple(map(str, self.sentences)))
        figures = {str(name): float(value) for name, value in self.figures.items()}
        object.__setattr__(self, "figures", figures)

    def __str__(self) -> str:
        return f"{self.light.upper()}: " + "\n  ".join(self.sentences)

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict in plain types.

        Examples
        --------
        >>> Verdict(light="green", sentences=("It fits.",)).to_dict()
        {'light': 'green', 'sentences': ['It fits.'], 'figures': {}}
        """
        return vars(self) | {"sentences": list(self.sentences), "figures": dict(self.figures)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verdict:
        """Restore a verdict from the output of :meth:`to_dict`, also after storage in a file.

        Examples
        --------
        >>> verdict = Verdict(light="green", sentences=("It fits.",))
        >>> Verdict.from_dict(verdict.to_dict()) == verdict
        True
        """
        light: Any = str(data["light"])
        return cls(light=light, sentences=data["sentences"], figures=data.get("figures", {}))


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Optional step of the workflow, decided without labels of the query.

    Parameters
    ----------
    step
        Name of the step, such as ``"adapt"`` or ``"refine"``.
    applied
        Whether the result contains it.
    reason
        Reason for the decision, without a full stop.
    figures
        Figures that the reason is based on, by name.

    Examples
    --------
    >>> print(Decision(step="refine", applied=False, reason="210 cells are too few for a graph"))
    Labels not smoothed over the neighbour graph: 210 cells are too few for a graph.
    """

    step: str
    applied: bool
    reason: str
    figures: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the decision in plain types.

        Examples
        --------
        >>> from hdeepinsight.annotation import Decision
        >>> Decision(step="adapt", applied=True, reason="the donors differ").to_dict()
        {'step': 'adapt', 'applied': True, 'reason': 'the donors differ', 'figures': {}}
        """
        return vars(self) | {"figures": dict(self.figures)}

    def __str__(self) -> str:
        done, omitted = STEPS.get(self.step, (f"{self.step} applied", f"{self.step} not applied"))
        return f"{done if self.applied else omitted}: {self.reason}."


def verdict(
    genes: GeneReport,
    taxonomy: Taxonomy,
    figures: Mapping[str, float],
    *,
    seen: np.ndarray,
    findings: Sequence[str] = (),
    doubts: Sequence[str] = (),
) -> Verdict:
    """Write the verdict on a query from the figures of its comparison with the reference.

    Parameters
    ----------
    genes
        Report of how its genes match those of the model.
    taxonomy
        The tree.
    figures
        Output of :meth:`QueryComparison.figures`; empty for a model without held-out cells.
    seen
        Whether each cell has counts in any feature of the model, shape ``(n_cells,)``.
    findings
        Further sentences, such as :attr:`QueryComparison.findings`.
    doubts
        Sentences of :attr:`InputReport.doubts`.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.data import align_genes
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> report = align_genes(["NKG7", "CD3D"], ["CD3D", "NKG7"]).report
    >>> tree = Taxonomy.from_nested({"T": [], "B": []})
    >>> figures = {"similarity": 0.2, "unrecognised": 0.4, "ambient": 0.0, "doublets": 0.0}
    >>> print(verdict(report, tree, figures, seen=np.ones(3, dtype=bool)))
    RED: The query does not look like the reference: are these cells of T and B?
      Its mean expression has correlation 0.20 with its labels; below 0.67, no label is reliable.
      40.0% of the cells match no lineage of the model (T and B).
    """
    names = [taxonomy.label(int(node)) for node in taxonomy.children(0)]
    if len(names) > MAX_LISTED:
        names = [*names[:MAX_LISTED], f"{len(names) - MAX_LISTED} more"]
    lineages = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    similarity = figures.get("similarity", 1.0)
    distinctness = figures.get("distinctness", INDISTINCT)
    variation = figures.get("variation", MIN_VARIATION)
    unknown = figures.get("unrecognised", 0.0) + figures.get("ambient", 0.0)
    is_foreign = looks_foreign(figures)
    in_part = similarity < ALIKE or unknown > MANY_UNKNOWN or genes.coverage < MIN_COVERAGE
    light: Light = "yellow" if in_part or findings or doubts or not figures else "green"
    if is_foreign or unknown > MAX_UNKNOWN:
        light = "red"
    summary = {
        "green": "The query looks like the reference.",
        "yellow": "The query looks like the reference only in part.",
        "red": f"The query does not look like the reference: are these cells of {lineages}?",
    }[light]
    if not figures:
        summary = (
            "The query was not compared with the reference: "
            "the model stores no held-out cells, or the query has no RNA."
        )
    low = {
        f"Its mean expression has correlation {similarity:.2f} with its labels; "
        f"below {UNLIKE}, no label is reliable.": similarity < ALIKE,
        f"Its cells differ {distinctness:.2f} times as much from the mixture of all types as "
        f"those of the reference; below {INDISTINCT}, they may be empty droplets.": (
            distinctness < INDISTINCT
        ),
        f"Its cells vary {variation:.2f} times as much as draws from their mean; "
        f"below {MIN_VARIATION}, they may be empty droplets.": variation < MIN_VARIATION,
    }
    sentences = [summary, *(text for text, is_low in low.items() if is_low)]
    for name, text in SHARES.items():
        share = figures.get(name, 0.0)
        if share >= MIN_SHARE and (not is_foreign or name == "unrecognised"):
            sentences.append(f"{share:.1%} of the cells {text.format(lineages=lineages)}")
    power = figures.get("doublet_power", 1.0)
    if power < MIN_POWER and not is_foreign:
        sentences.append(
            f"{power:.0%} of the doublets simulated from its cells are found: "
            "with these genes and counts, the others look like single cells."
        )
    sentences += doubts if is_foreign else (*findings, *doubts)
    if genes.coverage < MIN_COVERAGE:
        sentences.append(f"Its genes have {genes.coverage:.1%} of the reference's expression.")
    if not seen.all():
        sentences.append(f"{int((~seen).sum()):,} cells {EMPTY}.")
    found = {**figures, "gene_coverage": genes.coverage, "no_counts": float((~seen).mean())}
    return Verdict(light=light, sentences=tuple(sentences), figures=found)


def assess_query(
    comparison: QueryComparison | None,
    columns: dict[str, np.ndarray],
    probabilities: np.ndarray,
    *,
    taxonomy: Taxonomy,
    opened: AlignedQuery,
    seen: np.ndarray,
    reject: Reject = "auto",
) -> dict[str, Any]:
    """Return the fields of an :class:`Annotation` that do not follow from its probabilities.

    Parameters
    ----------
    comparison
        Comparison of the query with the reference; ``None`` for a model without held-out cells.
    columns
        Output of its ``measure`` for all cells.
    probabilities
        Node probabilities, shape ``(n_cells, n_nodes)``.
    taxonomy
        The tree.
    opened
        The query.
    seen
        Whether each cell has counts in any feature of the model, shape ``(n_cells,)``; the others
        get no label.
    reject
        ``"off"`` stops no other label; verdict and novelty remain.

    Returns
    -------
    ``obs_names``, ``input_report``, ``gene_report``, ``verdict``, ``novelty``, ``supported_depth``
    and ``stop_reasons``.

    Examples
    --------
    A model without held-out cells does not assess a query:

    >>> import warnings
    >>> import hdeepinsight as hdi
    >>> import numpy as np
    >>> from hdeepinsight.annotation import assess_query
    >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
    >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query
    >>> table, seen = np.ones((query.n_obs, model.taxonomy.n_nodes)), np.ones(query.n_obs, bool)
    >>> options = {"taxonomy": model.taxonomy, "opened": model.open(query), "seen": seen}
    >>> found = assess_query(None, {}, table, **options)
    >>> found["verdict"].light, found["novelty"]
    ('yellow', None)
    """
    figures: dict[str, float] = {}
    findings: tuple[str, ...] = ()
    depth, reasons = np.full(len(seen), NO_LIMIT), np.full(len(seen), "", dtype=object)
    if comparison is not None:
        leaf = most_probable_leaf(taxonomy, probabilities)
        depth, reasons = comparison.stops(columns, probabilities, leaf)
        figures, findings = comparison.figures(columns, depth), comparison.findings
    genes = opened.gene_report
    if not seen.all():
        text = f"{int((~seen).sum()):,} cells {EMPTY} and are labelled Unknown."
        genes = replace(genes, messages=(*genes.messages, text))
    doubts = opened.input_report.doubts
    result = verdict(genes, taxonomy, figures, seen=seen, findings=findings, doubts=doubts)
    if reject == "off":
        depth[:], reasons[:] = NO_LIMIT, ""
    depth[~seen], reasons[~seen] = 0, NO_COUNTS
    is_limited = (depth < NO_LIMIT).any()
    table = None
    if columns:
        scores = {name: v for name, v in columns.items() if name not in ("depth", "no_lineage")}
        scores = {n: v if v.dtype == bool else np.where(seen, v, np.nan) for n, v in scores.items()}
        table = pd.DataFrame(scores, index=opened.obs_names)
    return {
        "obs_names": opened.obs_names,
        "input_report": opened.input_report,
        "gene_report": genes,
        "verdict": result,
        "novelty": table,
        "supported_depth": depth if is_limited else None,
        "stop_reasons": reasons if is_limited else None,
    }

"""What is said of a query: whether it looks like what the model knows, and which steps it got."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from hdeepinsight._errors import check_choice
from hdeepinsight.annotation._decode import Reject, most_probable_leaf
from hdeepinsight.annotation._trust import ALIKE, NO_COUNTS, NO_LIMIT, UNLIKE, QueryJudge
from hdeepinsight.data import AlignedQuery, GeneReport
from hdeepinsight.taxonomy import Taxonomy

Light = Literal["green", "yellow", "red"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How far the labels of a query can be believed, before any of them is looked at.

    Parameters
    ----------
    light
        ``"green"``: the query looks like the reference; ``"yellow"``: in part; ``"red"``: it does
        not, and its labels should not be used without other evidence.
    sentences
        One sentence per finding, with its figure; the first one is the summary.
    figures
        What the sentences rest on, by name.

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
        object.__setattr__(self, "sentences", tuple(self.sentences))

    def __str__(self) -> str:
        return f"{self.light.upper()}: " + "\n  ".join(self.sentences)

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict in plain types.

        Examples
        --------
        >>> Verdict(light="green", sentences=("It fits.",)).to_dict()
        {'light': 'green', 'sentences': ['It fits.'], 'figures': {}}
        """
        figures = {name: float(value) for name, value in self.figures.items()}
        return asdict(self) | {"sentences": list(self.sentences), "figures": figures}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verdict:
        """Make one from what :meth:`to_dict` gave, also after a file.

        Examples
        --------
        >>> verdict = Verdict(light="green", sentences=("It fits.",))
        >>> Verdict.from_dict(verdict.to_dict()) == verdict
        True
        """
        light: Any = str(data["light"])
        figures = {str(name): float(value) for name, value in data.get("figures", {}).items()}
        return cls(light=light, sentences=tuple(map(str, data["sentences"])), figures=figures)


#: What is said of a step that was taken, and of one that was not.
STEPS = {
    "adapt": ("Model adapted to the query", "Model not adapted to the query"),
    "refine": (
        "Labels smoothed over the neighbour graph",
        "Labels not smoothed over the neighbour graph",
    ),
    "vote": ("Labels voted on by clusters", "No vote of clusters"),
    "page": ("Page written", "No page written"),
}


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One step that could be taken or left, decided without labels of the query.

    Parameters
    ----------
    step
        Name of the step, such as ``"adapt"`` or ``"refine"``.
    applied
        Whether the result contains it.
    reason
        Why, in a sentence.
    figures
        What the reason rests on, by name.

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
        >>> Decision(step="adapt", applied=True, reason="the donors differ.").to_dict()
        {'step': 'adapt', 'applied': True, 'reason': 'the donors differ.', 'figures': {}}
        """
        return vars(self) | {"figures": dict(self.figures)}

    def __str__(self) -> str:
        done, left = STEPS.get(self.step, (f"{self.step} applied", f"{self.step} left out"))
        return f"{done if self.applied else left}: {self.reason}."


#: Share of cells without a lineage that makes a verdict red, or yellow.
MOST, MANY = 0.5, 0.15
#: Share of the reference's expression below which labels are less certain.
FEW_GENES = 0.5
WORTH_SAYING = 0.01
SHARES = {
    "unrecognised": "of the cells are recognised as none of {lineages}.",
    "ambient": "of the cells cannot be told from empty droplets.",
    "doublets": "of the cells look like two lineages at once: doublets, or types that are missing.",
}


def verdict(
    genes: GeneReport,
    taxonomy: Taxonomy,
    figures: Mapping[str, float],
    *,
    seen: np.ndarray,
    findings: Sequence[str] = (),
) -> Verdict:
    """Put into words whether a query looks like what a model knows.

    Parameters
    ----------
    genes
        How its genes match those of the model.
    taxonomy
        The tree.
    figures
        What :meth:`QueryJudge.figures` returned; empty for a model without held-out cells.
    seen
        Whether anything of what the model reads was counted in each cell, shape ``(n_cells,)``.
    findings
        Further sentences, such as :attr:`QueryJudge.findings`.

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
      Its mean expression correlates 0.20 with that of its labels; below 0.67 none can be trusted.
      40.0% of the cells are recognised as none of T and B.
    """
    found = {**figures, "gene_coverage": genes.coverage, "no_counts": float((~seen).mean())}
    lineages = _listed([taxonomy.label(int(node)) for node in taxonomy.children(0)])
    similarity, points = figures.get("similarity", 1.0), []
    foreign = similarity < UNLIKE
    lost = figures.get("unrecognised", 0.0) + figures.get("ambient", 0.0)
    in_part = similarity < ALIKE or lost > MANY or genes.coverage < FEW_GENES
    light: Light = "yellow" if in_part or findings or not figures else "green"
    if foreign or lost > MOST:
        light = "red"
    if similarity < ALIKE:
        points.append(
            f"Its mean expression correlates {similarity:.2f} with that of its labels; "
            f"below {UNLIKE} none can be trusted."
        )
    for name, text in SHARES.items():
        if figures.get(name, 0.0) >= WORTH_SAYING and not (foreign and name != "unrecognised"):
            points.append(f"{figures[name]:.1%} {text.format(lineages=lineages)}")
    points += () if foreign else findings
    if genes.coverage < FEW_GENES:
        points.append(f"Its genes carry {genes.coverage:.1%} of the reference's expression.")
    if not seen.all():
        points.append(f"{int((~seen).sum()):,} cells have no counts of what the model reads.")
    summary = {
        "green": "The query looks like the reference.",
        "yellow": "The query looks like the reference only in part.",
        "red": f"The query does not look like the reference: are these cells of {lineages}?",
    }[light]
    if not figures:
        summary = "Nothing is known of how the query fits: no held-out cells to compare, or no RNA."
    return Verdict(light=light, sentences=(summary, *points), figures=found)


def judgement(
    judge: QueryJudge | None,
    columns: dict[str, np.ndarray],
    probabilities: np.ndarray,
    *,
    taxonomy: Taxonomy,
    opened: AlignedQuery,
    seen: np.ndarray,
    reject: Reject = "auto",
) -> dict[str, Any]:
    """Return what an :class:`Annotation` says of a query and its labels beside probabilities.

    Parameters
    ----------
    judge
        Judge of the query; ``None`` where there is none.
    columns
        What its ``measure`` returned of all cells.
    probabilities
        Node probabilities, shape ``(n_cells, n_nodes)``.
    taxonomy
        The tree.
    opened
        The query.
    seen
        Whether anything of what the model reads was counted in each cell, shape ``(n_cells,)``;
        where nothing was, there is no label.
    reject
        ``"off"`` stops no other label; what was found is said all the same.

    Returns
    -------
    ``obs_names``, ``input_report``, ``gene_report``, ``verdict``, ``novelty``, ``supported_depth``
    and ``stop_reasons``.

    Examples
    --------
    Of a model without held-out cells, nothing is known of how a query fits:

    >>> import warnings
    >>> import hdeepinsight as hdi
    >>> import numpy as np
    >>> from hdeepinsight.annotation import judgement
    >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
    >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query
    >>> table, seen = np.ones((query.n_obs, model.taxonomy.n_nodes)), np.ones(query.n_obs, bool)
    >>> options = {"taxonomy": model.taxonomy, "opened": model.open(query), "seen": seen}
    >>> found = judgement(None, {}, table, **options)
    >>> found["verdict"].light, found["novelty"]
    ('yellow', None)
    """
    figures: dict[str, float] = {}
    findings: tuple[str, ...] = ()
    depth, reasons = np.full(len(seen), NO_LIMIT), np.full(len(seen), "", dtype=object)
    if judge is not None:
        leaf = most_probable_leaf(taxonomy, probabilities)
        depth, reasons = judge.stops(columns, probabilities, leaf)
        figures, findings = judge.figures(columns, depth), judge.findings
    report = opened.gene_report
    if not seen.all():
        text = f"{int((~seen).sum()):,} cells have no counts of what the model reads: they stay"
        report = replace(report, messages=(*report.messages, f"{text} Unknown."))
    said = verdict(report, taxonomy, figures, seen=seen, findings=findings)
    if reject == "off":
        depth[:], reasons[:] = NO_LIMIT, ""
    depth[~seen], reasons[~seen] = 0, NO_COUNTS
    limited = (depth < NO_LIMIT).any()
    table = pd.DataFrame(columns, index=opened.obs_names) if columns else None
    return {
        "obs_names": opened.obs_names,
        "input_report": opened.input_report,
        "gene_report": report,
        "verdict": said,
        "novelty": None if table is None else table.drop(columns=["depth", "no_lineage"]),
        "supported_depth": depth if limited else None,
        "stop_reasons": reasons if limited else None,
    }


def _listed(names: list[str], most: int = 8) -> str:
    if len(names) > most:
        names = [*names[:most], f"{len(names) - most} more"]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)

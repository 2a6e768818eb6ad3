"""Sentences of the page: verdict, key figures, decisions, input, genes, and methods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from hdeepinsight._errors import counted
from hdeepinsight.annotation import Annotation, Decision
from hdeepinsight.data import GeneReport, InputReport
from hdeepinsight.report._tables import above_a_type

if TYPE_CHECKING:
    from hdeepinsight.tl import MarkerEvidence

#: Names listed before the rest is only counted.
_MOST_NAMES = 60


class KeyFigure(NamedTuple):
    """A figure at the head of the page: its key for machines, and what people read."""

    key: str
    name: str
    value: float
    shown: str
    explanation: str


def input_sentences(report: InputReport) -> list[str]:
    """Say what the matrix is, what stood in the way and what was repaired."""
    versioned = " with versions" if report.versioned else ""
    oddities = {
        "are missing (NaN)": report.n_nan,
        "are infinite": report.n_inf,
        "are negative": report.n_negative,
    }
    return [
        f"{counted(report.n_obs, 'cell')} × {counted(report.n_vars, 'gene')} were read from "
        f"{report.layer} ({report.storage}).",
        f"The values are {report.scale.replace('_', ' ')}: {report.evidence}.",
        f"Genes are named by {report.identifiers}{versioned}; species: {report.species}.",
        *(f"Values that {what}: {n:,}." for what, n in oddities.items() if n),
        *([f"Cells that hold zeros only: {report.n_empty_cells:,}."] * bool(report.n_empty_cells)),
        *(f"Repaired: {text}" for text in report.repairs),
        *(f"To know: {text}" for text in report.problems),
    ]


def gene_sentences(report: GeneReport) -> list[str]:
    """Say how many of the model's genes the query has, and which it lacks."""
    column = "" if report.column is None else f" Names come from var[{report.column!r}]."
    return [
        f"{report.n_measured:,} of {report.n_model:,} model genes are measured; they carry "
        f"{report.coverage:.1%} of the reference's expression.{column}",
        f"{report.n_extra:,} of the query's {report.n_query:,} columns are not used by the model.",
        *([f"Not measured: {_listed(report.missing)}."] if report.missing else []),
        *([f"Columns summed for: {_listed(report.duplicated)}."] if report.duplicated else []),
        *report.messages,
    ]


def key_figures(result: Annotation) -> list[KeyFigure]:
    """Give the figures to know first."""
    n_cells, of_all = len(result), f"of {result.taxonomy.n_leaves:,}"
    n_types = int(np.isin(result.taxonomy.leaves, result.stop_nodes).sum())
    figures = [
        KeyFigure("n_cells", "Cells", n_cells, f"{n_cells:,}", "annotated"),
        KeyFigure("n_types", "Types found", n_types, f"{n_types:,}", of_all),
    ]
    if n_cells:
        mean = float(result.confidence.mean())
        of_label = "probability of the label given"
        figures.append(
            KeyFigure("mean_confidence", "Mean confidence", mean, f"{mean:.3f}", of_label)
        )
        shares = {
            ("share_stopped", "Stopped above a type"): above_a_type(result),
            ("share_unknown", "Unknown"): result.stop_nodes == 0,
        }
        for (key, name), cells in shares.items():
            share, shown = float(cells.mean()), counted(int(cells.sum()), "cell")
            figures.append(KeyFigure(key, name, share, f"{share:.1%}", shown))
    if report := result.gene_report:
        coverage = report.coverage, f"{report.coverage:.1%}"
        measured = f"{report.n_measured:,} of {report.n_model:,} genes"
        figures.append(KeyFigure("gene_coverage", "Gene coverage", *coverage, measured))
    return figures


def summary(result: Annotation, evidence: MarkerEvidence | None) -> tuple[str, list[str]]:
    """Return the light of the verdict (empty where there is none), and what to know first."""
    verdict = result.verdict
    light = "" if verdict is None else str(verdict.light)
    said = _unjudged(result) if verdict is None else list(verdict.sentences)
    if result.calibration_note:
        said.append(f"The probabilities are {result.calibration_note}.")
    if evidence is not None and len(evidence.labels):
        lineages = evidence.labels[~evidence.labels.index.str.contains(" > ")]
        judged = lineages["verdict"].isin(["supported", "contradicted"])
        if lineages.loc[judged, "n_cells"].sum() * 2 < lineages["n_cells"].sum():
            names = ", ".join(lineages.loc[~judged, "label"])
            said.append(f"Nothing but the model speaks for {names}: no markers could be judged.")
        elif evidence.contradicted or verdict is None:
            said += evidence.sentences()[: max(1, len(evidence.contradicted))]
    return light, said


def _unjudged(result: Annotation) -> list[str]:
    """Say what is known where nothing has judged the query."""
    if not len(result):
        return ["There are no cells."]
    said = []
    if (genes := result.gene_report) is not None:
        said.append(
            f"{genes.n_measured:,} of the model's {genes.n_model:,} genes were measured, with "
            f"{genes.coverage:.1%} of the reference's expression."
        )
    n_above = int(above_a_type(result).sum())
    said.append(
        f"{len(result) - n_above:,} of {counted(len(result), 'cell')} have a type; {n_above:,} "
        f"stop above one. The mean confidence is {result.confidence.mean():.3f}."
    )
    return said


def absent_types(result: Annotation) -> str:
    """Name the types of the taxonomy that no cell is called."""
    absent = np.setdiff1d(result.taxonomy.leaves, result.stop_nodes)
    return _listed([result.taxonomy.label(int(leaf)) for leaf in absent])


def _listed(names: list[str] | tuple[str, ...]) -> str:
    rest = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {rest:,} more" if rest > 0 else "")


#: Packages whose versions a recipe may record.
_PACKAGES: Final = {
    "python": "Python",
    **{name: name for name in ("scvi-tools", "torch", "lightning", "anndata", "numpy")},
}
_SETTINGS: Final = {
    "max_epochs": "at most {} epochs",
    "batch_size": "mini-batches of {} cells",
    "lr": "a learning rate of at most {}",
    "weight_decay": "a weight decay of {}",
    "seed": "the seed {}",
}


def methods(result: Annotation, *, compared: bool = False) -> tuple[str, list[str]]:
    """Write the paragraph, and list what it cites.

    Parameters
    ----------
    result
        The annotation.
    compared
        Whether it was compared with known labels.

    Returns
    -------
    The paragraph, and its sources in order.
    """
    citations = Citations()
    sentences = [
        *_model(result, citations),
        *_cells(result, citations),
        *(_step(decision, result) for decision in result.decisions),
    ]
    if compared:
        sentences.append(
            "Labels were compared with known ones by hierarchical precision and recall "
            f"{citations.cite('kiritchenko2006')} and by expected calibration error "
            f"{citations.cite('naeini2015')}."
        )
    recipe = result.recipe
    if found := [f"{name} {recipe[key]}" for key, name in _PACKAGES.items() if key in recipe]:
        sentences.append(f"The model was trained with {', '.join(found)}.")
    return " ".join(sentences), citations.entries


def _model(result: Annotation, citations: Citations) -> Iterator[str]:
    recipe, taxonomy = result.recipe, result.taxonomy
    tree = f"a taxonomy of {taxonomy.n_leaves:,} types at {taxonomy.max_depth} levels"
    cells = f"{len(result):,} cells were annotated over {tree}"
    if "hdeepinsight" not in recipe:
        yield f"{cells}. What made the probabilities is not recorded."
        return
    yield (
        f"{cells} with hdeepinsight {recipe['hdeepinsight']}, an independent implementation of "
        f"scHDeepInsight {citations.cite('jia2025')} on gene images "
        f"{citations.cite('sharma2019')} and scvi-tools {citations.cite('gayoso2022')}."
    )
    if "backbone" in recipe:
        genes = f" of {_count(recipe['n_genes'])} genes" if "n_genes" in recipe else ""
        yield f"The network ({recipe['backbone']}) reads an image{genes}."
    if "n_cells" in recipe:
        yield _training(recipe, citations)
    if "n_lifted_labels" in recipe:
        n_lifted = _count(recipe["n_lifted_labels"])
        yield f"{n_lifted} suspicious labels were trusted at coarser levels only."


def _step(decision: Decision, result: Annotation) -> str:
    details = result.recipe.get(decision.step)
    method = details.get("method") if decision.applied and isinstance(details, dict) else None
    by = f" The method was {str(method).replace('_', ' ')}." if method else ""
    return f"{decision}{by}"


def _training(recipe: dict[str, Any], citations: Citations) -> str:
    n_cells, n_held_out, kept = recipe["n_cells"], recipe.get("n_held_out"), ""
    if isinstance(n_cells, int) and isinstance(n_held_out, int):
        n_cells -= n_held_out
        by = f" by {recipe['split_key']}" if recipe.get("split_key") else ""
        kept = (
            f"; {n_held_out:,} others were held out{by} to calibrate its probabilities "
            f"{citations.cite('guo2017')}"
            if n_held_out
            else "; none were held out, so that its probabilities are not calibrated"
        )
    settings = [text.format(recipe[key]) for key, text in _SETTINGS.items() if key in recipe]
    with_settings = f". Training used {', '.join(settings)}" if settings else ""
    return f"It was trained on {_count(n_cells)} labelled cells{kept}{with_settings}."


def _count(value: object) -> str:
    """Group the digits of a number; what a foreign file has in its place stays as it is."""
    return f"{value:,}" if isinstance(value, int) else str(value)


def _cells(result: Annotation, citations: Citations) -> Iterator[str]:
    matrix, genes = result.input_report, result.gene_report
    if matrix is not None:
        yield f"Values were read from {matrix.layer} and taken for {matrix.scale}."
    if genes is not None:
        yield (
            f"{genes.n_measured:,} of the model's {genes.n_model:,} genes were measured, which "
            f"carry {genes.coverage:.1%} of the reference's expression."
        )
    yield {
        "joint": "Each cell was followed to its most probable type.",
        "greedy": "Each cell was followed down the tree by the most probable child.",
    }[result.decoder]
    if result.threshold is not None:
        yield (
            "Its label stops at the deepest node that has a probability of at least "
            f"{result.threshold:g}."
        )
    if result.calibration is not None:
        cells = f"{len(result.calibration):,} {result.calibration.source}"
        yield f"Label sets are conformal {citations.cite('vovk2005')}, calibrated on {cells}."
    if result.novelty is not None and "type_p_value" in result.novelty:
        yield (
            "Each cell was compared with held-out cells of the reference, which were given the "
            "depth and the genes of the query: p-values say how many of these fit a known lineage, "
            "or a known type, as badly, and scores how much a cell is like two lineages at once or "
            "like the background."
        )
    elif result.novelty is not None:
        yield (
            "Novelty compares each cell with held-out cells of the reference, by one classifier "
            "per lineage and by the Mahalanobis distance to the nearest type "
            f"{citations.cite('lee2018')}."
        )
    if result.supported_depth is not None:
        yield (
            "Labels of cells that do not support them, such as novel ones, were stopped earlier."
        )


#: Key in ``docs/references.bib`` -> entry.
ENTRIES: Final = {
    "jia2025": "Jia S, Lysenko A, Boroevich KA, Sharma A, Tsunoda T (2025). scHDeepInsight: a "
    "hierarchical deep learning framework for precise immune cell annotation in single-cell "
    "RNA-seq data. bioRxiv. doi:10.1101/2025.06.23.661045",
    "sharma2019": "Sharma A, Vans E, Shigemizu D, Boroevich KA, Tsunoda T (2019). DeepInsight: a "
    "methodology to transform a non-image data to an image for convolution neural network "
    "architecture. Scientific Reports 9, 11399. doi:10.1038/s41598-019-47765-6",
    "gayoso2022": "Gayoso A, Lopez R, Xing G and others (2022). A Python library for probabilistic "
    "analysis of single-cell omics data. Nature Biotechnology 40, 163–166. "
    "doi:10.1038/s41587-021-01206-w",
    "guo2017": "Guo C, Pleiss G, Sun Y, Weinberger KQ (2017). On calibration of modern neural "
    "networks. International Conference on Machine Learning, 1321–1330.",
    "vovk2005": "Vovk V, Gammerman A, Shafer G (2005). Algorithmic Learning in a Random World. "
    "Springer.",
    "lee2018": "Lee K, Lee K, Lee H, Shin J (2018). A Simple Unified Framework for Detecting "
    "Out-of-Distribution Samples and Adversarial Attacks. Advances in Neural Information "
    "Processing Systems.",
    "naeini2015": "Naeini MP, Cooper GF, Hauskrecht M (2015). Obtaining well calibrated "
    "probabilities using Bayesian binning. AAAI Conference on Artificial Intelligence, 2901–2907.",
    "kiritchenko2006": "Kiritchenko S, Matwin S, Nock R, Famili AF (2006). Learning and evaluation "
    "in the presence of class hierarchies: application to text categorization. Canadian Conference "
    "on Artificial Intelligence, 395–406.",
}


class Citations:
    """Numbers sources in the order in which a text cites them.

    Examples
    --------
    >>> citations = Citations()
    >>> citations.cite("guo2017"), citations.cite("jia2025", "guo2017")
    ('[1]', '[2, 1]')
    >>> len(citations.entries)
    2
    """

    def __init__(self) -> None:
        self._keys: list[str] = []

    def cite(self, *keys: str) -> str:
        """Give the numbers of some sources in brackets."""
        self._keys += [key for key in keys if key not in self._keys]
        return f"[{', '.join(str(self._keys.index(key) + 1) for key in keys)}]"

    @property
    def entries(self) -> list[str]:
        """What was cited so far, in order."""
        return [ENTRIES[key] for key in self._keys]

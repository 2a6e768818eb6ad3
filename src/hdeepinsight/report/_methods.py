"""A methods paragraph made of what the annotation records, nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hdeepinsight.report._citations import Citations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hdeepinsight.annotation import Annotation, Decision

__all__ = ["methods"]

#: Packages whose versions a recipe may record.
_PACKAGES: Final = {
    "python": "Python",
    **{name: name for name in ("scvi-tools", "torch", "lightning", "anndata", "numpy")},
}
_SETTINGS: Final = {
    "max_epochs": "at most {} epochs",
    "batch_size": "mini-batches of {} cells",
    "max_lr": "a learning rate of at most {}",
    "weight_decay": "a weight decay of {}",
    "seed": "the seed {}",
}
_STEPS: Final = {
    "adapt": "adaptation of the model to the query",
    "refine": "refinement of labels among neighbouring cells",
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
        *_input(result),
        *_decoding(result),
        *_confidence(result, citations),
        *(_decided(decision, result.recipe) for decision in result.decisions),
        *(_comparison(citations) if compared else ()),
        *_software(result.recipe),
    ]
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


def _training(recipe: dict[str, Any], citations: Citations) -> str:
    kept = ""
    if held_out := recipe.get("n_held_out"):
        by = f" by {recipe['split_key']}" if recipe.get("split_key") else ""
        cited = citations.cite("guo2017")
        kept = (
            f", of which {_count(held_out)} were held out{by} to calibrate its probabilities "
            f"{cited}"
        )
    settings = [text.format(recipe[key]) for key, text in _SETTINGS.items() if key in recipe]
    with_settings = f"; training used {', '.join(settings)}" if settings else ""
    n_cells = _count(recipe["n_cells"])
    return f"It was trained on {n_cells} labelled cells{kept}{with_settings}."


def _count(value: object) -> str:
    """Group the digits of a number; what a foreign file has in its place stays as it is."""
    return f"{value:,}" if isinstance(value, int) else str(value)


def _input(result: Annotation) -> Iterator[str]:
    matrix, genes = result.input_report, result.gene_report
    if matrix is not None:
        yield f"Values were read from {matrix.layer} and taken for {matrix.scale}."
    if genes is not None:
        yield (
            f"{genes.n_measured:,} of the model's {genes.n_model:,} genes were measured, which "
            f"carry {genes.coverage:.1%} of the reference's expression."
        )


def _decoding(result: Annotation) -> Iterator[str]:
    yield {
        "joint": "Each cell was followed to its most probable type.",
        "greedy": "Each cell was followed down the tree by the most probable child.",
    }[result.decoder]
    if result.threshold is not None:
        yield (
            "Its label stops at the deepest node that has a probability of at least "
            f"{result.threshold:g}."
        )


def _confidence(result: Annotation, citations: Citations) -> Iterator[str]:
    if result.calibration is not None:
        cells = f"{len(result.calibration):,} {result.calibration.source}"
        yield f"Label sets are conformal {citations.cite('vovk2005')}, calibrated on {cells}."
    if result.novelty is not None:
        yield (
            "Novelty compares each cell with held-out cells of the reference, by one classifier a "
            "lineage and by the Mahalanobis distance to the nearest type "
            f"{citations.cite('lee2018')}."
        )
    if result.max_stop_depth is not None:
        yield (
            "Labels of cells that are strange to the reference, or have no counts of what the "
            "model reads, were stopped earlier."
        )


def _decided(decision: Decision, recipe: dict[str, Any]) -> str:
    step = _STEPS.get(decision.step, decision.step)
    verdict = "was applied" if decision.applied else "was considered and left out"
    details = recipe.get(decision.step)
    method = details.get("method") if decision.applied and isinstance(details, dict) else None
    by = f" ({str(method).replace('_', ' ')})" if method else ""
    return f"{step[:1].upper()}{step[1:]}{by} {verdict}: {decision.reason}."


def _comparison(citations: Citations) -> Iterator[str]:
    yield (
        "Labels were compared with known ones by hierarchical precision and recall "
        f"{citations.cite('kiritchenko2006')} and by expected calibration error "
        f"{citations.cite('naeini2015')}."
    )


def _software(recipe: dict[str, Any]) -> Iterator[str]:
    found = [f"{name} {recipe[key]}" for key, name in _PACKAGES.items() if key in recipe]
    if found:
        yield f"The model was trained with {', '.join(found)}."

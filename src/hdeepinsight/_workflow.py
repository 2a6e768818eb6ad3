"""The whole way of a query in one call: adapt, annotate, refine, and say what was done and why."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from hdeepinsight.annotation import (
    Decision,
    check_decoder,
    check_threshold,
    match_mean_confidence,
    mean_confidence,
    sharpen,
)
from hdeepinsight.data import (
    GeneCoverageWarning,
    ProteinCoverageWarning,
    align_genes,
    is_paired,
    open_paired,
    open_store,
)

if TYPE_CHECKING:
    from anndata import AnnData

    from hdeepinsight.annotation import Annotation, Decoder
    from hdeepinsight.data import DataLike, ScaleMode
    from hdeepinsight.models import SCHDeepInsight
    from hdeepinsight.models.schdeepinsight._base import Query
    from hdeepinsight.tl import Refinement

logger = logging.getLogger(__name__)

Switch = Literal["auto", "on", "off"]

#: Fewer cells say nothing about who resembles whom.
MIN_CELLS = 50
#: Least weight of the neighbours, from 0 to 1, against the overall frequencies of the types.
MIN_WEIGHT = 0.05
#: An adapted model gives the mean of two opinions, which is less sure than either where both agree;
#: its probabilities are raised to this power before neighbours are asked.
SHARPENING = 2.0


def annotate(
    query: Query,
    model: SCHDeepInsight | str | Path = "pbmc",
    *,
    adapt: Switch = "auto",
    refine: Switch = "auto",
    reference: DataLike | None = None,
    batch_key: str | None = None,
    decoder: Decoder = "joint",
    threshold: float | None = 0.5,
    layer: str | None = None,
    use_raw: bool = False,
    scale: ScaleMode = "auto",
    fold_case: bool = False,
) -> Annotation:
    r"""Label a query at every level, by whatever helps that the query itself can confirm.

    Parameters
    ----------
    query
        AnnData, MuData, or path of a file, with raw counts. Nothing is written to it, and no label
        of it is read.
    model
        Trained model, the folder of a saved one, or the address of a published one, which is
        fetched and verified first (:func:`hdeepinsight.hub.resolve_model`); by default the bundled
        model of human blood cells. It is not changed.
    adapt
        ``"auto"`` adapts the model to the query and keeps that if markers which took no part
        speak for it; ``"on"`` keeps it in any case; ``"off"`` uses the model as it is. See
        :meth:`~hdeepinsight.models.SCHDeepInsight.load_query_data`.
    refine
        ``"auto"`` lets neighbouring cells settle their labels together, as strongly as the graph
        turns out to know about labels, and not at all where it knows nothing, or where the
        adaptation found the query to be like one more batch of the reference; ``"on"`` takes even
        those graphs; ``"off"`` leaves every cell to itself. See :func:`hdeepinsight.tl.refine`.
    reference
        The labelled cells that the model was trained on, where they are at hand: the adaptation
        is then checked on them too.
    batch_key
        Column of the query with the batch (sample, donor, chemistry) of every cell.
    decoder, threshold, layer, use_raw, scale, fold_case
        As in :meth:`~hdeepinsight.models.SCHDeepInsight.annotate`.

    Returns
    -------
    The annotation; its ``decisions`` say which steps were taken, why, and on what figures.

    Raises
    ------
    InputError
        If the matrix cannot be read as counts or the genes do not match.
    KeyError
        If ``batch_key`` is no column of the query.
    ValueError
        If a setting is not one of those above, or ``model`` names no model.
    TypeError
        If ``model`` is neither a model nor the name of one.
    HubError
        If a published model cannot be fetched.

    Notes
    -----
    An adaptation reads at most 20,000 cells of the query into memory, a refinement all of them,
    sparse; the annotation itself goes chunk by chunk. Probabilities after either step are no longer
    calibrated on the reference: label sets of such an annotation have no promised coverage, and are
    refused after refinement. A refinement changes labels, but not how sure the annotation is on the
    whole: neighbours resemble each other, so their agreement says less than it seems to.

    Examples
    --------
    The demo cells were measured at few of the model's genes, which is warned of:

    >>> import warnings
    >>> import hdeepinsight as hdi
    >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
    >>> result = hdi.annotate(hdi.datasets.demo().query, adapt="off")
    >>> len(result), [decision.step for decision in result.decisions]
    (210, ['refine'])
    >>> hdi.annotate("query.h5ad", "owner/name").labels  # doctest: +SKIP
    """
    _check_switches(adapt=adapt, refine=refine)
    check_threshold(threshold)
    check_decoder(decoder)
    query = open_paired(query) if is_paired(query) else query
    model = _loaded(model)
    _check_batch_key(batch_key, query, model)
    reading: dict[str, Any] = {
        "layer": layer,
        "use_raw": use_raw,
        "scale": scale,
        "fold_case": fold_case,
    }
    decisions: list[Decision] = []
    at_home = False
    if adapt != "off":
        model, decision, at_home = _adapted(model, query, adapt, reference, batch_key, reading)
        decisions.append(decision)
    result = model.annotate(query, decoder=decoder, threshold=threshold, **reading)
    if refine == "auto" and at_home:
        reason = (
            "the query is like one more batch of the reference, where it costs more than it helps"
        )
        decisions.append(Decision(step="refine", applied=False, reason=reason))
    elif refine != "off":
        result, decision = _refined(result, model, query, refine, batch_key, reading)
        decisions.append(decision)
    for decision in decisions:
        logger.info("%s", decision)
    return replace(result, decisions=tuple(decisions))


@contextmanager
def _coverage_is_said_once() -> Iterator[None]:
    """Leave it to the annotation to warn of features that the query lacks."""
    with warnings.catch_warnings():
        for category in (GeneCoverageWarning, ProteinCoverageWarning):
            warnings.simplefilter("ignore", category)
        yield


def _check_switches(**switches: str) -> None:
    for name, value in switches.items():
        if value not in get_args(Switch):
            raise ValueError(
                f"Found {name}={value!r}. Valid are {list(get_args(Switch))}. Choose one of these."
            )


def _loaded(model: SCHDeepInsight | str | Path) -> SCHDeepInsight:
    from hdeepinsight.hub._resolve import load_model
    from hdeepinsight.models import SCHDeepInsight

    if isinstance(model, str | Path):
        return load_model(model)
    if not isinstance(model, SCHDeepInsight):
        msg = (
            f"The model is a {type(model).__name__}. Valid are a SCHDeepInsight, and the name, "
            "folder or address of one. Pass the query first and the model second."
        )
        raise TypeError(msg)
    return model


def _check_batch_key(batch_key: str | None, query: Query, model: SCHDeepInsight) -> None:
    if batch_key is None:
        return
    obs = model._modalities.obs_of(query) if is_paired(query) else open_store(query).obs
    if batch_key not in obs:
        raise KeyError(
            f"The query's obs has no {batch_key!r}; it holds {list(obs.columns)}. Name "
            "the column of batches, or leave batch_key out."
        )


@_coverage_is_said_once()
def _adapted(
    model: SCHDeepInsight,
    query: Query,
    adapt: Switch,
    reference: DataLike | None,
    batch_key: str | None,
    reading: dict[str, Any],
) -> tuple[SCHDeepInsight, Decision, bool]:
    """Return the model of the query, or the model itself where nothing is gained.

    Also say whether the query is like one more batch of the reference.
    """
    mapped = model.load_query_data(
        query, model, reference=reference, batch_key=batch_key, **reading
    )
    mapped.train(guard=adapt == "auto")
    report = mapped.adaptation
    assert report is not None  # train() leaves one
    figures = {
        "labels changed": report.figures.changed,
        "held-out marker score": report.figures.held_out_marker_score,
    }
    decision = Decision(
        step="adapt", applied=mapped.is_adapted, reason=report.reason, figures=figures
    )
    chosen = mapped if mapped.is_adapted else model
    return chosen, decision, report.figures.like_a_batch


@_coverage_is_said_once()
def _refined(
    result: Annotation,
    model: SCHDeepInsight,
    query: Query,
    refine: Switch,
    batch_key: str | None,
    reading: dict[str, Any],
) -> tuple[Annotation, Decision]:
    """Refine on the graph of the query's cells, or say why not."""
    from hdeepinsight import tl
    from hdeepinsight.models import AdaptedSCHDeepInsight

    if len(result) < MIN_CELLS:
        reason = f"{len(result)} cells are too few for a graph; it takes {MIN_CELLS}"
        return result, Decision(step="refine", applied=False, reason=reason)
    n_lacking = int((~model._modalities.has_rna(query)).sum()) if is_paired(query) else 0
    if n_lacking:
        reason = f"{n_lacking} cells have no RNA, by which they could be compared with others"
        return result, Decision(step="refine", applied=False, reason=reason)
    cells = _cells_of(model, query, batch_key, reading)
    tl.expression_pca(cells, key_added="X_pca")
    asked = sharpen(result, SHARPENING) if isinstance(model, AdaptedSCHDeepInsight) else result
    refinement = tl.refine(cells, asked, batch_key=batch_key)
    decision = _judged(refinement, refine)
    if not decision.applied:
        return result, decision
    # Neighbours resemble each other, so they are less than independent witnesses: their labels are
    # taken over, but not the certainty that they seem to add.
    refined = match_mean_confidence(refinement.annotation(), mean_confidence(asked))
    refined = replace(
        result,
        node_probabilities=refined.node_probabilities,
        calibration=None,
        recipe={**result.recipe, "refine": refinement.parameters},
    )
    return refined, decision


def _judged(refinement: Refinement, refine: Switch) -> Decision:
    """Decide by the strength that the refinement estimated for itself, without labels."""
    strength = float(refinement.parameters["lam"])
    weight = strength / (1 + strength)
    changed = float(refinement.changed.mean())
    informative = weight >= MIN_WEIGHT
    reason = (
        "neighbours in the graph share their labels"
        if informative
        else "the graph says nothing about labels that their overall frequencies do not"
    )
    if not informative and refine == "on":
        reason = f"it was asked for, although {reason}"
    return Decision(
        step="refine",
        applied=informative or refine == "on",
        reason=reason,
        figures={"weight of neighbours": weight, "labels changed": changed},
    )


def _cells_of(
    model: SCHDeepInsight, query: Query, batch_key: str | None, reading: dict[str, Any]
) -> AnnData:
    """Fresh AnnData of all RNA counts of a query, read as the model reads them, with batches."""
    import anndata as ad

    source, _ = model._open(query, **reading)
    names = list(dict.fromkeys(source.var_names))
    cells = ad.AnnData(source.read(align_genes(source.var_names, names)))
    cells.obs_names = source.obs_names
    if batch_key is not None:
        cells.obs[batch_key] = source.obs[batch_key].astype(str).to_numpy()
    return cells

"""The whole way of a query in one call: adapt, annotate, refine, and say what was done and why."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from hdeepinsight import tl
from hdeepinsight._errors import check_choice, missing_column
from hdeepinsight.annotation import (
    Decision,
    Reject,
    check_decoder,
    check_threshold,
    match_mean_confidence,
    mean_confidence,
    sharpen,
)
from hdeepinsight.hub import load_model

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from hdeepinsight.annotation import Annotation, Decoder
    from hdeepinsight.data import AlignedQuery, DataLike, ScaleMode
    from hdeepinsight.models import SCHDeepInsight
    from hdeepinsight.tl import Refinement

logger = logging.getLogger(__name__)

Switch = Literal["auto", "on", "off"]

#: Fewer cells say nothing about who resembles whom.
MIN_CELLS = 50
#: Least weight of the neighbours, from 0 to 1, against the overall frequencies of the types.
MIN_WEIGHT = 0.05
#: An adapted model gives the mean of network and profiles, which is less sure than either;
#: its probabilities are raised to this power before neighbours are asked.
SHARPENING = 2.0


def annotate(
    query: Any,
    model: SCHDeepInsight | str | Path = "pbmc",
    *,
    adapt: Switch = "auto",
    refine: Switch = "auto",
    reference: DataLike | None = None,
    batch_key: str | None = None,
    decoder: Decoder = "joint",
    threshold: float | None = 0.5,
    reject: Reject = "auto",
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
    decoder, threshold, reject, layer, use_raw, scale, fold_case
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
    for name, value in (("adapt", adapt), ("refine", refine)):
        check_choice(name, value, get_args(Switch))
    check_threshold(threshold)
    check_decoder(decoder)
    check_choice("reject", reject, get_args(Reject), "Use 'auto' to begin with.")
    model = load_model(model)
    opened = model.open(query, layer=layer, use_raw=use_raw, scale=scale, fold_case=fold_case)
    if batch_key is not None and batch_key not in opened.obs:
        hint = "Omit batch_key to treat all cells as one batch."
        raise missing_column(batch_key, opened.obs, where="The query's obs", hint=hint)
    decisions: list[Decision] = []
    like_a_batch = False
    if adapt != "off" and model.adapter_ is None:
        model, decision, like_a_batch = _adapted(model, opened, adapt, reference, batch_key)
        decisions.append(decision)
    elif adapt != "off":
        reason = "the model was adapted to a query before"
        decisions.append(Decision(step="adapt", applied=False, reason=reason))
    obstacle = _obstacle(opened, refine, like_a_batch)
    kept: list[csr_matrix] | None = [] if refine != "off" and not obstacle else None
    result = model.annotate(opened, decoder=decoder, threshold=threshold, reject=reject, keep=kept)
    if kept is not None:
        result, decision = _refined(result, model, opened, kept, refine, batch_key)
        decisions.append(decision)
    elif obstacle:
        decisions.append(Decision(step="refine", applied=False, reason=obstacle))
    for decision in decisions:
        logger.info("%s", decision)
    found: Annotation = replace(result, decisions=tuple(decisions))
    return found


def _adapted(
    model: SCHDeepInsight,
    opened: AlignedQuery,
    adapt: Switch,
    reference: DataLike | None,
    batch_key: str | None,
) -> tuple[SCHDeepInsight, Decision, bool]:
    """Return the model of the query, or the model itself where nothing is gained.

    Also say whether the query is like one more batch of the reference.
    """
    adapted = model.load_query_data(opened, model, reference=reference, batch_key=batch_key)
    adapted.train(plan_kwargs={"guard": adapt == "auto"})
    report = adapted.adaptation
    markers = report.figures.held_out_marker_score
    figures = {"labels changed": report.figures.changed, "held-out markers": markers}
    decision = Decision(
        step="adapt", applied=adapted.is_adapted, reason=report.reason, figures=figures
    )
    chosen = adapted if adapted.is_adapted else model
    return chosen, decision, report.figures.like_a_batch


def _obstacle(opened: AlignedQuery, refine: Switch, like_a_batch: bool) -> str:
    """Say why there is no graph to refine on; empty if there is one."""
    if refine == "off":
        return ""
    if like_a_batch and refine == "auto":
        return (
            "the query is like one more batch of the reference, where it costs more than it helps"
        )
    if opened.n_obs < MIN_CELLS:
        return f"{opened.n_obs} cells are too few for a graph; it takes {MIN_CELLS}"
    has_rna = opened.extra.has_rna
    if has_rna is not None and not has_rna.all():
        n_lacking = int((~has_rna).sum())
        return f"{n_lacking} cells have no RNA, by which they could be compared with others"
    return ""


def _refined(
    result: Annotation,
    model: SCHDeepInsight,
    opened: AlignedQuery,
    kept: list[csr_matrix],
    refine: Switch,
    batch_key: str | None,
) -> tuple[Annotation, Decision]:
    """Refine on the graph of the query's cells, or say why not."""
    asked = sharpen(result, SHARPENING) if model.is_adapted else result
    try:
        points = tl.expression_pca(kept)
        refinement = tl.refine(opened, asked, use_rep=points, batch_key=batch_key)
    except Exception as error:
        if refine == "on":
            raise
        # An optional step never costs the annotation: numba, for one, fails where it cannot cache.
        reason = f"it failed ({type(error).__name__}: {str(error)[:200]}); refine='on' says where"
        return result, Decision(step="refine", applied=False, reason=reason)
    decision = _weighed(refinement, refine)
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


def _weighed(refinement: Refinement, refine: Switch) -> Decision:
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

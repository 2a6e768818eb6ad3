"""The whole way of a query in one call: adapt, annotate, refine, and say what was done and why."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

import hdeepinsight as hdi
from hdeepinsight._distributed import annotate_on, check_workers, connected
from hdeepinsight._errors import check_choice, counted, invalid, missing_column
from hdeepinsight._progress import progress as working
from hdeepinsight._progress import progress_wanted
from hdeepinsight.annotation import (
    Decision,
    Reject,
    check_decoding,
    leaves_named,
    match_mean_confidence,
    mean_confidence,
    sharpen,
)
from hdeepinsight.hub import load_annotator

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from hdeepinsight.annotation import Annotation, Decoder
    from hdeepinsight.data import AlignedQuery, DataLike, ScaleMode
    from hdeepinsight.models import HierarchicalClassifierMixin

logger = logging.getLogger(__name__)

Switch = Literal["auto", "on", "off"]

#: Fewer cells say nothing about who resembles whom.
MIN_CELLS = 50
#: Least weight of the neighbours, from 0 to 1, against the overall frequencies of the types.
MIN_WEIGHT = 0.05
#: Probabilities are raised to this power before neighbours are asked, so that only cells change
#: of which the model is unsure. An adapted model, which is less sure than it is right, keeps half
#: of what that adds to its mean confidence.
SHARPENING = 2.0
#: The model that comes with the package.
BUNDLED = "pbmc"
#: As ``vote=True``, where only words can be given.
CLUSTER = "auto"
#: Arguments of other tools, and ours that do the same.
_ELSEWHERE = {
    **dict.fromkeys(("majority_voting", "over_clustering", "min_prop"), "vote"),
    **dict.fromkeys(("p_thres", "mode"), "threshold"),
    **{"adata": "query", "verbose": "progress"},
}


def annotate(
    query: Any,
    model: HierarchicalClassifierMixin | str | Path = BUNDLED,
    *,
    markers: hdi.tl.MarkersLike | hdi.tl.MarkerScorer | None = None,
    adapt: Switch = "auto",
    refine: Switch = "auto",
    vote: bool | str = False,
    types: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    reference: DataLike | None = None,
    batch_key: str | None = None,
    decoder: Decoder = "joint",
    threshold: float | None = 0.5,
    reject: Reject = "auto",
    layer: str | None = None,
    use_raw: bool = False,
    scale: ScaleMode = "auto",
    fold_case: bool = False,
    client: Any = None,
    progress: bool = True,
    **unexpected: Any,
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
    markers
        Label by a list of marker genes instead, without a model or a reference: ``"blood"``, a
        dict, a file, or a :class:`hdeepinsight.tl.MarkerScorer`. There is nothing to adapt, and no
        verdict. See :func:`hdeepinsight.tl.score_markers`.
    adapt
        ``"auto"`` adapts the model to the query and follows each change from one type to another
        as far as network, profiles and markers which took no part support it; ``"on"`` follows
        all; ``"off"`` uses the model as it is. See
        :meth:`~hdeepinsight.models.SCHDeepInsight.load_query_data`.
    refine
        ``"auto"`` smooths labels over the graph of neighbouring cells, as strongly as the graph
        turns out to know about labels, and not at all where it knows nothing, or where the
        adaptation found the query to be like one more batch of the reference; ``"on"`` takes even
        those graphs; ``"off"`` leaves every cell to itself. See :func:`hdeepinsight.tl.refine`.
    vote
        ``True`` over-clusters the cells and lets the cells of a cluster vote on their label, level
        by level; the name of a column of ``obs``, such as ``"leiden"``, takes its clusters. Known
        elsewhere as majority voting. See :func:`hdeepinsight.tl.vote`.
    types, exclude
        Nodes of the taxonomy at any level, by name, to which the answer is restricted, as for
        sorted cells, or which are ruled out. See
        :meth:`~hdeepinsight.annotation.Annotation.restricted`.
    reference
        The labelled cells that the model was trained on; needed to adapt a model that was saved
        without their mean profiles.
    batch_key
        Column of the query with the batch (sample, donor, chemistry) of every cell.
    decoder, threshold, reject, layer, use_raw, scale, fold_case
        As in :meth:`~hdeepinsight.models.SCHDeepInsight.annotate`.
    client
        A ``distributed.Client``, or the address of a dask scheduler (``"tcp://host:8786"``), on
        whose workers the cells are annotated; they read the file by themselves, so it has to be
        where all of them see it. Labels are those of one process to the last bit. Adapting the
        model and voting by a column are done here, on what they need; a refinement and clusters of
        cells need all cells in one memory, so that ``refine="auto"`` leaves them out, and
        ``refine="on"``, ``vote=True`` and ``markers`` are refused. Needs the extra
        ``distributed``; see :doc:`/user_guide/several_machines`.
    progress
        Show how far the work is, in terminals and notebooks.
    **unexpected
        Refused, with the argument that is meant.

    Returns
    -------
    The annotation; its ``verdict`` says whether the query looks like what the model knows, and its
    ``decisions`` which steps were taken, why, and on what figures. A query that does not (a red
    verdict) is neither adapted to nor refined by ``"auto"``.

    Raises
    ------
    InputError
        If the matrix cannot be read as counts or the genes do not match.
    KeyError
        If ``batch_key`` or ``vote`` is no column of the query.
    ValueError
        If a setting is not one of those above, ``model`` names no model, or ``types`` or
        ``exclude`` a node that the model does not know.
    TypeError
        If ``model`` is neither a model nor the name of one, or there is no such argument.
    HubError
        If a published model cannot be fetched.
    ConnectionError, RuntimeError, FileNotFoundError
        If the scheduler of ``client`` is not there, has no worker with this version of the package,
        or one that does not see the file.

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
    >>> query = hdi.datasets.demo().query
    >>> result = hdi.annotate(query, adapt="off")
    >>> len(result), [decision.step for decision in result.decisions]
    (210, ['refine'])
    >>> sorted_cells = hdi.annotate(query, adapt="off", refine="off", types=["T", "NK"])
    >>> sorted_cells.labels["lineage"].cat.categories.tolist()
    ['Unknown', 'T', 'NK']
    >>> hdi.annotate("query.h5ad", "owner/name").labels  # doctest: +SKIP
    """
    if unexpected:
        raise _no_such_argument(next(iter(unexpected)))
    for name, value in (("adapt", adapt), ("refine", refine)):
        check_choice(name, value, get_args(Switch))
    if not isinstance(vote, bool | str):
        expected = "True, False, or the name of a column of the query"
        raise invalid("vote", vote, expected, "Pass True to cluster the cells here.")
    check_decoding(threshold, decoder, reject)
    if client is not None:
        _check_needs_few(markers, refine, vote)
        query = Path(query).absolute() if isinstance(query, str | Path) else query
    with progress_wanted(progress), connected(client) as cluster:
        scorer = None if markers is None else _scorer(markers, model, adapt, reference)
        with working("Loading the model"):
            using: Any = scorer or load_annotator(model)
        for argument, names in (("types", types), ("exclude", exclude)):
            leaves_named(using.taxonomy, argument, names)
        with working("Checking the query"):
            opened = using.open(
                query, layer=layer, use_raw=use_raw, scale=scale, fold_case=fold_case
            )
        if cluster is not None:
            opened.portable()  # or it is refused
            check_workers(cluster, *([query] if isinstance(query, Path) else []))
        _check_columns(opened, batch_key, vote)
        decisions: list[Decision] = []
        like_a_batch = False
        if adapt == "off" or scorer is not None:
            pass
        elif using.adapter_ is not None:
            reason = "the model was adapted to a query before"
            decisions.append(Decision(step="adapt", applied=False, reason=reason))
        else:
            using, decision, like_a_batch = _adapted(using, opened, adapt, reference, batch_key)
            decisions.append(decision)
        obstacle = "" if refine == "off" else _obstacle(opened, refine, like_a_batch)
        if cluster is not None and refine != "off":
            obstacle = "its graph takes all cells in one memory, and they are on several workers"
        kept: list[csr_matrix] = []  # for the graph and clusters of cells, in the same pass
        wanted = (refine != "off" and not obstacle) or vote in (True, CLUSTER)
        how: dict[str, Any] = {"decoder": decoder, "threshold": threshold}
        if scorer is None:
            how["reject"] = reject
        if cluster is not None:
            result = annotate_on(cluster, using, opened, **how)
        else:
            result = using.annotate(opened, keep=kept if wanted else None, **how)
        if types is not None or exclude:
            result = result.restricted(types, exclude=exclude)
        if refine == "auto" and not obstacle and result.verdict and result.verdict.light == "red":
            # Clusters of cells that are not known would only make errors look certain.
            obstacle = "the query does not look like what the model knows (see the verdict)"
        points = cache(lambda: hdi.tl.expression_pca(kept))
        if obstacle:
            decisions.append(Decision(step="refine", applied=False, reason=obstacle))
        elif refine != "off":
            is_adapted = scorer is None and using.is_adapted
            asked = result if scorer else sharpen(result, SHARPENING)
            result, decision = _refined(
                result, asked, opened, points, refine, batch_key, halfway=is_adapted
            )
            decisions.append(decision)
        if vote:
            result, decision = _voted(result, opened, points, vote)
            decisions.append(decision)
    for decision in decisions:
        logger.info("%s", decision)
    found: Annotation = replace(result, decisions=(*result.decisions, *decisions))
    return found


def _scorer(
    markers: hdi.tl.MarkersLike | hdi.tl.MarkerScorer, model: Any, adapt: Switch, reference: Any
) -> hdi.tl.MarkerScorer:
    """Return what labels by markers; nothing of a model goes with it."""
    both = [
        *(["model"] if model is not BUNDLED and model != BUNDLED else []),
        *(["adapt='on'"] if adapt == "on" else []),
        *(["reference"] if reference is not None else []),
    ]
    if both:
        raise ValueError(
            f"markers= label cells without a model, so {' and '.join(both)} cannot be had with it. "
            "Omit one or the other."
        )
    return markers if isinstance(markers, hdi.tl.MarkerScorer) else hdi.tl.MarkerScorer(markers)


def _check_needs_few(markers: Any, refine: Switch, vote: bool | str) -> None:
    """Raise where what was asked for cannot be had of cells on several workers."""
    asked = [
        *(["markers="] if markers is not None else []),
        *(["refine='on'"] if refine == "on" else []),
        *([f"vote={vote!r}"] if vote in (True, CLUSTER) else []),
    ]
    if asked:
        raise ValueError(
            f"{' and '.join(asked)} cannot be had with client=, as the cells are on several "
            "workers: a model, no graph and a column of clusters can. Omit one or the other."
        )


def _no_such_argument(name: str) -> TypeError:
    """Return the error of an argument that `annotate` does not have, with the one that is meant."""
    known = [each for each in signature(annotate).parameters if each != "unexpected"]
    meant = _ELSEWHERE.get(name) or next(iter(get_close_matches(name, known, 1)), "")
    advice = {
        "vote": "Pass vote=True to over-cluster the cells and let every cluster vote, or "
        "vote='leiden' to take the clusters of a column.",
        "": "Omit it.",
    }.get(meant, f"Pass {meant}= if that is meant.")
    return TypeError(f"annotate has no argument {name!r}; it has {', '.join(known)}. {advice}")


def _check_columns(opened: AlignedQuery, batch_key: str | None, vote: bool | str) -> None:
    """Raise before any cell is read where a column is not there, or has cells without a cluster."""
    clusters = vote if isinstance(vote, str) and vote != CLUSTER else None
    hints = {
        batch_key: "Omit batch_key to treat all cells as one batch.",
        clusters: "Pass vote=True to cluster the cells here.",
    }
    for name, hint in hints.items():
        if name is not None and name not in opened.obs:
            raise missing_column(name, opened.obs, where="The query's obs", hint=hint)
    if clusters is not None and (n_without := int(opened.obs[clusters].isna().sum())):
        raise ValueError(
            f"vote={clusters!r} must name a column with a cluster for every cell, got one in which "
            f"{counted(n_without, 'cell')} of {opened.n_obs:,} have none. Pass vote=True to "
            "cluster the cells here."
        )


def _adapted(
    model: HierarchicalClassifierMixin,
    opened: AlignedQuery,
    adapt: Switch,
    reference: DataLike | None,
    batch_key: str | None,
) -> tuple[HierarchicalClassifierMixin, Decision, bool]:
    """Return the model of the query, or the model itself where nothing is gained.

    Also say whether the query is like one more batch of the reference.
    """
    with working("Adapting the model"):
        adapted = model.load_query_data(opened, model, reference=reference, batch_key=batch_key)
        adapted.train(plan_kwargs={"guard": adapt == "auto"})
    report: Any = adapted.adaptation
    markers = report.figures.held_out_marker_score
    figures = {"labels changed": report.figures.changed, "held-out markers": markers}
    reason = report.reason
    if adapted.is_adapted and report.figures.changed:
        reason = f"{_changed(report.figures.changed, report.n_cells)}; {reason}"
    decision = Decision(step="adapt", applied=adapted.is_adapted, reason=reason, figures=figures)
    chosen = adapted if adapted.is_adapted else model
    return chosen, decision, report.figures.like_a_batch


def _changed(share: float, n_cells: int) -> str:
    """Say how many labels a step changed."""
    return f"{round(share * n_cells):,} of {counted(n_cells, 'label')} changed ({share:.1%})"


def _obstacle(opened: AlignedQuery, refine: Switch, like_a_batch: bool) -> str:
    """Say why there is no graph to refine on; empty if there is one."""
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
    asked: Annotation,
    opened: AlignedQuery,
    points: Callable[[], NDArray[np.float32]],
    refine: Switch,
    batch_key: str | None,
    *,
    halfway: bool,
) -> tuple[Annotation, Decision]:
    """Refine what neighbours are asked on the graph of the query's cells, or say why not."""
    confidence = mean_confidence(result)
    if halfway:  # an adapted model is less sure than it is right
        confidence = (confidence + mean_confidence(asked)) / 2
    try:
        with working("Smoothing labels over the neighbour graph"):
            refinement = hdi.tl.refine(opened, asked, use_rep=points(), batch_key=batch_key)
    except Exception as error:
        if refine == "on":
            raise
        # An optional step never costs the annotation: numba, for one, fails where it cannot cache.
        return result, Decision(step="refine", applied=False, reason=_failure(error, "refine='on'"))
    # How far neighbours agree was estimated without labels.
    strength = float(refinement.parameters["lam"])
    weight, changed = strength / (1 + strength), float(refinement.changed.mean())
    reason = "neighbours in the graph share their labels"
    if weight < MIN_WEIGHT:
        reason = "the graph says nothing about labels that their overall frequencies do not"
        reason = f"it was asked for, although {reason}" if refine == "on" else reason
    applied = weight >= MIN_WEIGHT or refine == "on"
    if applied:
        reason = f"{_changed(changed, len(result))}; {reason}"
    figures = {"weight of neighbours": weight, "labels changed": changed}
    decision = Decision(step="refine", applied=applied, reason=reason, figures=figures)
    if not applied:
        return result, decision
    # Neighbours resemble each other, so they are less than independent witnesses: their labels are
    # taken over, but not the certainty that they seem to add.
    refined = match_mean_confidence(refinement.annotation(), confidence)
    return _with(result, refined.node_probabilities, refine=refinement.parameters), decision


def _voted(
    result: Annotation,
    opened: AlignedQuery,
    points: Callable[[], NDArray[np.float32]],
    vote: bool | str,
) -> tuple[Annotation, Decision]:
    """Let clusters vote, or say why not."""
    try:
        with working("Letting clusters vote"):
            own = vote in (True, CLUSTER)
            options = {"use_rep": points()} if own else {"clusters": vote}
            found = hdi.tl.vote(opened, result, **options)
    except (ValueError, RuntimeError) as error:
        return result, Decision(step="vote", applied=False, reason=_failure(error, "hdi.tl.vote"))
    changed = float(found.changed.mean())
    undecided = int((found.table["node"] == 0).sum())
    clusters = f"clusters of {'the cells' if own else repr(vote)}"
    reason = f"{_changed(changed, len(result))} in {len(found.table):,} {clusters}"
    if undecided:
        reason += f", of which {undecided:,} had no majority"
    recipe = {"clusters": "k-means" if own else str(vote), "n_clusters": len(found.table)}
    figures = {"labels changed": changed}
    decision = Decision(step="vote", applied=True, reason=reason, figures=figures)
    return _with(result, found.node_probabilities, vote=recipe), decision


def _with(result: Annotation, probabilities: np.ndarray, **recipe: Any) -> Annotation:
    """Return the annotation with other probabilities, which nothing is calibrated for."""
    return replace(
        result,
        node_probabilities=probabilities,
        calibration=None,
        recipe={**result.recipe, **recipe},
    )


def _failure(error: Exception, advice: str) -> str:
    text = str(error).removesuffix(".")[:200]
    if isinstance(error, ValueError):  # which says what the query lacks
        return f"{text[:1].lower()}{text[1:].split('. ')[0]}"
    return f"it failed ({type(error).__name__}: {text}); {advice} says where"

"""Annotate a query in one call: adapt, label, refine and vote, and record each decision."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

import hdeepinsight as hdi
from hdeepinsight._distributed import annotate_on, check_workers, connected
from hdeepinsight._errors import batch_column, check_choice, counted, invalid, one_column
from hdeepinsight._progress import progress as working
from hdeepinsight._progress import progress_wanted
from hdeepinsight.annotation import Annotation, Decision
from hdeepinsight.data import AlignedQuery, ScaleMode
from hdeepinsight.hub import load_annotator

logger = logging.getLogger(__name__)

Switch = Literal["auto", "on", "off"]

#: Smallest query for which a neighbour graph is built.
MIN_CELLS = 50
#: Smallest weight of the neighbours, from 0 to 1 and relative to the overall label frequencies,
#: at which labels are smoothed.
MIN_WEIGHT = 0.05
#: How far probabilities of a model move to smoothed ones: neighbours are not independent evidence.
REFINED_SHARE = 0.5
#: Name of the model that comes with the package.
BUNDLED = "pbmc"
#: Value of ``vote`` with the meaning of ``True``, for the command line.
CLUSTER = "auto"
#: Arguments of other tools, with the equivalent argument of `annotate`.
_EQUIVALENT_ARGUMENTS = {
    **dict.fromkeys(("majority_voting", "over_clustering", "min_prop"), "vote"),
    **dict.fromkeys(("p_thres", "mode"), "threshold"),
    **{"adata": "query", "verbose": "progress", "level": "labels", "levels": "labels"},
}


def annotate(
    query: Any,
    model: hdi.models.HierarchicalClassifierMixin | str | Path = BUNDLED,
    *,
    markers: hdi.tl.MarkersLike | hdi.tl.MarkerScorer | None = None,
    adapt: Switch = "auto",
    refine: Switch = "auto",
    vote: bool | str = False,
    types: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    batch_key: str | None = None,
    decoder: hdi.annotation.Decoder = "joint",
    threshold: float | None = 0.5,
    reject: hdi.annotation.Reject = "auto",
    layer: str | None = None,
    use_raw: bool = False,
    scale: ScaleMode = "auto",
    fold_case: bool = False,
    client: Any = None,
    progress: bool = True,
    **unexpected: Any,
) -> Annotation:
    r"""Annotate a query at every level, with adaptation and refinement where they help.

    Whether a step helps is decided on the query itself, without its labels.

    Parameters
    ----------
    query
        AnnData, MuData, or path of a file, with raw counts. Nothing is written to it, and none of
        its labels are read.
    model
        Trained model, folder of a saved model, or address of a published model, which is
        downloaded and verified first (:func:`hdeepinsight.hub.resolve_model`); by default the
        bundled model of human blood cells, ``"pbmc"``. It is not modified.
    markers
        Label the cells by a list of marker genes instead of a model: ``"blood"``, a dict, a file,
        or a :class:`hdeepinsight.tl.MarkerScorer`. Nothing is adapted, and there is no verdict.
        See :func:`hdeepinsight.tl.score_markers`.
    adapt
        ``"auto"`` adapts the model to the query and accepts changes from one type to another to
        the extent that the network, the mean profiles and held-out marker genes support them;
        ``"on"`` accepts all changes; ``"off"`` uses the model unchanged. See
        :meth:`~hdeepinsight.models.SCHDeepInsight.load_query_data`.
    refine
        ``"auto"`` smooths labels over the k-nearest neighbour graph of the cells. The strength is
        estimated from how well neighbours predict labels; labels are not smoothed if the graph is
        uninformative or the adaptation found that the query resembles another batch of the
        reference. ``"on"`` smooths even then; ``"off"`` labels each cell independently. See
        :func:`hdeepinsight.tl.refine`.
    vote
        Majority voting: ``True`` over-clusters the cells and assigns the majority label of each
        cluster, level by level; the name of a column of ``obs``, such as ``"leiden"``, uses these
        clusters. See :func:`hdeepinsight.tl.vote`.
    types, exclude
        Names of taxonomy nodes at any level: the only types allowed, for example in sorted cells,
        and the types that are ruled out. See
        :meth:`~hdeepinsight.annotation.Annotation.restricted`.
    batch_key
        Column of the query's ``obs`` with the batch (sample, donor, chemistry) of each cell.
    decoder, threshold, reject, layer, use_raw, scale, fold_case
        As in :meth:`~hdeepinsight.models.SCHDeepInsight.annotate`.
    client
        A ``distributed.Client``, or the address of a dask scheduler (``"tcp://host:8786"``), to
        annotate on its workers, with exactly the labels of a single process. The workers read the
        query themselves, so its path must be valid on all of them. Adaptation and voting by a
        column run locally. Refinement and clustering need all cells in memory: ``refine="auto"``
        skips refinement, and ``refine="on"``, ``vote=True`` and ``markers`` raise an error. Needs
        the ``distributed`` extra; see :doc:`/user_guide/several_machines`.
    progress
        Show progress in terminals and notebooks.
    **unexpected
        Raises an error that suggests the intended argument.

    Returns
    -------
    The annotation. Its ``verdict`` tells whether the query resembles the model's reference; its
    ``decisions`` list each step with whether it was applied, why, and the figures behind it. With
    ``"auto"``, a query that does not resemble the reference (a red verdict) is neither adapted to
    nor refined.

    Raises
    ------
    InputError
        If the matrix cannot be read as counts or the genes do not match.
    KeyError
        If ``batch_key`` or ``vote`` is not a column of the query.
    ValueError
        If a setting is invalid, no model is called ``model``, or a name in ``types`` or
        ``exclude`` is not in the taxonomy.
    TypeError
        If ``model`` is neither a model nor a string or path, or an argument does not exist.
    HubError
        If a published model cannot be downloaded.
    ConnectionError, RuntimeError, FileNotFoundError
        If the scheduler cannot be reached or has no workers, or a worker lacks this version of the
        package or the file.

    Notes
    -----
    Adaptation reads at most 20,000 cells of the query into memory, refinement reads all of them as
    a sparse matrix; the annotation itself is computed in chunks. After either step, probabilities
    are no longer calibrated on the reference: label sets have no guaranteed coverage after
    adaptation, and raise an error after refinement. Refinement moves probabilities half of the way,
    because neighbouring cells are not independent evidence.

    Examples
    --------
    Few of the model's genes were measured in the demo cells, hence the warning:

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
        raise _unexpected_argument(next(iter(unexpected)))
    for name, value in (("adapt", adapt), ("refine", refine)):
        check_choice(name, value, get_args(Switch))
    if not isinstance(vote, bool | str):
        expected = "True, False, or the name of a column of the query"
        raise invalid("vote", vote, expected, "Pass True to cluster the cells here.")
    hdi.annotation.check_decoding(threshold, decoder, reject)
    unused = refine == "off" and (adapt == "off" or markers is not None) and batch_key is not None
    _refuse({"batch_key": unused}, "{} has no effect with refine='off' and without adaptation.")
    if client is not None:
        everywhere = {"markers=": markers is not None, "refine='on'": refine == "on"}
        everywhere[f"vote={vote!r}"] = vote in (True, CLUSTER)
        _refuse(everywhere, "{} cannot be combined with client=: it needs all cells in memory.")
        query = Path(query).absolute() if isinstance(query, str | os.PathLike) else query
    scorer = None
    if markers is not None:
        of_model = {"a model": str(model) != BUNDLED, "adapt='on'": adapt == "on"}
        of_model["reject='off'"] = reject == "off"
        reason = "because the marker genes replace the model"
        _refuse(of_model, f"markers must be passed without {{}}, {reason}.")
        is_scorer = isinstance(markers, hdi.tl.MarkerScorer)
        scorer = markers if is_scorer else hdi.tl.MarkerScorer(markers)
    with progress_wanted(progress), connected(client) as cluster:
        with working("Loading the model"):
            using: Any = scorer or load_annotator(model)
        hdi.annotation.allowed_leaves(using.taxonomy, types, exclude)
        with working("Checking the query"):
            opened = using.open(
                query, layer=layer, use_raw=use_raw, scale=scale, fold_case=fold_case
            )
        if cluster is not None:
            opened.portable()  # raises if the counts are in memory
            check_workers(cluster, *([query] if isinstance(query, Path) else []))
        _check_columns(opened, batch_key, vote)
        decisions: list[Decision] = []
        like_a_batch = False
        if adapt != "off" and scorer is None:
            using, decision, like_a_batch = _adapted(using, opened, adapt, batch_key)
            decisions.append(decision)
        obstacle = "" if refine == "off" else _obstacle(opened, refine, like_a_batch)
        if cluster is not None and refine != "off":
            obstacle = "the graph needs all cells in memory, but they are spread over workers"
        kept: list[csr_matrix] = []  # expression for the graph and clusters, from the same pass
        keep = kept if (refine != "off" and not obstacle) or vote in (True, CLUSTER) else None
        settings: dict[str, Any] = {"decoder": decoder, "threshold": threshold}
        if scorer is None:
            settings["reject"] = reject
        if cluster is not None:
            result = annotate_on(cluster, using, opened, **settings)
        else:
            result = using.annotate(opened, keep=keep, **settings)
        result = result.restricted(types, exclude=exclude)
        if refine == "auto" and not obstacle and result.verdict and result.verdict.light == "red":
            # Neighbours of the same unknown type would only make errors look certain.
            obstacle = "the query does not resemble the model's reference (see the verdict)"
        points = cache(lambda: hdi.tl.expression_pca(kept))
        if obstacle:
            decisions.append(Decision(step="refine", applied=False, reason=obstacle))
        elif refine != "off":
            share = 1.0 if scorer else REFINED_SHARE
            result, decision = _refined(result, opened, points, refine, batch_key, share)
            decisions.append(decision)
        if vote:
            result, decision = _voted(result, opened, points, vote)
            decisions.append(decision)
    for decision in decisions:
        logger.info("%s", decision)
    return replace(result, decisions=(*result.decisions, *decisions))


def _refuse(arguments: dict[str, bool], problem: str) -> None:
    """Raise ``ValueError`` with the arguments that were given, if any."""
    if given := " and ".join(name for name, is_given in arguments.items() if is_given):
        raise ValueError(f"{problem.format(given)} Omit one or the other.")


def _unexpected_argument(name: str) -> TypeError:
    """Return the error for an argument that does not exist, with the likely intended one."""
    known = [each for each in signature(annotate).parameters if each != "unexpected"]
    intended = _EQUIVALENT_ARGUMENTS.get(name) or next(iter(get_close_matches(name, known, 1)), "")
    advice = {
        "vote": "Pass vote=True to over-cluster the cells and assign majority labels, or "
        "vote='leiden' to use the clusters of a column.",
        "labels": "All levels are annotated: read those that you want in result.labels.",
        "": "Omit it.",
    }.get(intended, f"Did you mean {intended}=?")
    return TypeError(f"annotate has no argument {name!r}; it has {', '.join(known)}. {advice}")


def _check_columns(opened: AlignedQuery, batch_key: str | None, vote: bool | str) -> None:
    """Raise if a column is missing or has cells without a cluster, before any counts are read."""
    clusters = vote if isinstance(vote, str) and vote != CLUSTER else None
    hint = "Pass vote=True to cluster the cells here."
    if batch_key is not None:
        one_column(opened.obs, batch_key, hint="Omit batch_key to treat all cells as one batch.")
        batch_column(opened.obs, batch_key)  # raises if cells have no batch
    labels = None if clusters is None else one_column(opened.obs, clusters, hint=hint)
    if labels is not None and (n_without := int(labels.isna().sum())):
        raise ValueError(
            f"vote={clusters!r} must name a column with a cluster for every cell, got one in which "
            f"{counted(n_without, 'cell')} of {opened.n_obs:,} have none. {hint}"
        )


def _adapted(
    model: hdi.models.HierarchicalClassifierMixin,
    opened: AlignedQuery,
    adapt: Switch,
    batch_key: str | None,
) -> tuple[hdi.models.HierarchicalClassifierMixin, Decision, bool]:
    """Return the adapted model, or the model itself if adaptation does not help.

    The last value tells whether the query resembles another batch of the reference.
    """
    if model.adapter_ is not None:
        reason = "the model is already adapted to a query"
        return model, Decision(step="adapt", applied=False, reason=reason), False
    try:
        with working("Adapting the model"):
            adapted = model.load_query_data(opened, model, batch_key=batch_key)
            adapted.train(plan_kwargs={"guard": adapt == "auto"})
    except Exception as error:
        if adapt == "on":
            raise
        # The annotation survives a failing optional step, for example for lack of memory.
        reason = _failure(error, "adapt='on'")
        return model, Decision(step="adapt", applied=False, reason=reason), False
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
    """Return a phrase with the number of labels that a step changed."""
    return f"{round(share * n_cells):,} of {counted(n_cells, 'label')} changed ({share:.1%})"


def _obstacle(opened: AlignedQuery, refine: Switch, like_a_batch: bool) -> str:
    """Return the reason why labels cannot be refined, or an empty string."""
    if like_a_batch and refine == "auto":
        return (
            "the query resembles another batch of the reference, where smoothing tends to do more "
            "harm than good"
        )
    if opened.n_obs < MIN_CELLS:
        n_cells = counted(opened.n_obs, "cell is", "cells are")
        return f"{n_cells} too few for a neighbour graph (at least {MIN_CELLS})"
    has_rna = opened.extra.has_rna
    if has_rna is not None and not has_rna.all():
        return f"{(~has_rna).sum()} cells have no RNA counts to compute a neighbour graph from"
    return ""


def _refined(
    result: Annotation,
    opened: AlignedQuery,
    points: Callable[[], NDArray[np.float32]],
    refine: Switch,
    batch_key: str | None,
    share: float,
) -> tuple[Annotation, Decision]:
    """Move the probabilities by this share to those smoothed over the neighbour graph.

    The annotation is returned unchanged if the graph is uninformative or the step fails.
    """
    try:
        with working("Smoothing labels over the neighbour graph"):
            refinement = hdi.tl.refine(opened, result, use_rep=points(), batch_key=batch_key)
    except Exception as error:
        if refine == "on":
            raise
        # The annotation survives a failing optional step, such as numba without a cache folder.
        return result, Decision(step="refine", applied=False, reason=_failure(error, "refine='on'"))
    strength = float(refinement.parameters["lam"])  # estimated without labels
    weight = strength / (1 + strength)
    smooth = refinement.annotation().node_probabilities
    probabilities = (1 - share) * result.node_probabilities + share * smooth
    refined = _with(result, probabilities, refine=refinement.parameters)
    changed = float(np.mean(refined.leaf_nodes != result.leaf_nodes))
    reason = "neighbours in the graph share their labels"
    if weight < MIN_WEIGHT:
        reason = "neighbours in the graph predict labels no better than overall label frequencies"
        reason = f"applied as requested, although {reason}" if refine == "on" else reason
    applied = weight >= MIN_WEIGHT or refine == "on"
    if applied:
        reason = f"{_changed(changed, len(result))}; {reason}"
    figures = {"weight of neighbours": weight, "labels changed": changed}
    decision = Decision(step="refine", applied=applied, reason=reason, figures=figures)
    return refined if applied else result, decision


def _voted(
    result: Annotation,
    opened: AlignedQuery,
    points: Callable[[], NDArray[np.float32]],
    vote: bool | str,
) -> tuple[Annotation, Decision]:
    """Assign the majority label of each cluster; return the result unchanged if that fails."""
    try:
        with working("Voting within clusters"):
            own = vote in (True, CLUSTER)
            options = {"use_rep": points()} if own else {"clusters": vote}
            found = hdi.tl.vote(opened, result, **options)
    except (ValueError, RuntimeError, MemoryError) as error:
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
    """Return the annotation with other probabilities, without the calibration."""
    return replace(
        result,
        node_probabilities=probabilities,
        calibration=None,
        recipe={**result.recipe, **recipe},
    )


def _failure(error: Exception, advice: str) -> str:
    """Return the reason of a failed step; `advice` is the call that raises its full error."""
    text = str(error).removesuffix(".")[:200]
    if isinstance(error, ValueError):  # the message describes what is wrong with the query
        return f"{text[:1].lower()}{text[1:].split('. ')[0]}"
    return f"it failed ({type(error).__name__}: {text}); {advice} shows the full error"

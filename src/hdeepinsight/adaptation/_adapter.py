"""Adapter: adaptation of a network to a query, with adapter layers and mean profiles."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hdeepinsight import nn
from hdeepinsight._errors import batch_column
from hdeepinsight.adaptation._cells import (
    QueryCells,
    combined_probs,
    leaf_sums,
    leaves_under,
    network_probs,
    profile_probs,
)
from hdeepinsight.adaptation._check import (
    AdaptationOptions,
    AdaptationReport,
    check_adaptation,
    follow_changes,
)
from hdeepinsight.adaptation._layers import insert_adapters, use_adapters
from hdeepinsight.adaptation._self_training import SelfTraining, restrict_to_labels

logger = logging.getLogger(__name__)

ONE_BATCH = "query"
HALF_SHRUNK_CELLS = 100
#: Cells in the sample that is checked before any training.
SAMPLE_CELLS = 2_000
#: Weight of the discriminant beside an adapted network, relative to that beside the plain one.
DISCRIMINANT_SHARE = 0.5


class Adapter:
    """Adaptation of a network to a query, by adapter layers and mean profiles of the reference.

    Before :meth:`fit`, or if the label-free check decides for ``"zero-shot"``, predictions are
    those of the reference model.

    Parameters
    ----------
    batches
        Names of the batches of the query, which are adapted separately.
    batch_key
        Column with the batch of each cell; ``None`` if all cells are one batch.

    Attributes
    ----------
    report
        Decision of :meth:`fit`, with its reason and measurements; ``None`` before.

    Examples
    --------
    >>> import pandas as pd
    >>> adapter = Adapter(("first", "second"), "donor")
    >>> adapter.is_applied, adapter.batch_of(pd.DataFrame({"donor": ["second", "third"]}))
    (False, array([ 1, -1]))

    Notes
    -----
    The method is our own. Class means of the discriminant are recomputed with the cells of the
    query (:class:`~hdeepinsight.nn.QueryProfiles`). For a query of another study, each batch also
    gets its own normalisation statistics, estimated with cells weighted to the class proportions of
    the reference. A second classifier compares the ranks of marker genes with the mean profiles of
    the reference; its probabilities are averaged with those of the network, for the training
    targets and for the annotation. Adapters of the normalisation layers and of the head are trained
    on thinned and masked counts. Markers that were not used in this decide whether the adapter is
    kept.

    A network can be adapted if it has ``backbone``, ``head``, ``tree``, ``normalizer``,
    ``masking``, ``thinning``, ``objective`` and ``temperature``, an ``inference`` that returns
    ``logits``, and a ``predict`` that returns ``probabilities``. Prediction is thread-safe.
    """

    def __init__(self, batches: Sequence[str] = (ONE_BATCH,), batch_key: str | None = None) -> None:
        self.batches, self.batch_key = tuple(batches), batch_key
        self.report: AdaptationReport | None = None
        self._profiles: nn.LeafProfiles | None = None
        self._shrinkage: list[float] | None = None
        self._weights: Tensor | None = None
        self._matcher: tuple[bytes, nn.ProfileMatcher] | None = None
        self.query_profiles: nn.QueryProfiles | None = None

    @classmethod
    def from_obs(cls, obs: pd.DataFrame, batch_key: str | None = None) -> Self:
        """Create an adapter for the batches of a query; raise ``KeyError`` without the column."""
        if batch_key is None:
            return cls()
        names = batch_column(obs, batch_key).astype(str)
        return cls(sorted(names.unique()), batch_key)

    @property
    def is_applied(self) -> bool:
        """Whether predictions differ from those of the reference model."""
        return self.report is not None and self.report.decision == "adapted"

    def batch_of(self, obs: pd.DataFrame) -> np.ndarray:
        """Return the batch code of each cell, int64; -1 for batches that were not adapted."""
        if self.batch_key is None or self.batch_key not in obs:
            return np.full(len(obs), 0 if len(self.batches) == 1 else -1, dtype=np.int64)
        names = obs[self.batch_key].astype(str).to_numpy()
        return np.asarray(pd.Index(self.batches).get_indexer(names), dtype=np.int64)

    def fit(
        self,
        module: Any,
        cells: QueryCells,
        measured: Tensor,
        *,
        profiles: nn.LeafProfiles,
        ensemble: nn.ProfileEnsemble | None = None,
        shift: float | None = None,
        unlike: float | None = None,
        options: AdaptationOptions,
        seed: int = 0,
    ) -> Any:
        """Adapt a copy of the network, and check which label changes are supported.

        Parameters
        ----------
        module
            Network of the reference model, whose weights are not modified.
        cells
            Cells of the query, with the batch codes of :meth:`batch_of`.
        measured
            1 for the genes of the query, shape ``(n_genes,)``.
        profiles
            Mean profiles of the reference.
        ensemble
            Combination of the network with them; none by default.
        shift
            Typical distance of a batch of the reference from the other batches.
        unlike
            Share of cells that differ from the reference.
        options
            Options of the adaptation.
        seed
            Random seed.

        Returns
        -------
        The network for prediction: an adapted copy, or ``module`` itself.
        """
        tree = module.tree.taxonomy
        labels = list(map(tree.label, tree.leaves.tolist()))
        figures: dict[str, Any] = {
            "genes": float(measured.mean()),
            "shift_reference": shift,
            "unlike": unlike,
        }
        facts: dict[str, Any] = {
            "n_cells": len(cells),
            "n_batches": len(self.batches),
            "n_labeled": int((cells.nodes > 0).sum()),
            "options": asdict(options),
        }
        self._profiles, self._matcher, self._shrinkage = profiles, None, None
        self.query_profiles = self._weights = None

        def zero_shot(some: QueryCells) -> tuple[Tensor, Tensor]:
            """Predict by the network alone and combined; measure the distance of its types."""
            plain = network_probs(module, some, measured)
            before = combined_probs(ensemble, some, measured, plain)
            has_rna = torch.as_tensor(True if some.has_rna is None else some.has_rna)
            leaves = torch.where(has_rna, before.argmax(1).cpu(), -1)
            query = leaf_sums(module, some.counts, leaves, measured).profiles()
            figures["shift_query"] = nn.profile_shift(query, profiles, measured.cpu())
            return plain, before

        # Stop here if measurements on a sample, without training, rule out an adaptation.
        sample = cells.spread(SAMPLE_CELLS)
        plain, before = zero_shot(sample)
        _, report = check_adaptation(before, before, before, before, labels, **figures)
        limit = report.figures.doubt(of_network=False)[0] if options.guard else 1.0
        if not limit:
            return self._finish(replace(report, **facts), module)
        if sample is not cells:
            plain, before = zero_shot(cells)
        nodes = torch.as_tensor(cells.nodes, device=measured.device)
        allowed, batches = leaves_under(module.tree)[nodes], range(len(self.batches))
        now = before
        if ensemble is not None:
            leaves = restrict_to_labels(before, allowed).cpu()
            if cells.has_rna is not None:
                leaves = leaves * torch.as_tensor(cells.has_rna).unsqueeze(1)
            rows = [np.flatnonzero(cells.batch == batch) for batch in batches]
            sums = [leaf_sums(module, cells.counts[each], leaves[each], measured) for each in rows]
            self.query_profiles = nn.QueryProfiles.of(profiles, sums, limit)
            known = profiles, measured.cpu(), ensemble.normalizer, self.query_profiles
            ensemble = nn.ProfileEnsemble(*known).to(measured.device)
            now = combined_probs(ensemble, cells, measured, plain)
            figures["before"] = before
        _, report = check_adaptation(now, now, now, now, labels, **figures)
        if options.guard and not report.figures.doubt()[0]:
            return self._finish(replace(report, **facts), module)
        sizes = np.bincount(cells.batch, minlength=len(self.batches)).tolist()
        shrinkage = [size / (size + HALF_SHRUNK_CELLS) for size in sizes]
        profile = profile_probs(profiles, cells, measured, before)
        held_out = profile_probs(profiles, cells, measured, before, skip=1)
        adapted = copy.deepcopy(module)
        run = SelfTraining(adapted, cells, measured, profile, allowed, shrinkage, options, seed)
        run.adapt_statistics((before + profile) / 2, profiles.shares)
        run.train()
        network = network_probs(adapted, cells, measured)
        combined = combined_probs(ensemble, cells, measured, network, DISCRIMINANT_SHARE)
        network, profile, held_out, proposed = (
            restrict_to_labels(each, allowed)
            for each in (network, profile, held_out, (combined + profile) / 2)
        )
        weights, report = check_adaptation(
            now, network, profile, held_out, labels, proposed, guard=options.guard, **figures
        )
        followed = any(change.followed for change in report.changes)
        if report.decision == "adapted" and (followed or not options.guard):
            self._weights, self._shrinkage, module = weights, shrinkage, adapted
        return self._finish(replace(report, **facts), module)

    def _finish(self, report: AdaptationReport, module: Any) -> Any:
        """Keep the report, and drop what is not applied; return the network for prediction."""
        self.report = report
        if not self.is_applied:
            self.query_profiles = None
        logger.info("Adaptation, %s: %s.", report.decision, report.reason)
        return module

    def predict(
        self,
        module: Any,
        counts: Any,
        measured: Tensor,
        batch: np.ndarray,
        ensemble: nn.ProfileEnsemble | None = None,
        **extra: Tensor,
    ) -> dict[str, Tensor]:
        """Return the outputs of ``module.predict`` with adapted leaf probabilities.

        Parameters
        ----------
        module
            Network that :meth:`fit` returned, or its folded form.
        counts
            Raw counts, shape ``(n_cells, n_genes)``; sparse for a folded network.
        measured
            1 for measured genes, shape ``(n_genes,)`` or ``(n_cells, n_genes)``.
        batch
            Batch code of each cell, shape ``(n_cells,)``; for -1 the adapters are not applied.
        ensemble
            Combination of the network with profiles; none by default.
        **extra
            Further inputs of the network.
        """
        with use_adapters(module, batch):
            found: dict[str, Tensor] = module.predict(counts, measured=measured, **extra)
        if ensemble is None and not self.is_applied:
            return found
        leaves = module.tree.leaf_index
        combined = nn.network_alone
        if ensemble is not None:
            combined = ensemble.reading(counts, extra.get("shift"), batch)
        network = found["probabilities"][:, leaves]
        after = combined(network)
        if self._shrinkage is not None:
            before, after = after, combined(network, DISCRIMINANT_SHARE)
            matcher = self._matcher_for(measured.view(-1, measured.shape[-1]).amax(0))
            if matcher is not None:
                ranks = matcher.complete(network, counts, extra.get("has_rna", measured))
                after = (after + ranks) / 2
            if self._weights is not None:
                with use_adapters(module, np.full_like(batch, -1)):
                    plain = module.predict(counts, measured=measured, **extra)["probabilities"]
                after = follow_changes(combined(plain[:, leaves]), after, self._weights)
            known = torch.as_tensor(batch, device=network.device) >= 0
            after = torch.where(known.unsqueeze(1), after, before)
        return {**found, "probabilities": after @ leaves_under(module.tree).to(after).T}

    def _matcher_for(self, measured: Tensor) -> nn.ProfileMatcher | None:
        """Return the profile classifier for these genes, cached; ``None`` without markers."""
        if self._profiles is None:
            return None
        key, cached = measured.cpu().numpy().tobytes(), self._matcher
        if cached is None or cached[0] != key:
            matcher = nn.ProfileMatcher(self._profiles, measured.cpu()).to(measured.device)
            # Assigned as a single tuple, because other threads may replace it.
            self._matcher = cached = key, matcher
        return cached[1] if cached[1].is_useful else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain types, for the model file; adapter layers are saved with the weights."""
        return {
            "report": self.report and self.report.to_dict(),
            "batches": list(self.batches),
            "batch_key": self.batch_key,
            "shrinkage": self._shrinkage,
            "weights": None if self._weights is None else self._weights.tolist(),
            "query_profiles": self.query_profiles and self.query_profiles.to_dict(),
        }

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], module: torch.nn.Module, profiles: nn.LeafProfiles | None
    ) -> Self:
        """Rebuild an adapter from :meth:`to_dict`, and insert its layers into a network.

        Parameters
        ----------
        values
            Result of :meth:`to_dict`; older releases named the shrinkage ``"trust"``.
        module
            Network without adapters, modified in place so that it can load the saved weights.
        profiles
            Mean profiles of the reference.
        """
        adapter = cls(values.get("batches") or (ONE_BATCH,), values.get("batch_key"))
        adapter._profiles = profiles
        if values.get("report") is not None:
            adapter.report = AdaptationReport.from_dict(values["report"])
        adapter._shrinkage = values.get("shrinkage", values.get("trust"))
        if values.get("weights") is not None:
            adapter._weights = torch.tensor(values["weights"])
        if adapter._shrinkage is not None:
            insert_adapters(module, adapter._shrinkage)
        if values.get("query_profiles") is not None and profiles is not None:
            adapter.query_profiles = nn.QueryProfiles.from_dict(values["query_profiles"], profiles)
        return adapter

"""Analysis of topics: proportions, genes, differences between groups, and perturbations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy.stats import false_discovery_control, mannwhitneyu

from hdeepinsight._errors import check_choice, check_integer, invalid, one_column
from hdeepinsight.annotation import check_same_cells
from hdeepinsight.data import cell_positions
from hdeepinsight.metrics import topic_coherence, topic_diversity, topic_enrichment, topic_stability
from hdeepinsight.models._base._unlabeled import UnlabeledMixin

Cells: TypeAlias = AnnData | Sequence[int] | np.ndarray | None


@dataclass(frozen=True, eq=False)
class TopicPerturbation:
    """Decoded expression of cells before and after a perturbation of their topics.

    Parameters
    ----------
    before, after
        Natural logarithms of the share of each gene, shape ``(n_cells, n_genes)``.
    towards
        Mean difference of these logarithms between target cells and ``before``, shape
        ``(n_genes,)``; ``None`` without target cells.

    Examples
    --------
    >>> import pandas as pd
    >>> from hdeepinsight.models import TopicPerturbation
    >>> before, after = (pd.DataFrame({"CD3D": [x], "LYZ": [0.0]}) for x in (-2.0, -1.0))
    >>> TopicPerturbation(before, after, pd.Series({"CD3D": 2.0, "LYZ": 0.0})).shift_score
    0.5
    """

    before: pd.DataFrame
    after: pd.DataFrame
    towards: pd.Series | None = None

    @property
    def log_fold_change(self) -> pd.Series:
        """Mean change of the natural logarithm of each gene's share."""
        return (self.after - self.before).mean()

    @property
    def shift_score(self) -> float:
        """Projected shift towards the target cells; 1 if the cells reach the target."""
        if self.towards is None:
            msg = "shift_score requires target cells. Pass target=... to perturb_topics."
            raise ValueError(msg)
        return float(self.log_fold_change @ self.towards / (self.towards @ self.towards))


class TopicsMixin(UnlabeledMixin):
    """Mixin with the analysis of topics.

    The latent representation of a cell is its topic scores; their softmax is its topic proportions.
    They do not depend on the embedding.
    """

    def get_topic_proportions(
        self, adata: AnnData | None = None, indices: Sequence[int] | np.ndarray | None = None
    ) -> pd.DataFrame:
        """Return the proportion of each topic in each cell; rows sum to 1.

        Parameters
        ----------
        adata, indices
            As in :meth:`get_latent_representation`.
        """
        scores, names = self._scores_of(adata, indices)
        return pd.DataFrame(scores.softmax(1).numpy(), index=names, columns=self.topic_names)

    def predict(
        self, adata: AnnData | None = None, indices: Sequence[int] | np.ndarray | None = None
    ) -> pd.Series:
        """Return the topic with the largest proportion in each cell.

        Parameters
        ----------
        adata, indices
            As in :meth:`get_latent_representation`.
        """
        return self.get_topic_proportions(adata, indices).idxmax(axis=1).rename("topic")

    @property
    def topic_names(self) -> list[str]:
        """Names of the topics, in order."""
        return [f"topic_{k}" for k in range(self.module.n_topics)]

    @torch.inference_mode()
    def get_topic_gene(self) -> pd.DataFrame:
        """Return the share of each topic in each gene; columns (genes) sum to 1."""
        values = self.module.loadings().cpu().numpy()
        return pd.DataFrame(values, index=self.topic_names, columns=list(self.genes))

    @torch.inference_mode()
    def get_topic_embeddings(self) -> pd.DataFrame:
        """Return the topic embeddings, unit vectors in the same space as the genes."""
        return pd.DataFrame(self.module.positions()[0].cpu().numpy(), index=self.topic_names)

    @torch.inference_mode()
    def get_gene_embeddings(self) -> pd.DataFrame:
        """Return the gene embeddings, unit vectors in the same space as the topics."""
        return pd.DataFrame(self.module.positions()[1].cpu().numpy(), index=list(self.genes))

    def top_genes(self, n: int = 10) -> pd.DataFrame:
        """Return the genes with the largest share of each topic.

        Parameters
        ----------
        n
            Genes per topic.

        Returns
        -------
        Gene names, one row per topic, in decreasing order of the share.
        """
        check_integer("n", n)
        loadings = self.get_topic_gene()
        best = np.argsort(-loadings.to_numpy(), axis=1, kind="stable")[:, :n]
        return pd.DataFrame(loadings.columns.to_numpy()[best], index=loadings.index)

    def differential_topics(
        self,
        groupby: str | Sequence[Any],
        adata: AnnData | None = None,
        *,
        min_difference: float = 1.0,
        fdr: float = 0.05,
    ) -> pd.DataFrame:
        """Test for topics whose scores differ between the cells of a group and all other cells.

        Parameters
        ----------
        groupby
            Column of ``obs``, or the group of each cell.
        adata
            Cells; the registered cells by default.
        min_difference
            Minimum difference of the mean scores.
        fdr
            Maximum false discovery rate (Benjamini-Hochberg, over all groups and topics).

        Returns
        -------
        One row per group and topic: ``group``, ``topic``, ``difference`` of the mean scores,
        ``p_value`` of the two-sided Mann-Whitney test, ``p_adjusted``, and whether it is
        ``differential``, sorted by decreasing difference. Cells without a group are used as other
        cells.

        Notes
        -----
        Cells are not independent samples: with several donors, confirm the results by donor.
        """
        adata = self._with_names(adata)
        groupby = one_column(adata.obs, groupby) if isinstance(groupby, str) else groupby
        check_same_cells(adata.obs_names, groupby, "groupby")
        given, scores = pd.Series(np.asarray(groupby)), self.get_latent_representation(adata)
        parts = []
        for group in given.dropna().unique():
            inside = (given == group).to_numpy(dtype=bool)
            if inside.all():
                raise invalid("groupby", f"only {group!r}", "at least two groups")
            found = {
                "group": group,
                "topic": self.topic_names,
                "difference": scores[inside].mean(axis=0) - scores[~inside].mean(axis=0),
                "p_value": mannwhitneyu(scores[inside], scores[~inside], axis=0).pvalue,
            }
            parts.append(pd.DataFrame(found))
        table = pd.concat(parts, ignore_index=True)
        table["p_adjusted"] = false_discovery_control(table["p_value"])
        is_large = table["difference"] > min_difference
        table["differential"] = is_large & (table["p_adjusted"] < fdr)
        return table.sort_values("difference", ascending=False, ignore_index=True)

    @torch.inference_mode()
    def perturb_topics(
        self,
        cells: Cells,
        topics: Sequence[str | int],
        *,
        mode: Literal["zero", "set", "shift"] = "zero",
        target: Cells = None,
        delta: float | Sequence[float] = 0.0,
    ) -> TopicPerturbation:
        """Change the topic scores of cells, and decode their expression.

        Parameters
        ----------
        cells
            Cells to perturb: an AnnData, or positions or a Boolean mask of the registered cells.
        topics
            Names or positions of the topics to perturb.
        mode
            ``"zero"`` removes the topics, ``"set"`` sets them to the mean score of the target
            cells, ``"shift"`` adds ``delta`` to their scores.
        target
            Target cells, in the same form as ``cells``: required for ``"set"`` and for the
            ``shift_score`` of the result.
        delta
            Change of the scores with ``"shift"``, one number or one per topic.

        Returns
        -------
        Shares of the genes before and after. Use ``log_fold_change`` or ``shift_score`` to compare
        them: shares are so small that their mean squared difference is always near zero.

        Raises
        ------
        ValueError
            If a topic is unknown, target cells are missing, or all topics would be removed.
        """
        check_choice("mode", mode, ("zero", "set", "shift"))
        names = self.topic_names
        position = {key: k for k, name in enumerate(names) for key in (k, name)}
        if not set(topics) <= set(position):
            raise invalid("topics", list(topics), f"names or positions up to {names[-1]}")
        chosen = [position[topic] for topic in topics]
        if mode == "set" and target is None:
            raise ValueError("mode='set' requires target cells, got none. Pass target=...")
        if mode == "zero" and len(set(chosen)) == len(names):
            hint = "Keep at least one topic."
            raise invalid("topics", "all of them", "some of the topics", hint)
        scores, index = self._scores_of(*_selection(cells))
        aim = None if target is None else self._scores_of(*_selection(target))[0]
        theta, changed = scores.softmax(1), scores.clone()
        if mode == "zero":
            changed[:, chosen] = -torch.inf
        elif aim is not None and mode == "set":
            changed[:, chosen] = aim[:, chosen].mean(dim=0)
        else:
            changed[:, chosen] += torch.as_tensor(delta, dtype=scores.dtype)
        before, after = (self._decode(share, index) for share in (theta, changed.softmax(1)))
        towards = None if aim is None else self._decode(aim.softmax(1)).mean() - before.mean()
        return TopicPerturbation(before, after, towards)

    def _with_names(self, adata: Any) -> Any:
        """Return the given cells, which are opened if a path is given; ours by default."""
        cells = self._resolve_adata(adata)
        return cells if hasattr(cells, "obs_names") else self.open(cells)

    def _scores_of(self, adata: Any, indices: Any) -> tuple[torch.Tensor, pd.Index]:
        """Return topic scores and names of cells."""
        cells = self._with_names(adata)
        names = cells.obs_names
        if indices is not None:
            indices = cell_positions(indices, names)
            names = names[indices]
        return torch.from_numpy(self.get_latent_representation(cells, indices)), names

    def _decode(self, theta: torch.Tensor, index: pd.Index | None = None) -> pd.DataFrame:
        decoded = self.module.eval().generative(theta)["log_share"].cpu().numpy()
        return pd.DataFrame(decoded, index=index, columns=list(self.genes))

    def topic_metrics(
        self, gene_sets: Mapping[str, Iterable[str]], *, n_top: int = 10
    ) -> pd.Series:
        """Compute the quality of the topics and their enrichment of gene sets.

        Parameters
        ----------
        gene_sets
            Gene sets by name.
        n_top
            Number of top genes per topic.

        Returns
        -------
        ``coherence``, ``diversity``, their product ``quality``, and for enriched sets ``n_hits``,
        ``n_sets`` and ``uniqueness``; see ``hdeepinsight.metrics``.
        """
        given = self.get_topic_gene().to_numpy(), list(self.genes), gene_sets
        coherence = topic_coherence(*given, n_top=n_top)
        diversity = topic_diversity(given[0], n_top=n_top)
        found = {"coherence": coherence, "diversity": diversity, "quality": coherence * diversity}
        enriched = topic_enrichment(*given, n_top=n_top)
        names = "n_hits", "n_sets", "uniqueness"
        return pd.Series(found | {name: getattr(enriched, name) for name in names})

    def select_n_topics(
        self, candidates: Sequence[int], *, seeds: Sequence[int] = (0, 1, 2), **train: Any
    ) -> pd.DataFrame:
        """Train models with different numbers of topics, and compare the topics between seeds.

        Parameters
        ----------
        candidates
            Numbers of topics.
        seeds
            Two or more seeds.
        **train
            Arguments of :meth:`train`.

        Returns
        -------
        Mean ``stability`` and ``diversity`` of the topics and final training ``loss``, indexed by
        the number of topics. Choose the largest number with stable topics.
        """
        if len(seeds) < 2:
            raise invalid("seeds", list(seeds), "two or more seeds")
        rows, options = {}, self.init_params_["non_kwargs"]
        for n_topics in candidates:
            loadings, losses = [], []
            for seed in seeds:
                how = options | {"n_topics": n_topics, "seed": seed}
                model: Any = type(self)(self.adata, **how)
                model.train(**train)
                loadings.append(model.get_topic_gene().to_numpy())
                losses.append(float(model.history["train_loss"].iloc[-1, 0]))
            rows[n_topics] = {
                "stability": topic_stability(loadings),
                "diversity": float(np.mean([topic_diversity(table) for table in loadings])),
                "loss": float(np.mean(losses)),
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("n_topics")


def _selection(cells: Any) -> tuple[Any, Any]:
    """Return the object and the selected rows of cells, given as an object or as rows of ours."""
    return (cells, None) if cells is None or hasattr(cells, "obs_names") else (None, cells)

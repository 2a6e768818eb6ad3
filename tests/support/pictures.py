"""Every picture of `hdi.pl` on fixed data, and their baselines.

Run ``python tests/support/pictures.py`` to write tests/pl/baseline anew, after a look at what
changes; name pictures to write only these. Each carries the version of matplotlib that drew it:
another minor version lays text out in another way, so that pictures are compared within one.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from explained import explain

import hdeepinsight as hdi
from hdeepinsight.nn import LeafProfiles

BASELINE = Path(__file__).parents[1] / "pl" / "baseline"
N_CELLS = 90
TREE = {"T": {"CD4": ["naive", "memory"], "CD8": []}, "B": ["B naive", "plasma"], "NK": []}
DPI = 45


class Data:
    """Cells of six types in two dimensions, with what a model might say about them.

    Parameters
    ----------
    seed
        Other cells for another number, with the same labels in the same order.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.seed = seed
        self.tree = hdi.Taxonomy.from_nested(TREE)
        n_leaves = self.tree.n_leaves
        kind = np.arange(N_CELLS) % n_leaves
        self.truth = self.tree.leaves[kind]
        self.known = np.array([self.tree.label(int(node)) for node in self.truth])
        self.coords = rng.normal(size=(N_CELLS, 2)) + 5 * rng.normal(size=(n_leaves, 2))[kind]
        logits = rng.normal(size=(N_CELLS, n_leaves))
        logits[np.arange(N_CELLS), kind] += rng.normal(2.5, 1.5, size=N_CELLS)
        share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        p_value = rng.random(N_CELLS) ** np.where(kind == 1, 4, 1)
        self.result = hdi.Annotation(
            taxonomy=self.tree,
            obs_names=[f"cell {i}" for i in range(N_CELLS)],
            node_probabilities=share @ self.tree.ancestor_matrix.astype(float),
            novelty=pd.DataFrame({"doublet_score": -np.log(p_value), "lineage_p_value": p_value}),
        )
        genes = [f"GENE{i}" for i in range(50)]
        self.layout = hdi.GeneLayout.random(genes, side=8, seed=0)
        self.means = pd.DataFrame(rng.gamma(1.0, size=(50, 3)), index=genes, columns=[*"ABC"])
        epochs = pd.Index(range(0, 40, 2), name="epoch")
        fall = np.exp(-np.arange(20) / (4 + 3 * seed)) + 0.03 * rng.random(20)
        self.history = {
            name: pd.DataFrame({name: values}, index=epochs)
            for name, values in {
                "train_loss": fall,
                "log_loss": fall + 0.1,
                "accuracy_lineage": 1 - 0.4 * fall,
                "accuracy_type": 1 - 0.7 * fall,
                "ece_lineage": 0.2 * fall,
                "ece_type": 0.4 * fall,
            }.items()
        }

    @property
    def leaf_probability(self) -> np.ndarray:
        """Probability of each cell's leaf, ``(n_cells,)``."""
        return self.result.node_probabilities[np.arange(N_CELLS), self.result.leaf_nodes]

    @property
    def right(self) -> np.ndarray:
        """Whether each cell's leaf is its type, ``(n_cells,)``."""
        return self.result.leaf_nodes == self.truth


def _coverage(d: Data) -> Any:
    rng = np.random.default_rng(d.seed)
    values = d.coords @ rng.normal(size=(2, 60)) + rng.normal(1.0, 1.0, 60)
    observed = rng.random(values.shape) < rng.uniform(0.1, 0.9, (N_CELLS, 1))
    cells = ad.AnnData(values)
    result = hdi.pp.corrected_gram_pca(cells, mask=observed, estimator="zero_fill", n_comps=2)
    return hdi.pl.coverage(result, d.known)


def _in_degrees(d: Data) -> Any:
    points = np.random.default_rng(d.seed).normal(size=(N_CELLS, 30))
    nearest, _ = hdi.graph.nearest_neighbors(points, k=8)
    even = (np.arange(N_CELLS)[:, None] + np.arange(1, 9 + d.seed)) % N_CELLS
    return hdi.pl.in_degrees({"nearest": nearest, "even": even}, title="neighbours")


def _marker_evidence(d: Data) -> Any:
    rng = np.random.default_rng(d.seed)
    counts = rng.poisson(1.0, (N_CELLS, 50)).astype(np.float32)
    for leaf in range(d.tree.n_leaves):
        counts[d.truth == d.tree.leaves[leaf], 5 * leaf : 5 * leaf + 4] += 8
    cells = ad.AnnData(counts, var=pd.DataFrame(index=d.layout.genes))
    cells.obs_names = d.result.obs_names
    means = torch.tensor(
        np.stack([np.log1p(counts[d.truth == leaf]).mean(axis=0) for leaf in d.tree.leaves])
    )
    profiles = LeafProfiles(means, torch.full((d.tree.n_leaves,), 9.0))
    model = SimpleNamespace(taxonomy=d.tree, genes=d.layout.genes, profiles_=profiles)
    return hdi.pl.marker_evidence(hdi.tl.marker_evidence(d.result, cells, model), n_genes=1)


def _privacy_utility(d: Data) -> Any:
    rng = np.random.default_rng(d.seed)
    rise = np.array([0.35, 0.42, 0.5, 0.54])[:, None] + 0.2 * rng.random((4, 2))
    seeds = np.repeat(rise, 2, axis=0) + 0.04 * rng.random((8, 2))
    scores = pd.DataFrame(seeds, np.repeat([1, 2, 4, 8], 2), ["dp_pca", "DPDCAN"])
    return hdi.pl.privacy_utility(scores, {"random projection": 0.3, "not private": 0.75})


def _topics(d: Data) -> Any:
    rng = np.random.default_rng(d.seed)
    names = [f"topic_{k}" for k in range(8)]
    shares = pd.DataFrame(rng.gamma(0.2, size=(N_CELLS, 8)), d.result.obs_names, names)
    shares += np.eye(8)[np.arange(N_CELLS) % d.tree.n_leaves]
    loadings = pd.DataFrame(rng.random((8, 50)), names, d.layout.genes)
    shares = shares.div(shares.sum(axis=1), axis=0)
    return hdi.pl.topics(shares, loadings, d.known, n_topics=1, n_genes=2)


PICTURES: dict[str, Callable[[Data], Any]] = {
    "confusion": lambda d: hdi.pl.confusion(d.tree, d.truth, d.result.leaf_nodes, level=2),
    "contrast": lambda d: hdi.pl.contrast(explain(against="CD8", seed=d.seed)),
    "coverage": _coverage,
    "dotplot": lambda d: hdi.pl.dotplot(d.result, d.known),
    "embedding": lambda d: hdi.pl.embedding(
        d.coords, d.result.label_column(), palette=d.result.colors
    ),
    "embedding_legend": lambda d: hdi.pl.embedding(
        d.coords, d.known, legend_loc="right margin", title="known"
    ),
    "explanation": lambda d: hdi.pl.explanation(explain(seed=d.seed)),
    "gene_images": lambda d: hdi.pl.gene_images(d.layout, d.means, n_top=2),
    "gene_layout": lambda d: hdi.pl.gene_layout(d.layout, d.means["A"], highlight=["GENE3"]),
    "in_degrees": _in_degrees,
    "marker_evidence": _marker_evidence,
    "novelty": lambda d: hdi.pl.novelty(d.result, d.known, measure="doublet_score"),
    "novelty_p_value": lambda d: hdi.pl.novelty(d.result, d.known),
    "privacy_utility": _privacy_utility,
    "reliability": lambda d: hdi.pl.reliability(d.leaf_probability, d.right, n_bins=6),
    "taxonomy": lambda d: hdi.pl.taxonomy(d.tree, d.result.stop_nodes[: d.tree.n_nodes]),
    "taxonomy_confidence": lambda d: hdi.pl.taxonomy(d.result),
    "topics": _topics,
    "training_history": lambda d: hdi.pl.training_history(d.history, title="training"),
}


def draw(name: str, path: Path, *, seed: int = 0) -> None:
    """Write a picture as PNG, whatever the settings of the caller.

    Parameters
    ----------
    name
        Key of `PICTURES`.
    path
        File to write.
    seed
        Of the data; 0 gives the baseline.
    """
    from matplotlib import pyplot as plt

    with plt.style.context("default"), mpl.rc_context({"font.family": "DejaVu Sans"}):
        drawn = PICTURES[name](Data(seed))
        figure = getattr(drawn, "figure", None) or drawn
        figure.savefig(path, dpi=DPI)
        plt.close(figure)


if __name__ == "__main__":
    mpl.use("Agg")
    for chosen in sys.argv[1:] or PICTURES:
        draw(chosen, BASELINE / f"{chosen}.png")

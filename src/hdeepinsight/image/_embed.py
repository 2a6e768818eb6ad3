"""Genes in the plane: co-varying genes become neighbours."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np

EmbeddingMethod = Literal["tsne", "umap", "mde"]

#: Below this many distinct genes there is no neighbourhood to preserve.
MIN_DISTINCT = 8
N_NEIGHBORS = 15


def embed_genes(profiles: np.ndarray, method: EmbeddingMethod, *, seed: int = 0) -> np.ndarray:
    """Embed gene profiles in two dimensions.

    Parameters
    ----------
    profiles
        Unit vectors, ``(n_genes, d)``.
    method
        ``"tsne"`` with the published settings, ``"umap"`` or ``"mde"``.
    seed
        Seed of the embedding.

    Returns
    -------
    Coordinates ``(n_genes, 2)`` in arbitrary units.

    Notes
    -----
    With fewer than eight distinct profiles the two leading components are returned whatever the
    method, because neighbour graphs and perplexities have no meaning there (our decision).
    """
    wide = np.pad(profiles, ((0, 0), (0, max(0, 2 - profiles.shape[1]))))
    if len(np.unique(wide.round(6), axis=0)) < MIN_DISTINCT:
        return wide[:, :2]
    return np.asarray(_EMBEDDINGS[method](wide.astype(np.float32), seed), dtype=np.float64)


def _tsne(profiles: np.ndarray, seed: int) -> np.ndarray:
    """Barnes-Hut t-SNE; small panels lower the perplexity to a third of the genes."""
    from sklearn.manifold import TSNE

    model = TSNE(
        metric="cosine",
        perplexity=min(70.0, (len(profiles) - 1) / 3),
        early_exaggeration=8.0,
        init="pca",
        learning_rate="auto",
        max_iter=1000,
        angle=0.5,
        random_state=seed,
    )
    return np.asarray(model.fit_transform(profiles))


def _umap(profiles: np.ndarray, seed: int) -> np.ndarray:
    with warnings.catch_warnings():
        # umap warns on import that its TensorFlow variant, which nobody asked for, is missing.
        warnings.simplefilter("ignore", ImportWarning)
        from umap import UMAP

    # The PCA start, unlike the spectral one, also works on graphs that fall into pieces.
    model = UMAP(
        n_neighbors=min(N_NEIGHBORS, len(profiles) - 1),
        metric="cosine",
        init="pca",
        random_state=seed,
        n_jobs=1,
    )
    return np.asarray(model.fit_transform(profiles))


def _mde(profiles: np.ndarray, seed: int) -> np.ndarray:
    import pymde
    import torch

    with global_seeds(seed):
        problem = pymde.preserve_neighbors(
            torch.from_numpy(profiles),
            embedding_dim=2,
            n_neighbors=min(N_NEIGHBORS, len(profiles) - 1),
            init="random",
        )
        # pymde's own spectral start comes from ARPACK, which takes no seed. The noise parts
        # genes with one profile, whose distance would have no gradient.
        start = torch.from_numpy(principal_plane(profiles))
        start += 0.1 * torch.randn(start.shape)
        return np.asarray(problem.embed(X=start).detach().cpu())


def principal_plane(profiles: np.ndarray) -> np.ndarray:
    """Two leading principal components, together of unit spread, float32 ``(n_genes, 2)``."""
    centred = profiles - profiles.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    plane = centred @ axes.T
    return np.asarray(plane / (plane.std() or 1.0), dtype=np.float32)


@contextmanager
def global_seeds(seed: int) -> Iterator[None]:
    """Seed every generator that pymde draws from, and give the caller's states back."""
    import pymde
    import torch

    numpy_state = np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            pymde.seed(seed)
            yield
    finally:
        np.random.set_state(numpy_state)


_EMBEDDINGS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "tsne": _tsne,
    "umap": _umap,
    "mde": _mde,
}

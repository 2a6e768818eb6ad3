"""Distil a labelled reference into a small number of synthetic cells."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from numpy.typing import ArrayLike
from scipy.stats import entropy
from sklearn.decomposition import PCA

from hdeepinsight import nn
from hdeepinsight._errors import batch_column, check_choice, check_integer, check_number, examples
from hdeepinsight.data import DataLike
from hdeepinsight.tl._coresets import (
    LabelledCells,
    RareClasses,
    class_numbers,
    read_labelled,
    small_reference,
)
from hdeepinsight.tl._distillation_report import classification_scores, student_labels

Matching = Literal["regression", "distribution", "gradient"]

N_LATENT = 128
_DENOISER_STEPS, _DENOISER_RATE, _BATCH = 400, 1e-3, 256
_REAL_PER_CLASS = 64
_N_CHECKS = 5
#: Ridge penalty per row of a class, in squared distances of log values.
_PENALTY = 30.0
#: Minimum number of cells of a class, some of which are held out.
_LEAST = 10


def distill(
    adata: DataLike,
    labels_key: str,
    cells_per_class: int | float | Mapping[str, int] = 10,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    matching: Matching = "regression",
    n_iter: int = 300,
    lr: float = 0.1,
    rare: RareClasses = "error",
    validation_indices: ArrayLike | None = None,
    seed: int = 0,
) -> AnnData:
    r"""Distil a labelled reference into a few synthetic cells per class (experimental).

    The method follows scDD (arXiv:2503.04357), whose code is not public. On our datasets it is
    **not** consistently better than averages of cells. Start with :func:`select_cells`, which only
    needs k-means by default, and compare both with :func:`distillation_report`.

    Parameters
    ----------
    adata
        Reference with raw counts: an AnnData or a path. Not modified. Unlabelled cells are ignored.
        Remove test cells first, and select genes without them: 2,000 to 5,000 highly variable genes
        are sufficient.
    labels_key
        Column of ``obs`` with the class of each cell.
    cells_per_class
        Number of synthetic cells per class, a mapping of numbers by class, or, below 1, a fraction
        of all training cells, divided equally among the classes.
    layer
        Layer with the counts; ``X`` by default.
    batch_key
        Column of ``obs`` with batches. They are not used for training: there is a warning about
        classes of a single batch, and the entropy of batches per class is recorded.
    matching
        Objective for the codes: ``"regression"``, the error on real cells of a ridge regression
        fitted to the synthetic cells; ``"distribution"``, class means of features of random
        networks; ``"gradient"``, directions of the gradients of such networks (slow).
    n_iter
        Number of optimisation steps. With 0, codes remain random, which shows the effect of the
        generator alone.
    lr
        Learning rate of the codes.
    rare
        How to treat classes with fewer than 10 training cells, or fewer than requested: ``"error"``
        raises, ``"keep_real"`` keeps their cells, ``"drop"`` drops them.
    validation_indices
        Held-out cells that are used to select the best step, as positions or as a mask; by default
        a tenth of each class.
    seed
        Random seed; the same data and seed give the same result.

    Returns
    -------
    AnnData
        As from :func:`select_cells`, with the codes in ``obsm["X_distill_code"]``, the generated
        coordinates in ``obsm["X_distill_latent"]``, and in ``uns["distill"]`` also sizes in bytes
        and the balanced accuracy on the validation cells before and after the optimisation.

    Raises
    ------
    InputError
        If the matrix has no counts.
    KeyError
        If the column does not exist.
    ValueError
        If there are fewer than two classes, a class has too few cells, or a setting is out of
        range.

    Warns
    -----
    UserWarning
        If classes come from a single batch.

    Notes
    -----
    Cells are represented by up to 128 principal components of log values. The part of a class mean
    that the components do not explain is added to the cells of the class. A denoiser
    :math:`f(x, t, y)` learns to predict clean coordinates from noisy ones given the class, half of
    the time at the last diffusion time, so that a single call generates a cell. Both are then
    frozen, codes :math:`w \sim N(0, I)` are drawn, and Adam optimises only the codes:

    .. math:: \min_w L\bigl(X_\text{real}, \text{dec}(f(w, T, y), y)\bigr)

    Macro F1 of logistic regression on another study or other donors, with 1 and 10 cells per class
    (one seed; the user guide has more rows and a second classifier):

    =============  ============  =============  ========  =========  =========  ==========
    ..             zheng→3k, 1   zheng→3k, 10   Kang, 1   Kang, 10   marrow, 1  marrow, 10
    =============  ============  =============  ========  =========  =========  ==========
    centroids      0.851         0.858          0.766     0.852      0.736      0.738
    distill        0.877         0.879          0.803     0.805      0.719      0.735
    =============  ============  =============  ========  =========  =========  ==========

    Synthetic cells do **not** guarantee privacy.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> reference = hdi.datasets.demo().reference
    >>> small = hdi.tl.distill(reference, "cell_type", 1, n_iter=5, rare="drop")
    >>> small.obsm["X_distill_code"].shape[0] == small.n_obs
    True
    """
    check_choice("matching", matching, get_args(Matching))
    check_integer("n_iter", n_iter, 0, hint="Omit it to use 300.")
    check_number("lr", lr)
    check_integer("seed", seed, 0)
    cells = read_labelled(adata, labels_key, layer=layer)
    if validation_indices is not None:
        held_out = cells.chosen(validation_indices)
    else:  # a tenth of each class
        order, held_out = np.random.default_rng(seed).permutation(len(cells.codes)), cells.codes < 0
        rank = pd.Series(order).groupby(cells.codes[order]).cumcount()
        held_out[order] = rank < np.bincount(cells.codes)[cells.codes[order]] // 10
    train, valid = (cells.subset(np.flatnonzero(part)) for part in (~held_out, held_out))
    numbers, kept = class_numbers(train, cells_per_class, rare, least=_LEAST)
    batches = {} if batch_key is None else _batch_entropy(train, batch_key)
    codes = np.repeat(np.arange(len(numbers)), numbers)
    how: dict[str, Any] = {"matching": str(matching), "n_iter": int(n_iter), "lr": float(lr)}
    how["seed"] = int(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = decoder, denoiser = _fit_generator(train, seed)
        code = torch.randn(len(codes), decoder.components.shape[0])
        label = torch.from_numpy(codes)
        code, before, after, best = _optimise(code, label, generator, train, valid, **how)
        with torch.no_grad():
            latent = denoiser.generate(code, label)
            logged = decoder(latent, label).numpy()
    real = np.flatnonzero(np.isin(train.codes, kept))
    real = real[np.argsort(train.codes[real], kind="stable")]
    all_codes = np.concatenate([codes, train.codes[real]])
    sizes = np.bincount(train.codes, minlength=len(numbers)) / np.maximum(numbers, 1)
    n_bytes = sum(x.nbytes for x in (*denoiser.state_dict().values(), *decoder.buffers()))
    small = small_reference(
        train,
        all_codes,
        sp.vstack([sp.csr_matrix(logged), train.logged[real]]),
        np.concatenate([sizes[codes], np.ones(len(real))]).round().astype(np.int64),
        np.concatenate([np.full(len(codes), -1), real]),
        {
            "method": "distill",
            **how,
            "best_iter": best,
            "n_reference": len(train.codes),
            "n_validation": len(valid.codes),
            "generator_score": before,
            "validation_score": after,
            "bytes_cells": int(logged.nbytes),
            "bytes_codes": int(code.numpy().nbytes),
            "bytes_generator": int(n_bytes),
            "batch_entropy": batches,
        },
        seed=seed,
    )
    # Real cells have coordinates but no codes.
    own = decoder.encode(torch.from_numpy(train.logged[real].toarray())).numpy()
    small.obsm["X_distill_latent"] = np.concatenate([latent.numpy(), own])
    small.obsm["X_distill_code"] = np.concatenate([code.numpy(), np.full_like(own, np.nan)])
    return small


def _batch_entropy(cells: LabelledCells, batch_key: str) -> dict[str, float]:
    """Compute the entropy of batches per class, in nats; warn about classes of a single batch."""
    batch = batch_column(cells.obs, batch_key).astype(str).to_numpy()
    counts = pd.crosstab(cells.codes, batch)
    found = {cells.classes[i]: float(entropy(row)) for i, row in counts.iterrows()}
    alone = [name for name, value in found.items() if value == 0]
    if alone and counts.shape[1] > 1:
        text = f"Classes from a single batch of {batch_key!r} are confounded with it: "
        hint = "Add cells of other batches, or do not use these classes across batches."
        warnings.warn(f"{text}{examples(alone, 10)}. {hint}", UserWarning, stacklevel=3)
    return found


def _fit_generator(
    train: LabelledCells, seed: int
) -> tuple[nn.ComponentDecoder, nn.ConditionalDenoiser]:
    """Fit the components and the denoiser to the training cells, and freeze them."""
    logged, n_classes = train.logged, len(train.classes)
    n_latent = min(N_LATENT, min(logged.shape) - 1)
    pca = PCA(n_latent, svd_solver="arpack", random_state=seed).fit(logged)
    n_cells, places = len(train.codes), (train.codes, np.arange(len(train.codes)))
    member = sp.csr_matrix((np.ones(n_cells), places), (n_classes, n_cells))
    sizes = np.maximum(np.bincount(train.codes, minlength=n_classes), 1)
    means = (member @ logged).toarray() / sizes[:, None]
    tables = pca.components_, np.ravel(pca.mean_), np.sqrt(pca.explained_variance_), means
    decoder = nn.ComponentDecoder(*(torch.tensor(np.ascontiguousarray(t)).float() for t in tables))
    latent = torch.tensor(pca.transform(logged)).float() / decoder.scale
    denoiser = nn.ConditionalDenoiser(n_latent, n_classes)
    label, steps = torch.from_numpy(train.codes), _DENOISER_STEPS
    optimiser = torch.optim.AdamW(denoiser.parameters(), _DENOISER_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _DENOISER_RATE, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(latent), (_BATCH,))
        optimiser.zero_grad()
        torch.autograd.backward(denoiser.loss(latent[rows], label[rows]))
        optimiser.step()
        schedule.step()
    return decoder, denoiser.requires_grad_(False)


def _optimise(
    code: torch.Tensor,
    label: torch.Tensor,
    generator: tuple[nn.ComponentDecoder, nn.ConditionalDenoiser],
    train: LabelledCells,
    valid: LabelledCells,
    *,
    matching: Matching,
    n_iter: int,
    lr: float,
    seed: int,
) -> tuple[torch.Tensor, float, float, int]:
    """Optimise codes; return the best ones, the first and the best score, and the best step."""
    (decoder, denoiser), codes, n_classes = generator, label.numpy(), len(train.classes)
    logged, rng = train.logged, np.random.default_rng(seed)
    rows_of = [np.flatnonzero(train.codes == i) for i in np.unique(codes)]
    valid = valid.subset(np.flatnonzero(np.isin(valid.codes, codes)))
    code = code.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([code], lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(n_iter, 1))
    penalty = _PENALTY * len(codes) / len(rows_of)
    best, start, score, best_iter = code.detach().clone(), 0.0, -1.0, 0
    for step in range(n_iter + 1):
        cells = decoder(denoiser.generate(code, label), label)
        if step % max(n_iter // _N_CHECKS, 1) == 0 or step == n_iter:
            now = 0.0
            if len(valid.codes):
                guess = student_labels("logistic", 0, cells.detach().numpy(), codes, valid.logged)
                now = classification_scores(valid.codes, guess)["balanced_accuracy"]
            start = now if step == 0 else start
            if now > score or not len(valid.codes):
                best, score, best_iter = code.detach().clone(), now, step
        if step == n_iter:
            break
        drawn = [rng.choice(r, min(_REAL_PER_CLASS, len(r)), replace=False) for r in rows_of]
        rows = np.concatenate(drawn)
        real = torch.from_numpy(logged[rows].toarray())
        optimiser.zero_grad()
        real_label = torch.from_numpy(train.codes[rows])
        if matching == "regression":
            loss = nn.regression_loss(real, real_label, cells, label, n_classes, penalty)
        else:
            net = nn.MatchingNetwork(real.shape[1], n_classes)  # new random weights in each step
            if matching == "gradient":
                loss = nn.gradient_loss(net, real, real_label, cells, label, n_classes)
            else:
                features = net.features(real).detach()
                own = net.features(cells)
                loss = nn.distribution_loss(features, real_label, own, label, n_classes)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(code, 1.0)
        optimiser.step()
        schedule.step()
    return best, start, score, best_iter

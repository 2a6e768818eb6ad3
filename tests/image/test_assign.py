import itertools

import numpy as np
import pytest

from hdeepinsight.image import _assign
from hdeepinsight.image._assign import assign_pixels, pixel_centres, pixel_prices


def total(coords: np.ndarray, pixel: np.ndarray, side: int) -> float:
    return float(((coords - pixel_centres(side)[pixel]) ** 2).sum())


def crowd(n_genes: int, side: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(side / 2, side / 6, size=(n_genes, 2)), 0, side)


def test_centres_are_row_major():
    np.testing.assert_array_equal(
        pixel_centres(2), [[0.5, 0.5], [0.5, 1.5], [1.5, 0.5], [1.5, 1.5]]
    )


def test_least_cost_over_all_arrangements():
    for seed in range(5):
        for solver in ["dense", "sparse"]:
            coords = np.random.default_rng(seed).uniform(0, 2, size=(4, 2))
            best = min(
                total(coords, np.array(pixel), 2) for pixel in itertools.permutations(range(4))
            )
            assert total(coords, assign_pixels(coords, 2, solver=solver), 2) == pytest.approx(best)


def test_dense_and_sparse_agree_and_equal_the_unpriced_optimum():
    for seed in [0, 1]:
        for n_genes, side in [(20, 16), (150, 16), (250, 16), (256, 16)]:
            coords = crowd(n_genes, side, seed)
            plain = _assign._match_dense(coords, pixel_centres(side), np.zeros(side**2))
            dense = assign_pixels(coords, side, solver="dense")
            sparse = assign_pixels(coords, side, solver="sparse")
            for pixel in (dense, sparse):
                assert len(set(pixel.tolist())) == n_genes
                assert pixel.min() >= 0
                assert pixel.max() < side**2
            assert total(coords, dense, side) == pytest.approx(total(coords, plain, side), rel=1e-9)
            assert total(coords, sparse, side) == pytest.approx(
                total(coords, plain, side), rel=5e-3
            )


def test_genes_at_pixel_centres_keep_their_pixels():
    pixel = np.random.default_rng(0).permutation(100)[:40]
    for solver in ("dense", "sparse"):
        np.testing.assert_array_equal(
            assign_pixels(pixel_centres(10)[pixel], 10, solver=solver), pixel
        )


def test_the_window_widens_until_there_is_an_assignment():
    coords = np.full((300, 2), 10.0)  # all at the centre; the first window has 64 pixels
    prices = np.zeros(400)
    pixel = _assign._match_sparse(coords, pixel_centres(20), prices)
    nearest = np.sort(((pixel_centres(20) - 10.0) ** 2).sum(axis=1))[:300]
    assert total(coords, pixel, 20) == pytest.approx(nearest.sum())


def test_auto_takes_the_sparse_solver_beyond_the_limit(monkeypatch):
    monkeypatch.setattr(_assign, "DENSE_LIMIT", 10)
    monkeypatch.setattr(_assign, "_match_dense", None)
    pixel = assign_pixels(crowd(12, 8, 0), 8)
    assert len(set(pixel.tolist())) == 12


def test_prices_are_positive_only_for_contested_pixels():
    coords = np.concatenate([np.full((40, 2), 4.0), [[14.5, 14.5]]])
    prices = pixel_prices(coords, 16).reshape(16, 16)
    assert prices[4, 4] == prices.max() > 1.0
    assert prices[14, 14] == pytest.approx(0.0, abs=1e-9)
    assert prices.min() >= 0.0


def test_prices_that_overflow_become_harmless():
    prices = pixel_prices(np.full((60, 2), 1e6), 8)
    np.testing.assert_array_equal(prices, np.zeros(64))

import numpy as np
import pytest

from hdeepinsight.image._fit import align_to_rectangle, minimum_area_angle, scale_to_grid


def area_at(points: np.ndarray, angle: float) -> float:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return float(np.ptp(points @ turn, axis=0).prod())


def test_area_is_the_smallest_over_all_angles():
    for seed in range(8):
        points = (
            np.random.default_rng(seed).normal(size=(60, 2))
            * [3.0, 1.0]
            @ [[0.8, 0.6], [-0.6, 0.8]]
        )
        area = np.ptp(align_to_rectangle(points), axis=0).prod()
        by_hand = min(area_at(points, angle) for angle in np.linspace(0, np.pi / 2, 20_001))
        assert area <= by_hand + 1e-12
        assert area == pytest.approx(by_hand, rel=1e-3)


def test_a_rotated_rectangle_is_aligned_with_the_axes():
    corners = np.array([[0, 0], [1, 0], [1, 4], [0, 4.0]])
    for angle in (0.0, 0.3, 1.2, 2.5):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        np.testing.assert_allclose(np.ptp(align_to_rectangle(corners @ turn), axis=0), [4, 1])


def test_alignment_is_rigid():
    points = np.random.default_rng(0).normal(size=(30, 2))
    aligned = align_to_rectangle(points)
    before = np.linalg.norm(points[:, None] - points, axis=-1)
    np.testing.assert_allclose(np.linalg.norm(aligned[:, None] - aligned, axis=-1), before)
    turn = np.linalg.lstsq(points, aligned)[0]
    assert np.linalg.det(turn) == pytest.approx(1.0)  # a rotation, not a mirror image


def test_equal_areas_take_the_smaller_angle():
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])
    assert minimum_area_angle(square) == 0.0


def test_collinear_points_are_aligned_with_the_long_axis():
    for points in [
        [[2.0, 3.0]],
        [[0.0, 0.0], [1.0, 1.0]],
        [[0.0, 0.0], [1.0, 2.0], [2.0, 4.0], [3.0, 6.0]],
        [[1.0, 1.0]] * 5,
    ]:
        aligned = align_to_rectangle(np.array(points))
        ends = np.ptp(np.array(points), axis=0)
        np.testing.assert_allclose(np.ptp(aligned, axis=0), [np.hypot(*ends), 0], atol=1e-12)


def test_stretch_fills_each_axis_on_its_own():
    grid = scale_to_grid(np.array([[0.0, 5.0], [10.0, 6.0], [5.0, 5.5]]), 8, equalize=False)
    np.testing.assert_allclose(grid, [[0, 0], [8, 8], [4, 4]])  # (row, column)


def test_ranks_fill_each_axis_evenly_and_share_ties():
    grid = scale_to_grid(
        np.array([[0.0, 1.0], [1.0, 1.0], [100.0, 3.0], [7.0, 2.0]]), 4, equalize=True
    )
    np.testing.assert_allclose(grid[:, 1], [0.5, 1.5, 3.5, 2.5])
    np.testing.assert_allclose(grid[:, 0], [1.0, 1.0, 3.5, 2.5])

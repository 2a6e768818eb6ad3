import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from hdeepinsight import pl
from hdeepinsight._palette import MISSING, PALETTE, categorical_colors
from hdeepinsight.pp import corrected_gram_pca


def drawn(ax) -> dict[tuple[float, float], str]:
    """Colour of the dot at each place."""
    dots = ax.collections[0]
    colors = map(to_hex, dots.get_facecolors())
    return dict(zip(map(tuple, dots.get_offsets().tolist()), colors, strict=True))


@pytest.fixture
def coords() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(30, 2))


def test_every_cell_has_the_colour_of_its_label(coords):
    labels = np.array(["B", "NK", "T"])[np.arange(30) % 3]
    colors = drawn(pl.embedding(coords, labels))
    assert len(colors) == 30
    expected = dict(zip(["B", "NK", "T"], PALETTE, strict=False))
    for place, label in zip(coords.tolist(), labels, strict=True):
        assert colors[tuple(place)] == expected[label].lower()


def test_categories_keep_their_order_and_unused_ones_take_no_colour(coords):
    labels = pd.Categorical(["T", "B"] * 15, categories=["T", "unused", "B"])
    ax = pl.embedding(coords, labels)
    assert [text.get_text() for text in ax.texts] == ["T", "B"]
    assert drawn(ax)[tuple(coords[1].tolist())] == PALETTE[1].lower()


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_missing_labels_are_grey_and_lie_below(coords, missing):
    labels = pd.Series(["T"] * 20 + [missing] * 10, dtype=object)
    ax = pl.embedding(coords, labels, legend_loc="right margin")
    below = [to_hex(color) for color in ax.collections[0].get_facecolors()]
    assert below == [MISSING.lower()] * 10 + [PALETTE[0].lower()] * 20
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["T (20)", "no label (10)"]


def test_names_stand_on_a_cell_of_their_type():
    rng = np.random.default_rng(0)
    coords = np.concatenate([rng.normal(size=(50, 2)), 40 + rng.normal(size=(50, 2))])
    ax = pl.embedding(coords, ["T"] * 50 + ["B"] * 50)
    for text, own in zip(ax.texts, (coords[50:], coords[:50]), strict=True):
        assert np.abs(own - text.get_position()).sum(axis=1).min() == 0.0


def test_names_that_would_overlap_are_lifted():
    coords = np.repeat([[0.0, 0.0], [0.1, 0.0], [10.0, 10.0]], 5, axis=0)
    ax = pl.embedding(coords, np.repeat(["long name one", "long name two", "far"], 5))
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_many_labels_move_to_a_legend_with_numbers_of_cells(coords):
    ax = pl.embedding(coords, [f"type {i % 15:02d}" for i in range(30)])
    assert not ax.texts
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == [f"type {i:02d} (2)" for i in range(15)]


def test_legend_can_be_left_out(coords):
    ax = pl.embedding(coords, ["T"] * 30, legend_loc="none", title="mine", size=7.0)
    assert not ax.texts
    assert ax.get_legend() is None
    assert ax.get_title() == "mine"
    np.testing.assert_array_equal(ax.collections[0].get_sizes(), [7.0])


def test_given_colours_are_used(coords):
    ax = pl.embedding(coords, ["T"] * 30, palette={"T": "#123456"})
    assert set(drawn(ax).values()) == {"#123456"}


def test_palette_is_distinct_and_repeats_after_forty():
    assert len(set(PALETTE)) == len(PALETTE) == 40
    assert categorical_colors(41)[40] == PALETTE[0]


def test_numbers_are_drawn_on_a_scale_and_missing_ones_lie_below(coords):
    values = np.linspace(0.1, 0.9, 30)
    values[7] = np.nan
    ax = pl.embedding(coords, values, colorbar_label="score", title="mine")
    dots = ax.collections[0]
    ordered = np.asarray(dots.get_array())
    assert np.isnan(ordered[0])
    np.testing.assert_array_equal(np.sort(ordered[1:]), np.delete(values, 7))
    at = {tuple(place): i for i, place in enumerate(coords.tolist())}
    for place, value in zip(dots.get_offsets().tolist(), ordered, strict=True):
        assert value == values[at[tuple(place)]] or np.isnan(value)
    assert dots.get_clim() == (0.1, 0.9)
    assert ax.figure.axes[1].get_ylabel() == "score"
    assert pl.embedding(coords, values, vmin=0, vmax=1).collections[0].get_clim() == (0, 1)


def test_names_of_series_are_used(coords):
    values = pd.Series(np.linspace(0, 1, 30), name="confidence")
    ax = pl.embedding(coords, values)
    assert (ax.get_title(), ax.figure.axes[1].get_ylabel()) == ("confidence", "confidence")
    ax = pl.embedding(coords, pd.Series(["T"] * 30, name="stop_label"))
    assert ax.get_title() == "stop label"
    assert pl.embedding(coords, values, title="").get_title() == ""


def test_whole_numbers_are_labels(coords):
    ax = pl.embedding(coords, np.arange(30) % 2)
    assert [text.get_text() for text in ax.texts] == ["0", "1"]


def test_no_cells_and_no_known_number():
    assert len(pl.embedding(np.empty((0, 2)), []).collections[0].get_offsets()) == 0
    only = pl.embedding([[0, 0]], [np.nan]).collections[0]
    assert only.get_clim() == (0.0, 1.0)


def test_many_cells_are_one_bitmap():
    rng = np.random.default_rng(0)
    many = rng.normal(size=(6_000, 2))
    assert pl.embedding(many, rng.random(6_000)).collections[0].get_rasterized()
    assert pl.embedding(many, rng.integers(3, size=6_000)).collections[0].get_rasterized()
    assert not pl.embedding(many[:9], rng.random(9)).collections[0].get_rasterized()


def test_bad_input_is_refused(coords):
    for labels, options, match in [
        (["T"] * 29, {}, "29 labels"),
        (["T"] * 30, {"legend_loc": "right"}, "legend_loc must be one of .* got 'right'"),
        (["T"] * 30, {"palette": {"B": "red"}}, "a colour for each label, also T"),
        (["T"] * 30, {"vmin": 0, "cmap": "viridis"}, "vmin, cmap have no effect with labels"),
        ([0.5] * 30, {"palette": {"B": "red"}}, "palette has no effect with numbers"),
    ]:
        with pytest.raises((ValueError, KeyError), match=match):
            pl.embedding(coords, labels, **options)


def test_coverage_against_a_component(drawn_pca):
    ax = pl.coverage(drawn_pca, ["T", "B"] * 15, component=2)
    assert ax.get_ylabel() == "component 2"
    places = np.array(list(drawn(ax)))
    found = places[np.argsort(places[:, 1])]
    order = np.argsort(drawn_pca.embedding[:, 1])
    np.testing.assert_allclose(found[:, 1], drawn_pca.embedding[order, 1])
    np.testing.assert_allclose(found[:, 0], drawn_pca.coverage.to_numpy()[order], atol=0.3)
    share, points = np.log(drawn_pca.coverage), drawn_pca.embedding[:, 1]
    r, size = (np.corrcoef(share, each)[0, 1] for each in (points, np.abs(points)))
    expected = f"coverage explains {r**2:.0%} of component 2, {size**2:.0%} of its absolute value"
    assert ax.get_title() == expected
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["B (15)", "T (15)"]
    with pytest.raises(IndexError):
        pl.coverage(drawn_pca, component=3)
    with pytest.raises(ValueError, match="groups"):
        pl.coverage(drawn_pca, ["T"] * 29)


@pytest.fixture
def drawn_pca():
    rng = np.random.default_rng(0)
    cells = ad.AnnData(rng.normal(size=(30, 40)))
    observed = rng.random((30, 40)) < rng.uniform(0.3, 0.9, (30, 1))
    return corrected_gram_pca(cells, mask=observed, n_comps=2)

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from hdeepinsight import pl
from hdeepinsight.image import GeneLayout


@pytest.fixture
def layout() -> GeneLayout:
    return GeneLayout.random([f"G{i}" for i in range(12)], side=6, seed=0)


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_every_value_is_drawn_at_the_pixel_of_its_gene(layout):
    values = np.arange(12.0)
    drawn = pl.gene_layout(layout, values).images[0].get_array()
    assert drawn.shape == (6, 6)
    assert drawn.count() == 12  # the other pixels are masked
    for value, (row, column) in zip(values, layout.coordinates, strict=True):
        assert drawn[row, column] == value


def test_without_values_all_genes_look_alike_and_no_colour_bar_is_drawn(layout):
    ax = pl.gene_layout(layout)
    drawn = ax.images[0].get_array()
    assert drawn.count() == 12
    assert set(drawn.compressed()) == {0.0}
    assert len(ax.figure.axes) == 1
    assert ax.get_title() == "12 genes on 6 × 6 pixels (random)"


def test_title_repeats_the_report(layout):
    report = {"neighbors_kept": 0.25, "neighbors_kept_random": 0.0125}
    fitted = GeneLayout(layout.genes, layout.pixel, 6, "tsne", report)
    title = pl.gene_layout(fitted).get_title()
    assert "25.0%" in title
    assert "1.2% by chance" in title
    assert pl.gene_layout(fitted, title="mine").get_title() == "mine"


def test_highlighted_genes_are_named_and_framed(layout):
    ax = pl.gene_layout(layout, np.zeros(12), highlight=["G3", "G7"], label="mean")
    assert sorted(texts(ax)) == ["G3", "G7"]
    frames = {patch.get_xy() for patch in ax.patches if isinstance(patch, Rectangle)}
    expected = {(column - 0.5, row - 0.5) for row, column in layout.coordinates[[3, 7]].tolist()}
    assert frames == expected
    assert ax.figure.axes[1].get_ylabel() == "mean"


def test_names_keep_apart_and_inside():
    layout = GeneLayout(genes=list("ABCDEF"), pixel=64 * np.array([30, 30, 31, 63, 62, 2]) + [
        0, 1, 0, 0, 1, 0,
    ], side=64)  # fmt: skip
    ax = pl.gene_layout(layout, highlight=layout.genes)
    heights = np.array([text.xyann[1] for text in ax.texts])
    assert np.diff(np.sort(heights)).min() >= 0.042 * 64 - 1e-9
    assert heights.max() <= 63
    assert heights[5] == 2
    assert heights[0] == 30


def test_given_axes_are_used(layout):
    figure, ax = plt.subplots()
    assert pl.gene_layout(layout, ax=ax) is ax
    assert plt.get_fignums() == [figure.number]


def test_images_share_one_scale_and_one_colour_bar(layout):
    rng = np.random.default_rng(0)
    images = {name: rng.gamma(1.0, size=12) for name in ("T", "B", "NK", "Mono", "DC")}
    figure = pl.gene_images(layout, images, ncols=3, title="types", label="mean")
    *panels, bar = figure.axes
    assert [ax.get_title() for ax in panels] == list(images)
    top = max(values.max() for values in images.values())
    for ax, values in zip(panels, images.values(), strict=True):
        assert ax.images[0].get_clim() == (0.0, top)
        row, column = layout.coordinates.T
        np.testing.assert_array_equal(ax.images[0].get_array()[row, column], values)
    assert bar.get_ylabel() == "mean"
    assert figure.get_suptitle() == "types"


def test_the_most_specific_genes_are_named(layout):
    images = np.ones((3, 12))
    images[0, 4] = images[1, 9] = images[2, 0] = 5.0
    images[:, 7] = 8.0  # high everywhere: specific to none
    figure = pl.gene_images(layout, dict(zip("abc", images, strict=True)), n_top=1)
    assert [texts(ax) for ax in figure.axes[:3]] == [["G4"], ["G9"], ["G0"]]


def test_one_image_alone(layout):
    figure = pl.gene_images(layout, {"T": np.arange(12)}, n_top=2)
    assert sorted(texts(figure.axes[0])) == ["G10", "G11"]


def test_tables_and_series_are_matched_by_gene_name(layout):
    values = pd.Series(np.arange(11.0), index=[f"G{i}" for i in range(11)])[::-1]
    drawn = pl.gene_layout(layout, values).images[0].get_array()
    rows, columns = layout.coordinates.T
    np.testing.assert_array_equal(drawn[rows, columns].filled(-1), [*range(11), -1])
    figure = pl.gene_images(layout, pd.DataFrame({"T": values, "B": -values}), n_top=1)
    panels = [ax.images[0].get_array()[rows, columns].filled(99) for ax in figure.axes[:2]]
    np.testing.assert_array_equal(panels, [[*range(11), 99], [*(-i for i in range(11)), 99]])
    assert texts(figure.axes[0]) == ["G10"]  # not the gene without a value


def test_long_headings_stay_as_wide_as_their_image(layout):
    figure = pl.gene_images(layout, {"a" * 60 + "\nb": np.arange(12)})
    first, second = figure.axes[0].get_title().splitlines()
    assert len(first) == 28
    assert second == "b"


def test_bad_input_is_refused(layout):
    for draw, match in [
        (lambda x: pl.gene_layout(x, np.zeros(5)), r"\(12,\)"),
        (lambda x: pl.gene_layout(x, highlight=["CD4"]), "highlight must be genes of the layout"),
        (lambda x: pl.gene_layout(x, cmap="magma"), "cmap has no effect without values"),
        (lambda x: pl.gene_images(x, {"T": [1.0]}), "image 'T'"),
    ]:
        with pytest.raises((ValueError, KeyError), match=match):
            draw(layout)


@pytest.mark.parametrize("options", [{"ncols": 0}, {"n_top": -1}])
def test_no_columns_and_fewer_than_no_genes_are_refused(layout, options):
    with pytest.raises(ValueError, match="must be an integer >= "):
        pl.gene_images(layout, {"T": np.ones(layout.n_genes)}, **options)

"""Figures match their baselines, which ``python tests/support/pictures.py`` regenerates."""

from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.testing.compare import compare_images
from matplotlib.testing.exceptions import ImageComparisonFailure
from pictures import BASELINE, PICTURES, draw
from PIL import Image

from hdeepinsight import pl

#: Root mean square difference of pixels (0 to 255): above differences of text between builds of one
#: version of matplotlib, below differences due to other data (at least 7.8).
TOLERANCE = 5.0
LARGEST = 30_000


def minor(version: str) -> list[str]:
    return version.split(".")[:2]


@pytest.fixture
def baseline(name: str) -> Path:
    path = BASELINE / f"{name}.png"
    with Image.open(path) as picture:
        drawn_by = picture.info["Software"].split(",")[0].removeprefix("Matplotlib version")
    if minor(drawn_by) != minor(mpl.__version__):
        pytest.skip(f"baselines are of matplotlib {drawn_by}, this is {mpl.__version__}")
    return path


def difference(baseline: Path, drawn: Path) -> str | None:
    """Return the difference between a figure and its baseline, or None."""
    try:
        return compare_images(str(baseline), str(drawn), TOLERANCE)
    except ImageComparisonFailure as other_size:
        return str(other_size)


@pytest.mark.parametrize("name", PICTURES)
def test_figure_matches_its_baseline_and_other_data_does_not(name, baseline, tmp_path):
    draw(name, tmp_path / "same.png")
    assert difference(baseline, tmp_path / "same.png") is None
    draw(name, tmp_path / "other.png", seed=1)
    assert difference(baseline, tmp_path / "other.png") is not None


def test_functions_and_baselines_correspond():
    written = {path.stem: path.stat().st_size for path in BASELINE.iterdir()}
    assert written.keys() == PICTURES.keys()
    assert max(written.values()) <= LARGEST
    assert {name for name in vars(pl) if name[0] != "_"} <= written.keys()

"""Pictures look as they did; ``python tests/support/pictures.py`` writes the baselines anew."""

from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.testing.compare import compare_images
from matplotlib.testing.exceptions import ImageComparisonFailure
from pictures import BASELINE, PICTURES, draw
from PIL import Image

from hdeepinsight import pl

#: Root mean square over the pixels, of 255: above what rasterised text differs by between builds
#: of one version of matplotlib, below what other data makes (7.8 at least).
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
    """Say how a picture differs from its baseline, if it does."""
    try:
        return compare_images(str(baseline), str(drawn), TOLERANCE)
    except ImageComparisonFailure as other_size:
        return str(other_size)


@pytest.mark.parametrize("name", PICTURES)
def test_picture_is_like_its_baseline_and_other_data_is_told_from_it(name, baseline, tmp_path):
    draw(name, tmp_path / "same.png")
    assert difference(baseline, tmp_path / "same.png") is None
    draw(name, tmp_path / "other.png", seed=1)
    assert difference(baseline, tmp_path / "other.png") is not None


def test_every_function_has_a_small_baseline_and_no_baseline_is_left_over():
    written = {path.stem: path.stat().st_size for path in BASELINE.iterdir()}
    assert written.keys() == PICTURES.keys()
    assert max(written.values()) <= LARGEST
    assert set(pl.__all__) <= written.keys()

import base64
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from chromium import Chromium, find_chromium
from matplotlib.image import imread

from hdeepinsight import pl
from hdeepinsight.image import GeneLayout

HOSTILE = '</script><script>window.attacked=1</script>"&<img src=x onerror="window.attacked=1">'
GENES = [HOSTILE, "CD3E", "γ", "$x$"]


@pytest.fixture
def layout() -> GeneLayout:
    return GeneLayout(genes=GENES, pixel=[0, 5, 10, 15], side=4)


def content(page: str) -> dict:
    found = re.search(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    return json.loads(found[1])


def test_names_places_and_values_are_in_the_page(layout):
    page = pl.gene_layout_html(layout, {"T": [1, 0.12345, np.nan, 3], "B": [0, 0, 0, 0]})
    assert content(page) == {
        "side": 4,
        "genes": GENES,
        "pixel": [0, 5, 10, 15],
        "values": [[1.0, 0.123, None, 3.0], [0.0] * 4],
    }


def test_pictures_have_one_pixel_a_gene_on_one_scale(layout):
    page = pl.gene_layout_html(layout, {"T": [0, 0, 0, 2], "B": [0, 1, 0, 0]}, cmap="gray")
    pngs = re.findall(r"data:image/png;base64,([^\"]+)", page)
    first, second = (imread(io.BytesIO(base64.b64decode(png)))[..., 0] for png in pngs)
    assert first.shape == (4, 4)
    assert (first[3, 3], first[0, 0]) == (1.0, 0.0)
    assert second[1, 1] == pytest.approx(0.5, abs=0.01)
    assert first[0, 1] == pytest.approx(0xF1 / 255)  # no gene


def test_a_table_is_matched_by_gene_name(layout):
    table = pd.DataFrame({"T": [3.0, 1.0, 9.0]}, index=["$x$", "CD3E", "unknown"])
    assert content(pl.gene_layout_html(layout, table))["values"] == [[None, 1.0, None, 3.0]]


def test_without_images_there_are_no_values_and_no_scale(layout):
    page = pl.gene_layout_html(layout)
    assert content(page)["values"] == []
    assert 'class="scale"' not in page
    assert "4 genes on 4 × 4 pixels" in page


def test_text_cannot_leave_its_place(layout):
    page = pl.gene_layout_html(layout, {HOSTILE: np.ones(4)}, title=HOSTILE, label=HOSTILE)
    assert "attacked=1</script>" not in page
    assert "<img src=x" not in page
    assert content(page)["genes"][0] == HOSTILE


def test_wrong_number_of_values_is_refused(layout):
    with pytest.raises(ValueError, match=r"image 'T'.*\(4,\)"):
        pl.gene_layout_html(layout, {"T": [1, 2]})


@pytest.fixture
def tab(layout, tmp_path):
    """The page in a browser, with a hostile heading too."""
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium found: install one (apt-get install chromium) to test the page")
    path = tmp_path / "genes.html"
    page = pl.gene_layout_html(layout, {"T": [1, 2, np.nan, 3], HOSTILE: [0, 0, 0, 7]})
    path.write_text(page, encoding="utf-8")
    browser = Chromium(program, tmp_path / "profile")
    yield browser.open(path)
    browser.close()


def test_the_gene_under_the_mouse_is_named_in_every_image(tab):
    hover = """(([column, row]) => {
        const box = document.querySelectorAll(".panel")[0], area = box.getBoundingClientRect();
        box.dispatchEvent(new MouseEvent("mousemove", {
            clientX: area.left + area.width * (column + 0.5) / 4,
            clientY: area.top + area.height * (row + 0.5) / 4 }));
        return [...document.querySelectorAll(".name")].map(name => name.hidden || name.textContent);
    })"""
    assert tab.evaluate(f"{hover}([0, 0])") == [f"{HOSTILE}: 1", f"{HOSTILE}: 0"]
    assert tab.evaluate(f"{hover}([2, 2])") == ["γ: not measured", "γ: 0"]
    assert tab.evaluate(f"{hover}([3, 3])") == ["$x$: 3", "$x$: 7"]
    assert tab.evaluate(f"{hover}([1, 0])") == [True, True]  # no gene there
    assert tab.evaluate("window.attacked") is None
    assert tab.problems == []
    assert [url for url in tab.requests if not url.startswith("data:")] == tab.requests[:1]


def test_a_gene_is_found_by_the_beginning_of_its_name(tab):
    find = """(text => {
        const input = document.querySelector("input");
        input.value = text;
        input.dispatchEvent(new Event("input"));
        return document.querySelector("output").textContent;
    })"""
    assert tab.evaluate(f"{find}('cd3')") == "CD3E, row 2, column 2"
    assert tab.evaluate(f"{find}('nothing')") == "no such gene"
    assert tab.evaluate(f"{find}('')") == ""

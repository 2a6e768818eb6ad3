"""Properties of all reports: complete, safe, small and reproducible."""

import re
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from hdeepinsight import report
from hdeepinsight.annotation import Decision

HOSTILE_NAMES = ["<script>window.attacked=1</script>", '"><img src=x onerror="window.attacked=1">']


@pytest.fixture(scope="module")
def pages(full, annotated, page, hostile_nested, nested):
    """Pages of all kinds of annotations."""
    rng = np.random.default_rng(0)
    clusters = pd.Series(rng.integers(0, 5, 200), index=full.obs_names)
    given = {"embedding": rng.normal(size=(200, 2)), "clusters": clusters}
    hostile = {"title": HOSTILE_NAMES[0], "model": HOSTILE_NAMES[1]}
    hostile |= {"clusters": np.repeat(HOSTILE_NAMES, 30), "embedding": rng.normal(size=(60, 2))}
    return [
        page(full, true_nodes=full.leaf_nodes, model="pbmc", **given),
        page(annotated(hostile_nested, 60), **hostile),
        page(annotated(nested, 80)),
        page(annotated(nested, 1)),
        page(annotated(nested, 0)),
        page(annotated(nested, 80, threshold=None)),
        page(annotated({"T": [], "B": []}, 80)),
    ]


def test_nothing_is_fetched(pages):
    for any_page in pages:
        addresses = [
            found[name]
            for _, found in any_page.elements
            for name in ("src", "href")
            if name in found
        ]
        assert addresses
        # Definitions are links: they are followed by a click, and fetched by nothing.
        terms = "http://purl.obolibrary.org/obo/CL_"
        assert [text for text in addresses if not text.startswith(("data:", "#", terms))] == []
        style = any_page.all("style")[0][1]
        assert "url(" not in style
        assert "@import" not in style


def test_anchors_have_targets_and_ids_are_unique(pages):
    for any_page in pages:
        ids = [found["id"] for _, found in any_page.elements if "id" in found]
        assert len(ids) == len(set(ids))
        for found, _ in any_page.all("a"):
            assert found["href"][1:] in ids


def test_headings_are_in_order(pages):
    for any_page in pages:
        levels = [int(tag[1]) for tag, _ in any_page.elements if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(below - above <= 1 for above, below in pairwise(levels))


def test_images_and_inputs_have_labels(pages):
    for any_page in pages:
        for found, _ in any_page.all("img"):
            assert re.search(r"\d", found["alt"]), found["alt"]
        labelled = {found["for"] for found, _ in any_page.all("label")}
        assert {found["id"] for found, _ in any_page.all("input", "select")} <= labelled


def test_tables_have_captions_and_scopes(pages):
    for any_page in pages:
        tables = any_page.all("table")
        assert len(tables) == len(any_page.all("caption"))
        assert all(text.strip() for _, text in any_page.all("caption"))
        assert {found.get("scope") for found, _ in any_page.all("th")} <= {"col", "row"}


def test_landmarks_are_unique_and_can_be_skipped(pages):
    for any_page in pages:
        for landmark in ("header", "nav", "main", "footer"):
            assert len(any_page.all(landmark)) == 1
        assert any_page.all("a")[0][0]["href"] == "#main"
        assert any_page.all("html")[0][0]["lang"] == "en"


def test_only_own_scripts_and_policy_names_them(pages):
    import base64
    import hashlib

    for any_page in pages:
        kinds = [found.get("type") for found, _ in any_page.all("script")]
        assert kinds[:1] == ["application/json"]
        assert kinds[1:] in ([None], ["application/json", None])
        script = any_page.all("script")[-1][1]
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy = next(f["content"] for f, _ in any_page.all("meta") if "http-equiv" in f)
        assert f"script-src 'sha256-{digest}'" in policy
        assert policy.startswith("default-src 'none'")
        handlers = [
            name for _, found in any_page.elements for name in found if name.startswith("on")
        ]
        assert handlers == []


def test_hostile_names_are_escaped(annotated, page, hostile_nested):
    result = annotated(hostile_nested, 60)
    found = page(result, title=HOSTILE_NAMES[0], model=HOSTILE_NAMES[1], clusters=[
        HOSTILE_NAMES[i % 2] for i in range(60)
    ])  # fmt: skip
    assert found.all("h1")[0][1] == HOSTILE_NAMES[0]
    assert HOSTILE_NAMES[1] in found.all("header")[0][1]
    assert {row["Cluster"] for row in found.facts["tables"]["clusters"]["rows"]} == {*HOSTILE_NAMES}
    rows = [text.strip() for attributes, text in found.all("th") if attributes["scope"] == "row"]
    shown = " ".join([*rows, found.text])
    assert [
        name for name in result.taxonomy.labels[1:] if " ".join(name.split()) not in shown
    ] == []
    assert "49" not in found.all("h1")[0][1]


def test_broken_characters_are_replaced(annotated, page):
    result = annotated({"no\uffff character": [], "B": []}, 20)
    found = page(
        result,
        title="half \ud83e",
        clusters=["a\x00b", "\x1b"] * 10,
        true_nodes=result.leaf_nodes,
    )
    assert found.all("h1")[0][1] == "half \\ud83e"
    ElementTree.fromstring(unquote(found.all("img")[0][0]["src"].partition(",")[2]))


CONTROLS = "\x00\x07\x1b[2J\x9b\u202e\u2066\u200b"


def test_no_control_or_direction_character_reaches_the_page(annotated, page):
    """They are written out: in the head, in tables, in figures and for machines."""
    nested = {f"T\u202e{i}": [f"CD{i}\u2066", f"B{i}\u200b"] for i in range(3)}
    recipe = {
        "hdeepinsight": f"0.1{CONTROLS}",
        f"key{CONTROLS}": CONTROLS,
        "n_cells": 60,
        "n_held_out": 0,
    }
    step = Decision(step="adapt", applied=False, reason=CONTROLS, figures={CONTROLS: 1.0})
    result = annotated(nested, 60, recipe=recipe, decisions=(step,))
    found = page(
        result,
        title=f"Cells{CONTROLS}",
        model=CONTROLS,
        clusters=[f"{CONTROLS}{i % 3}" for i in range(60)],
        embedding=np.random.default_rng(0).normal(size=(60, 2)),
    )
    whole = found.source + "".join(
        unquote(image["src"].partition(",")[2]) for image, _ in found.all("img")
    )
    assert not set(whole) & set(CONTROLS) - set("[2J")
    assert "Cells\\x00\\x07\\x1b[2J\\x9b\\u202e" in found.text
    assert "The probabilities are not calibrated: no cells were held out" in found.text
    assert "none were held out" in found.facts["methods"]


def test_page_is_written_atomically(annotated, nested, tmp_path, monkeypatch):
    path, result = tmp_path / "page.html", annotated(nested, 30)
    path.write_text("old")
    write_text = Path.write_text

    def full(self, text, **options):
        write_text(self, text[:100])
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space"):
            report.write(result, path)
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["page.html"]


def test_the_same_result_gives_the_same_bytes(full, page, monkeypatch):
    options = {"embedding": np.random.default_rng(0).normal(size=(200, 2))}
    assert page(full, **options).source == page(full, **options).source
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    found = page(full, created=None, **options)
    assert found.all("time")[0][0]["datetime"] == "1970-01-02T00:00:00+00:00"
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    before = datetime.now(UTC)
    written = datetime.fromisoformat(page(full, created=None).all("time")[0][0]["datetime"])
    assert before <= written <= datetime.now(UTC)


def test_matplotlib_state_is_restored(full, page):
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    before, figures = dict(mpl.rcParams), plt.get_fignums()
    page(full, true_nodes=full.leaf_nodes)
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == figures


@pytest.mark.slow
def test_a_hundred_thousand_cells_of_fifty_types(tmp_path, annotated):
    result = annotated({f"L{i}": [f"L{i} T{j}" for j in range(5)] for i in range(10)}, 100_000)
    rng, start = np.random.default_rng(0), time.process_time()
    path = tmp_path / "report.html"
    report.write(
        result,
        path,
        embedding=rng.normal(size=(100_000, 2)),
        clusters=result.obs_names,
        true_nodes=result.leaf_nodes,
    )
    assert time.process_time() - start < 20
    assert path.stat().st_size < 5_000_000


def test_a_large_taxonomy_is_listed_but_not_drawn(annotated, page):
    nested = {f"L{i}": [f"L{i} T{j}" for j in range(60)] for i in range(25)}
    found = page(annotated(nested, 4_000, threshold=None))
    assert found.all("img") == []
    rows = found.facts["tables"]["composition"]["rows"]
    assert len(rows) == 1_000
    assert "The first 1,000 of" in found.facts["tables"]["composition"]["caption"]
    assert len(found.source) < 5_000_000

"""Fixtures: annotations of every kind, parsed reports, and a browser."""

import json
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from chromium import Chromium, find_chromium

from hdeepinsight import report
from hdeepinsight.annotation import Annotation, Decision, calibrate
from hdeepinsight.data import GeneReport, InputReport
from hdeepinsight.taxonomy import Taxonomy

mpl.use("Agg")

TREE = {"T": {"CD4": ["naive", "memory"], "CD8": []}, "B": ["naive", "plasma"], "NK": []}
#: Names that are markup, scripts, mathematics, entities, other scripts, or end what holds them.
HOSTILE = {
    "<script>window.attacked=1</script>": ['"><img src=x onerror="window.attacked=1">', "a & b"],
    "</script><b>bold": ["$\\frac{", "x$^+$"],
    "{{ 7 * 7 }}": ["γδ T 辅助", "' onmouseover='window.attacked=1"],
}
CREATED = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
RECIPE = {
    "backbone": "compact",
    "n_cells": 490,
    "n_held_out": 31,
    "n_genes": 765,
    "seed": 3,
    "max_epochs": 133,
    "split_key": "donor",
    "python": "3.11.7",
    "hdeepinsight": "0.1.0",
    "torch": "2.6.0",
}


class Page(HTMLParser):
    """What a page holds: its elements with their attributes, and the text of each."""

    #: Elements that have no end tag.
    VOID = frozenset({"img", "input", "link", "meta"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[int] = []
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")
        if tag not in self.VOID:
            self._open.append(len(self.texts) - 1)

    def handle_endtag(self, tag):
        last = self._open.pop()
        assert self.elements[last][0] == tag, f"{self.elements[last]} is closed by </{tag}>"

    def handle_data(self, data):
        for element in self._open:
            self.texts[element] += data

    def all(self, *tags: str) -> list[tuple[dict[str, str | None], str]]:
        """Attributes and text of each element of some kinds, in the order of the page."""
        pairs = zip(self.elements, self.texts, strict=True)
        return [(attributes, text) for (tag, attributes), text in pairs if tag in tags]

    @property
    def facts(self) -> dict:
        """The machine-readable part."""
        text = next(t for a, t in self.all("script") if a.get("id") == "hdeepinsight-report")
        return json.loads(text)

    @property
    def text(self) -> str:
        """All that is read, with single spaces."""
        return " ".join(self.all("body")[0][1].split())


def node_probabilities(tree: Taxonomy, n_cells: int, seed: int = 0) -> np.ndarray:
    """Probabilities of every node, ``(n_cells, n_nodes)``: a softmax in each group of siblings."""
    rng = np.random.default_rng(seed)
    found = np.ones((n_cells, tree.n_nodes))
    for children in tree.groups:
        weight = np.exp(2.0 * rng.normal(size=(n_cells, len(children))))
        parent = tree.parent[children[0]]
        found[:, children] = found[:, [parent]] * weight / weight.sum(axis=1, keepdims=True)
    return found


def annotation(nested: dict, n_cells: int, **options) -> Annotation:
    """Annotation of random probabilities."""
    tree = Taxonomy.from_nested(nested)
    return Annotation(
        taxonomy=tree,
        obs_names=pd.Index([f"cell_{i}" for i in range(n_cells)]),
        node_probabilities=node_probabilities(tree, n_cells),
        **options,
    )


@pytest.fixture(scope="session")
def annotated():
    return annotation


@pytest.fixture(scope="session")
def full() -> Annotation:
    """200 cells with everything that an annotation may carry."""
    other = annotation(TREE, 200)
    known = annotation(TREE, 100)
    rng = np.random.default_rng(1)
    p = np.sort(rng.random((200, 2)), axis=1)
    strange = p[:, 0] <= 0.2
    return annotation(
        TREE,
        200,
        threshold=0.6,
        supported_depth=np.where(p[:, 1] <= 0.2, 0, np.where(strange, 1, 3)),
        stop_reasons=np.where(strange, "novel to the reference", "").astype(object),
        input_report=InputReport(
            200, 900, "X", "csr_matrix", "counts", "all values are whole numbers", n_empty_cells=2
        ),
        gene_report=GeneReport(765, 900, 700, 0.95, missing=("<b>", "CD3E"), n_extra=200),
        recipe=RECIPE,
        calibration=calibrate(known, known.leaf_nodes, source="held-out reference cells"),
        novelty=pd.DataFrame(
            {
                "score": rng.normal(size=200),
                "p_value": p[:, 0],
                "type_p_value": p[:, 0],
                "lineage_p_value": p[:, 1],
                "doublet_score": rng.random(200),
                "is_doublet": rng.random(200) < 0.1,
            },
            index=other.obs_names,
        ),
        decisions=(
            Decision(step="adapt", applied=False, reason="nothing is gained", figures={"n": 0.25}),
            Decision(step="refine", applied=True, reason="neighbours agree", figures={"w": 0.5}),
        ),
    )


@pytest.fixture(scope="session")
def page(tmp_path_factory):
    """Write the page of an annotation and read it."""

    def make(result: Annotation, **options) -> Page:
        path = tmp_path_factory.mktemp("page") / "report.html"
        report.write(result, path, **{"created": CREATED, **options})
        return Page(path)

    return make


@pytest.fixture(scope="session")
def nested() -> dict:
    return TREE


@pytest.fixture(scope="session")
def hostile_nested() -> dict:
    return HOSTILE


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A headless Chromium; tests of the page in action skip without one."""
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium found: install one (apt-get install chromium) to test the page")
    chromium = Chromium(program, tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()

"""The report in a real browser, with its content security policy."""

import numpy as np
import pytest

from hdeepinsight import report
from hdeepinsight.taxonomy import Taxonomy

#: Elements whose text is fainter on its ground than WCAG AA asks for.
FAINT = """
(() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b]
    .map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const isText = (node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim();
  const texts = [...document.body.querySelectorAll("*")].filter(
    (e) => !["SCRIPT", "STYLE"].includes(e.tagName) && [...e.childNodes].some(isText));
  return texts.map((element) => {
    const [a, b] = [parse(getComputedStyle(element).color), ground(element)].map(light);
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.textContent];
  }).filter(([ratio]) => ratio < 4.5);
})()
"""


@pytest.fixture(scope="module")
def written(full, hostile_nested, annotated, tmp_path_factory):
    """A full page, and one of names that attack it."""
    folder, rng = tmp_path_factory.mktemp("browser"), np.random.default_rng(0)
    clusters = rng.choice(["c1", "c2", "c10"], 200, p=[0.6, 0.3, 0.1])
    report.write(
        full,
        folder / "full.html",
        clusters=clusters,
        embedding=rng.normal(size=(200, 2)),
        true_nodes=full.leaf_nodes,
    )
    hostile = annotated(hostile_nested, 60)
    names = Taxonomy.from_nested(hostile_nested).labels[1:]
    report.write(
        hostile,
        folder / "hostile.html",
        title=names[0],
        model=names[3],
        clusters=[names[i % len(names)] for i in range(60)],
        embedding=rng.normal(size=(60, 2)),
    )
    return folder


@pytest.fixture
def opened(browser, written):
    tab = browser.open(written / "full.html")
    assert tab.evaluate("document.readyState") == "complete"
    return tab


def column(tab, name: str, table: str = "clusters") -> list[str]:
    """Shown text of a column, row by row."""
    return tab.evaluate(f"""(() => {{
      const table = document.getElementById({table!r});
      const at = [...table.tHead.rows[0].cells].findIndex((c) => c.textContent === {name!r});
      return [...table.tBodies[0].rows].filter((row) => !row.hidden)
        .map((row) => row.cells[at].textContent.trim());
    }})()""")


def header(name: str, table: str = "clusters") -> str:
    """Expression of the header cell of a column."""
    return (
        f"[...document.querySelectorAll('#{table} thead th')].find(c => c.textContent === {name!r})"
    )


@pytest.mark.parametrize("name", ["full", "hostile"])
def test_page_runs_no_foreign_code_and_loads_nothing(browser, written, name):
    tab = browser.open(written / f"{name}.html")
    assert tab.evaluate("window.attacked") is None
    assert tab.problems == []
    assert [url.split(":")[0] for url in tab.requests[1:] if not url.startswith("data:")] == []
    assert tab.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert tab.evaluate("document.querySelectorAll('main script, main b').length") == 0


def test_content_security_policy_blocks_other_scripts(opened):
    opened.evaluate("""(() => {
      const script = document.createElement("script");
      script.textContent = "window.attacked = 1";
      document.body.append(script);
      document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.attacked=1'>");
    })()""")
    assert opened.evaluate("window.attacked") is None


def test_click_sorts_numbers_and_second_click_reverses(opened):
    largest = column(opened, "Cells")
    opened.click(f"{header('Cells')}.querySelector('button')")
    assert opened.evaluate(f"{header('Cells')}.ariaSort") == "descending"
    assert column(opened, "Cells") == sorted(largest, key=int, reverse=True)
    opened.click(f"{header('Cells')}.querySelector('button')")
    assert opened.evaluate(f"{header('Cells')}.ariaSort") == "ascending"
    assert column(opened, "Cells") == sorted(largest, key=int)


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_keys_sort_text_with_numbers_in_it(opened, key):
    opened.evaluate(f"{header('Cluster')}.querySelector('button').focus()")
    opened.press(key)
    assert column(opened, "Cluster") == ["c1", "c2", "c10"]
    assert opened.evaluate(f"{header('Cluster')}.ariaSort") == "ascending"
    opened.press(key)
    assert column(opened, "Cluster") == ["c10", "c2", "c1"]


def test_only_one_column_has_aria_sort(opened):
    for name in ("Cells", "Mean confidence"):
        opened.click(f"{header(name)}.querySelector('button')")
    sorted_ones = "[...document.querySelectorAll('#clusters [aria-sort]')].map(c => c.textContent)"
    assert opened.evaluate(sorted_ones) == ["Mean confidence"]


def test_missing_values_stay_last(opened):
    name, table = "Mean probability", "composition"
    for order in ("descending", "ascending"):
        opened.click(f"{header(name, table)}.querySelector('button')")
        assert opened.evaluate(f"{header(name, table)}.ariaSort") == order
        assert column(opened, name, table)[-1] == "–"
        assert column(opened, name, table).count("–") == 1


def test_typing_filters_rows_and_shows_their_number(opened):
    opened.evaluate("document.getElementById('clusters-filter').focus()")
    n_rows = len(column(opened, "Cluster"))
    opened.type("c1")
    shown = column(opened, "Cluster")
    assert sorted(shown) == ["c1", "c10"]
    status = "document.querySelector('output[for=clusters-filter]')"
    assert opened.evaluate(f"{status}.textContent") == f"{len(shown)} of {n_rows} rows"
    assert opened.evaluate(f"{status}.ariaLive") == "polite"


def test_all_controls_and_images_have_accessible_names(opened):
    wanted = {"button", "combobox", "image", "link", "region", "searchbox", "table"}
    found = [(node["role"], node["name"]) for node in opened.accessible if node["role"] in wanted]
    assert wanted <= {role for role, _ in found}
    assert [role for role, name in found if not name.strip()] == []
    assert all("↕" not in name for _, name in found)


def test_text_has_sufficient_contrast(opened):
    assert opened.evaluate(FAINT) == []


def test_keyboard_reaches_content_and_scrolling_tables(opened):
    opened.press("Tab")
    assert opened.evaluate("document.activeElement.textContent") == "Skip to main content"
    opened.narrow()
    scrolling = (
        "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)"
    )
    assert opened.evaluate(f"{scrolling}.length") > 0
    assert opened.evaluate(f"{scrolling}.every(e => e.tabIndex === 0)")


def test_narrow_page_scrolls_only_in_tables(opened):
    opened.narrow()
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_json_can_be_parsed(opened, full):
    read = "JSON.parse(document.getElementById('hdeepinsight-report').textContent)"
    assert opened.evaluate(f"{read}.n_cells") == len(full)


CANVAS = "document.querySelector('#cells-picture canvas')"


def inked(tab) -> int:
    """Pixels of the picture that are not empty."""
    return tab.evaluate(f"""(() => {{
      const canvas = {CANVAS};
      const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      return data.filter((value, i) => i % 4 === 3 && value > 0).length;
    }})()""")


def test_cells_are_drawn_and_legend_hides_them(opened, full):
    before = inked(opened)
    assert before > 200
    names = opened.evaluate(
        "[...document.querySelectorAll('#cells-legend button')].map(b => b.textContent)"
    )
    counts = full.label_column().value_counts()
    assert sorted(names) == sorted(f"{name} {n}" for name, n in counts[counts > 0].items())
    first = "document.querySelector('#cells-legend button')"
    opened.click(first)
    assert opened.evaluate(f"{first}.ariaPressed") == "false"
    assert inked(opened) < before
    opened.click(first)
    assert inked(opened) == before


def test_colouring_by_a_number_shows_a_scale(opened):
    opened.evaluate("""(() => {
      const choice = document.getElementById("cells-color");
      choice.value = [...choice.options].find((option) => option.text === "confidence").value;
      choice.dispatchEvent(new Event("change"));
    })()""")
    assert opened.evaluate("document.querySelector('#cells-legend').textContent") == "01"
    assert opened.evaluate("document.querySelectorAll('#cells-legend .ramp').length") == 1


def test_arrow_keys_move_between_cells(opened, full):
    opened.evaluate(f"{CANVAS}.focus()")
    opened.press("ArrowRight")
    said = opened.evaluate("document.getElementById('cells-status').textContent")
    name, label = said.split("; ")[:2]
    assert label == f"assigned label: {full.label_column()[name]}"
    assert opened.evaluate("document.getElementById('cells-tip').hidden") is False
    opened.press("ArrowRight")
    assert opened.evaluate("document.getElementById('cells-status').textContent") != said


def test_scatter_plot_fits_a_narrow_page(opened):
    opened.narrow()
    assert opened.evaluate(f"{CANVAS}.clientWidth <= window.innerWidth")
    assert inked(opened) > 200


def test_printed_page_fits_the_paper(opened):
    opened.narrow(800)
    opened.print_media()
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert opened.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"

"""Everything public has an example that runs, and those on the documentation's pages hold too.

Examples in docstrings are run by pytest itself (``--doctest-modules``).
"""

import doctest
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

import hdeepinsight as hdi

DOCS = Path(__file__).parents[1] / "docs"
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def examples(page: Path) -> str:
    """Join a page's code blocks that are interactive sessions."""
    return "\n".join(block for block in CODE.findall(page.read_text()) if ">>>" in block)


PAGES = [page for page in sorted(DOCS.glob("[!_]*/*.md")) if examples(page)]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(DOCS)) for page in PAGES])
def test_examples_of_a_page(page):
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(verbose=False)
    report = []
    test = parser.get_doctest(examples(page), {"hdi": hdi}, page.name, str(page), 0)
    result = runner.run(test, out=report.append)
    assert result.attempted > 0
    assert result.failed == 0, "".join(report)


ROOMS = (
    "annotation",
    "data",
    "datasets",
    "explanation",
    "graph",
    "hub",
    "image",
    "metrics",
    "models",
    "nn",
    "pl",
    "pp",
    "report",
    "taxonomy",
    "tl",
)
#: Public names whose docstring needs no example that runs, and why.
EXCUSED: dict[str, str] = {}


def members(module):
    """Public classes and functions of a module by name, without exceptions and warnings."""
    found = {name: getattr(module, name) for name in module.__all__}
    return {
        f"{module.__name__}.{name}": each
        for name, each in found.items()
        if inspect.isfunction(each)
        or (inspect.isclass(each) and not issubclass(each, BaseException))
    }


PUBLIC = members(hdi) | {
    name: each
    for room in ROOMS
    for name, each in members(import_module(f"hdeepinsight.{room}")).items()
}


def has_running_example(each) -> bool:
    """Whether one example at least is run."""
    parsed = doctest.DocTestParser().get_examples(inspect.getdoc(each) or "")
    return any(not example.options.get(doctest.SKIP) for example in parsed)


def test_every_room_is_looked_at():
    package = Path(hdi.__file__).parent
    public = {path.parent.name for path in package.glob("[!_]*/__init__.py")} | {
        path.stem for path in package.glob("[!_]*.py")
    }
    assert public - {"cli"} == set(ROOMS)


@pytest.mark.parametrize("name", sorted(PUBLIC.keys() - EXCUSED.keys()))
def test_everything_public_has_an_example_that_runs(name):
    assert has_running_example(PUBLIC[name]), (
        f"{name} has no example that runs. Valid are lines with >>> of which not all are skipped. "
        "Write one, or put the name into EXCUSED with the reason."
    )


def test_everything_public_stands_in_the_api():
    page = (DOCS / "api" / "index.md").read_text()
    listed = set(re.findall(r"^   ([\w.]+)$", page, re.MULTILINE))
    assert [name for name in sorted(PUBLIC) if name.rsplit(".", 1)[-1] not in listed] == []


def test_only_what_needs_it_is_excused():
    assert [
        name for name in EXCUSED if name not in PUBLIC or has_running_example(PUBLIC[name])
    ] == []


def methods(each):
    """Public methods and properties of a class that are ours."""
    for name, member in inspect.getmembers_static(each):
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        if not inspect.isfunction(function) or name.startswith("_"):
            continue
        if function.__module__.startswith("hdeepinsight"):
            yield f"{each.__name__}.{name}", inspect.getdoc(function) or ""


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_docstrings_are_there_and_without_placeholders(name):
    each = PUBLIC[name]
    documented = {name: inspect.getdoc(each) or ""}
    if inspect.isclass(each):
        documented |= methods(each)
    assert [at for at, text in documented.items() if not text] == []
    left = re.compile(r"%\(\w+\)s|\bTODO\b|\bFIXME\b|\bTBD\b|\bXXX\b|\.\. (?:todo|include)::")
    assert [at for at, text in documented.items() if left.search(text)] == []

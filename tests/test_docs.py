"""Everything public has an example that runs, and those on the documentation's pages hold too.

Examples in docstrings are run by pytest itself (``--doctest-modules``).
"""

import doctest
import inspect
import re
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import pytest

import hdeepinsight as hdi

DOCS = Path(__file__).parents[1] / "docs"
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def examples(page: Path) -> str:
    """Join a page's code blocks that are interactive sessions."""
    return "\n".join(block for block in CODE.findall(page.read_text()) if ">>>" in block)


PAGES = [page for page in sorted(DOCS.glob("[!_]*/*.md")) if examples(page)]


def test_examples_of_a_page():
    for page in PAGES:
        parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(verbose=False)
        report = []
        test = parser.get_doctest(examples(page), {"hdi": hdi}, page.name, str(page), 0)
        result = runner.run(test, out=report.append)
        assert result.attempted > 0
        assert result.failed == 0, "".join(report)


PACKAGE = Path(hdi.__file__).parent
ROOMS = sorted(
    {path.parent.name for path in PACKAGE.glob("[!_]*/__init__.py")} - {"cli"}
    | {path.stem for path in PACKAGE.glob("[!_]*.py")}
)


def members(module):
    """Public classes and functions of a module by name, without exceptions and warnings."""
    listed = getattr(module, "__all__", [name for name in vars(module) if name[0] != "_"])
    found = {name: getattr(module, name) for name in listed}
    return {
        f"{module.__name__}.{name}": each
        for name, each in found.items()
        if inspect.isfunction(each)
        or (inspect.isclass(each) and not issubclass(each, BaseException))
    }


@pytest.fixture(scope="module")
def public():
    """Every public class and function, by its full name."""
    rooms = [import_module(f"hdeepinsight.{room}") for room in ROOMS]
    return {name: each for module in (hdi, *rooms) for name, each in members(module).items()}


def has_running_example(each) -> bool:
    """Whether one example at least is run."""
    parsed = doctest.DocTestParser().get_examples(inspect.getdoc(each) or "")
    return any(not example.options.get(doctest.SKIP) for example in parsed)


def test_everything_public_has_an_example_that_runs(public):
    assert [name for name, each in public.items() if not has_running_example(each)] == []


def test_everything_public_stands_in_the_api(public):
    page = (DOCS / "api" / "index.md").read_text()
    listed = set(re.findall(r"^   ([\w.]+)$", page, re.MULTILINE))
    assert [name for name in sorted(public) if name.rsplit(".", 1)[-1] not in listed] == []


def test_everything_in_the_api_exists():
    page = (DOCS / "api" / "index.md").read_text()
    sections = re.split(r"currentmodule:: (\S+)", page)
    for module, text in zip(sections[1::2], sections[2::2], strict=True):
        for name in re.findall(r"^   ([\w.]+)$", text, re.MULTILINE):
            attrgetter(name)(import_module(module))


def methods(each):
    """Public methods and properties of a class that are ours."""
    for name, member in inspect.getmembers_static(each):
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        if not inspect.isfunction(function) or name.startswith("_"):
            continue
        if function.__module__.startswith("hdeepinsight"):
            yield f"{each.__name__}.{name}", inspect.getdoc(function) or ""


def test_docstrings_are_there_and_without_placeholders(public):
    documented = {name: inspect.getdoc(each) or "" for name, each in public.items()}
    for each in public.values():
        documented |= dict(methods(each)) if inspect.isclass(each) else {}
    assert [name for name, text in documented.items() if not text] == []
    left = re.compile(r"%\(\w+\)s|\bTODO\b|\bFIXME\b|\bTBD\b|\bXXX\b|\.\. (?:todo|include)::")
    assert [name for name, text in documented.items() if left.search(text)] == []

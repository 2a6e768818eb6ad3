"""What holds for the package as a whole."""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import hdeepinsight as hdi

PACKAGE = Path(hdi.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
every_source = pytest.mark.parametrize(
    "source", SOURCES, ids=[str(source.relative_to(PACKAGE)) for source in SOURCES]
)

#: What a room never imports: the lower ones know neither AnnData nor scvi, and none knows a model.
FORBIDDEN = {
    **dict.fromkeys(("taxonomy", "image", "nn", "graph"), ("anndata", "mudata", "scanpy", "scvi")),
    "data": (),
    "annotation": (),
    "report": (),
}
#: Slow to import and needed by few calls, hence imported inside the function that needs them.
HEAVY = {"jinja2", "matplotlib", "networkx", "pronto", "pymde", "shap", "umap"}


def imports(nodes: Iterable[ast.AST]) -> set[str]:
    """Name the modules that these statements import."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return found


def running_statements(source: Path) -> Iterator[ast.AST]:
    """Walk a file without the imports that only type checkers see."""
    pending: list[ast.AST] = [ast.parse(source.read_text())]
    while pending:
        node = pending.pop()
        yield node
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            pending += ast.iter_child_nodes(node)


def test_version_is_that_of_the_distribution():
    assert hdi.__version__ == version("hdeepinsight")


def test_public_names_exist_once():
    assert [name for name in hdi.__all__ if not hasattr(hdi, name)] == []
    assert len(set(hdi.__all__)) == len(hdi.__all__)


def test_typed_marker_is_shipped():
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.parametrize("room", FORBIDDEN)
def test_lower_rooms_never_import_higher_ones(room):
    forbidden = (*FORBIDDEN[room], "hdeepinsight.models")
    for source in (PACKAGE / room).rglob("*.py"):
        names = imports(running_statements(source))
        assert [name for name in names if name.startswith(forbidden)] == [], source


@every_source
def test_heavy_optional_imports_wait_for_the_call_that_needs_them(source):
    roots = {name.split(".")[0] for name in imports(ast.parse(source.read_text()).body)}
    assert roots & HEAVY == set()


@every_source
def test_files_stay_readable_in_one_sitting(source):
    assert len(source.read_text().splitlines()) <= 400


@every_source
def test_sources_never_print_or_catch_everything(source):
    for node in ast.walk(ast.parse(source.read_text())):
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), node.lineno
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        assert not (is_call and node.func.id == "print"), node.lineno


def test_import_is_silent_and_leaves_global_state_alone():
    code = (
        "import logging, random\n"
        "import numpy as np\n"
        "state, np_state = random.getstate(), np.random.get_state()[1].tolist()\n"
        "import hdeepinsight\n"
        "assert logging.getLogger('hdeepinsight').handlers == [], 'a handler was added'\n"
        "assert random.getstate() == state, 'the random state was touched'\n"
        "assert np.random.get_state()[1].tolist() == np_state, 'the NumPy state was touched'\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_installed_stack_satisfies_our_bounds():
    for line in requires("hdeepinsight"):
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        assert requirement.specifier.contains(version(requirement.name), prereleases=True), line

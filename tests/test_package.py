"""Properties of the package as a whole."""

import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import hdeepinsight as hdi


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own."""
    command = [sys.executable, "-W", "ignore", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_version_is_that_of_the_distribution():
    assert hdi.__version__ == version("hdeepinsight")


def test_public_names_exist_once():
    assert [name for name in hdi.__all__ if not hasattr(hdi, name)] == []
    assert len(set(hdi.__all__)) == len(hdi.__all__)


def test_types_are_shipped():
    package = Path(hdi.__file__).parent
    assert (package / "py.typed").is_file()
    assert (package / "__init__.pyi").is_file()


def test_import_is_silent_light_and_leaves_global_state_alone():
    code = (
        "import logging, random, sys\n"
        "import numpy as np\n"
        "state, np_state = random.getstate(), np.random.get_state()[1].tolist()\n"
        "import hdeepinsight\n"
        "assert not {'anndata', 'pandas', 'scvi', 'torch'} & set(sys.modules), 'it is heavy'\n"
        "assert logging.getLogger('hdeepinsight').handlers == [], 'a handler was added'\n"
        "assert random.getstate() == state, 'the random state was touched'\n"
        "assert np.random.get_state()[1].tolist() == np_state, 'the NumPy state was touched'\n"
    )
    done = run("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_runs_without_docstrings():
    """With -OO anndata and scvi-tools themselves cannot be imported; the ground floor can."""
    done = run("-OO", "-c", "import hdeepinsight as hdi; print(hdi.Taxonomy.immune().n_leaves)")
    assert (done.returncode, done.stdout) == (0, "50\n"), done.stderr


@pytest.mark.parametrize("options", [[], ["-OO"]], ids=["plain", "without_docstrings"])
def test_the_command_line_is_a_module_too(options):
    """The cells are read by anndata, which cannot be imported with -OO."""
    done = run(*options, "-m", "hdeepinsight", "annotate", "missing.h5ad", "--out", "labels.csv")
    assert done.returncode == 1, done.stderr
    assert "missing.h5ad" in done.stderr
    assert "Traceback" not in done.stderr


def test_installed_stack_satisfies_our_bounds():
    for line in requires("hdeepinsight"):
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        assert requirement.specifier.contains(version(requirement.name), prereleases=True), line

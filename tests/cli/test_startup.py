"""Help, version, and imports at startup."""

import inspect
import re
import subprocess
import sys

import pytest

import hdeepinsight as hdi
from hdeepinsight import __version__
from hdeepinsight.cli._options import ANNOTATING, OPTIONS

SLOW = ("torch", "scvi", "anndata", "scanpy", "pandas", "sklearn", "matplotlib")
TRAINING = ("scvi", "lightning", "torchmetrics", "torchvision", "pyro", "scanpy", "sklearn")


def test_help_needs_no_slow_import():
    for arguments in [["--help"], ["train", "--help"], ["--version"]]:
        code = (
            "import sys\n"
            "from hdeepinsight.cli import app\n"
            f"try: app({arguments!r})\n"
            "except SystemExit as stop: assert not stop.code, stop.code\n"
            f"slow = [name for name in {SLOW!r} if name in sys.modules]\n"
            "assert not slow, slow\n"
        )
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        wanted = __version__ if arguments == ["--version"] else "Usage"
        assert wanted in done.stdout


def test_annotating_imports_nothing_that_trains(tmp_path_factory):
    for call in [
        "app(['annotate', 'query.h5ad', '--fast', '--out', 'out.h5ad'])",
        "app(['annotate', 'query.h5ad', '--stream', '--out', 'out.csv'])",
        "hdi.annotate('query.h5ad', refine='off')",
    ]:
        tmp_path = tmp_path_factory.mktemp("case")
        hdi.datasets.demo().query[:150].copy().write_h5ad(tmp_path / "query.h5ad")
        code = (
            "import sys, hdeepinsight as hdi\n"
            "from hdeepinsight.cli import app\n"
            f"try: {call}\n"
            "except SystemExit as stop: assert not stop.code, stop.code\n"
            f"found = [name for name in {TRAINING!r} if name in sys.modules]\n"
            "assert not found, found\n"
        )
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_own_modules_import_in_under_1_5_seconds():
    code = "import hdeepinsight as hdi; hdi.hub, hdi.annotate, hdi.SCHDeepInsight, hdi.report"
    command = [sys.executable, "-X", "importtime", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    own = re.findall(r"^import time: +(\d+) \| +\d+ \| +hdeepinsight", done.stderr, re.MULTILINE)
    assert len(own) > 90
    assert sum(map(int, own)) < 1.5e6  # microseconds; what other packages take is not ours


def test_version(hdeepinsight):
    done = hdeepinsight("--version")
    assert (done.exit_code, done.stdout) == (0, f"hdeepinsight {__version__}\n")


def test_every_command_has_help_and_debug(hdeepinsight):
    for command in [
        "train",
        "annotate",
        "explain",
        "evaluate",
        "info",
        "models",
        "pull",
        "publish",
        "convert",
    ]:
        done = hdeepinsight(command, "--help")
        assert done.exit_code == 0
        assert "--debug" in done.stdout


def test_an_unknown_command_is_a_usage_error(hdeepinsight):
    done = hdeepinsight("annotat")
    assert done.exit_code == 2
    assert "annotat" in done.stderr


def test_options_have_names_and_defaults_of_hdi_annotate():
    python = inspect.signature(hdi.annotate).parameters
    assert set(ANNOTATING) - set(python) == {"strict", "fast"}
    assert set(python) - set(ANNOTATING) == {"query", "progress", "client", "unexpected"}
    for name in set(ANNOTATING) & set(python):
        given, default = OPTIONS[name].default, python[name].default
        parse = OPTIONS[name].annotation.__metadata__[0].parser
        given = parse(given) if parse and isinstance(given, str) else given
        assert given == default or not (given or default), name

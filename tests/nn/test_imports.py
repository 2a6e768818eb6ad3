"""These rooms know torch, and neither AnnData nor scvi-tools."""

import subprocess
import sys

import pytest

FORBIDDEN = ("anndata", "lightning", "mudata", "scanpy", "scvi", "torchvision")


@pytest.mark.parametrize("room", ["adaptation", "nn"])
def test_the_room_loads_neither_anndata_nor_scvi(room):
    code = (
        "import sys\n"
        f"import hdeepinsight.{room}\n"
        f"print(sorted(set({FORBIDDEN!r}).intersection(sys.modules)))\n"
        "print('torch' in sys.modules)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "True"]

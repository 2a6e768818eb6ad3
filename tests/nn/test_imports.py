"""The room knows torch, and neither AnnData nor scvi-tools."""

import subprocess
import sys

FORBIDDEN = ("anndata", "lightning", "mudata", "scanpy", "scvi", "torchvision")


def test_the_room_loads_neither_anndata_nor_scvi():
    code = (
        "import sys\n"
        "import hdeepinsight.nn\n"
        f"print(sorted(set({FORBIDDEN!r}).intersection(sys.modules)))\n"
        "print('torch' in sys.modules)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "True"]

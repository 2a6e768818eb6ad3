"""Fuzz one target for as long as you like, led by coverage.

Run ``pip install atheris`` (Linux, CPython up to 3.13) and, from the root of the repository,

    python tests/fuzz/run_atheris.py taxonomy_obo -max_total_time=600 -seed=1

It starts from ``tests/fuzz/corpus/<target>`` and keeps what reaches new code in a folder of its
own, ``build/fuzz/<target>``. The first input that breaks a promise stops it; the input lies then
in ``build/fuzz/<target>-...``. Put it into the corpus, where all tests try it, and mend.
Options after the target are those of libFuzzer.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Give the target to the fuzzer, which does not return."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import atheris

    with atheris.instrument_imports(include=["hdeepinsight", "pronto"]):
        from surfaces import TARGETS
    name, *options = sys.argv[1:]
    found = Path("build/fuzz") / name
    found.mkdir(parents=True, exist_ok=True)
    seeds = HERE / "corpus" / name
    for seed in sorted(seeds.iterdir()):  # what loads a module on first use does it here
        TARGETS[name](seed.read_bytes())
    defaults = ["-timeout=60", "-rss_limit_mb=6000", "-len_control=0", f"-artifact_prefix={found}-"]
    atheris.Setup([sys.argv[0], *defaults, *options, str(found), str(seeds)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()

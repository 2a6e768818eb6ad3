"""Check that the wheel and the sdist in a folder hold what they should, and nothing else."""

import sys
import tarfile
import zipfile
from pathlib import Path

SOURCE = Path("src/hdeepinsight")
BUNDLED = "hdeepinsight/models/bundled/"
MOST_BYTES = {"bundled models": 10_000_000, "sdist": 15_000_000}
SDIST_EXTRAS = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "tests/conftest.py")


def package_files() -> set[str]:
    """Name every file of the package, as the wheel should hold it."""
    return {
        str(path.relative_to(SOURCE.parent))
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def check_wheel(wheel: Path) -> list[str]:
    """Compare the wheel with the source tree; give the problems found."""
    with zipfile.ZipFile(wheel) as archive:
        sizes = {entry.filename: entry.compress_size for entry in archive.infolist()}
    held = set(sizes)
    metadata = {name for name in held if ".dist-info/" in name}
    problems = [f"{wheel.name} lacks {name}" for name in sorted(package_files() - held)]
    problems += [
        f"{wheel.name} should not hold {name}" for name in sorted(held - metadata - package_files())
    ]
    if not any(name.endswith("licenses/LICENSE") for name in metadata):
        problems.append(f"{wheel.name} lacks the licence")
    models = sum(size for name, size in sizes.items() if name.startswith(BUNDLED))
    if not 0 < models <= MOST_BYTES["bundled models"]:
        problems.append(f"{wheel.name} holds {models:,} bytes of bundled models, not up to 10 MB")
    return problems


def check_sdist(sdist: Path) -> list[str]:
    """Look for what building and testing from the sdist needs; give the problems found."""
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    needed = {f"src/{name}" for name in package_files()} | set(SDIST_EXTRAS)
    problems = [f"{sdist.name} lacks {name}" for name in sorted(needed - held)]
    large = sdist.stat().st_size > MOST_BYTES["sdist"]
    return problems + [f"{sdist.name} is larger than 15 MB: data crept in"] * large


def main(folder: str) -> int:
    """Check the one wheel and the one sdist of a folder; give the exit status."""
    (wheel,) = Path(folder).glob("*.whl")
    (sdist,) = Path(folder).glob("*.tar.gz")
    problems = check_wheel(wheel) + check_sdist(sdist)
    for problem in problems:
        print(problem, file=sys.stderr)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

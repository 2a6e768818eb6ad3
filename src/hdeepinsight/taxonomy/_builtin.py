"""Taxonomies that come with the package."""

from importlib.resources import files


def builtin_text(name: str) -> str:
    """JSON text of a bundled taxonomy."""
    return files("hdeepinsight.taxonomy").joinpath(f"{name}.json").read_text(encoding="utf-8")

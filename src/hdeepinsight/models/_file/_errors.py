"""The one error of everything that reads a model from disk."""

from __future__ import annotations

__all__ = ["ModelFileError", "damaged", "first_sentence"]


class ModelFileError(ValueError):
    """A file that is not a model of ours, or is damaged."""


def damaged(name: object, found: str) -> ModelFileError:
    """Make the error of a file that was a model once; what was found is a whole sentence."""
    return ModelFileError(
        f"{name} is damaged or incomplete: {found} Copy or download the model again."
    )


def first_sentence(error: BaseException) -> str:
    """Return what another package says, without its advice."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0].rstrip(".")[:300] + "."

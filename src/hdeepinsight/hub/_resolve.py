"""From what a user calls a model to a folder that holds it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hdeepinsight.hub._address import Address
from hdeepinsight.hub._bundled import bundled_folder, bundled_folders
from hdeepinsight.hub._errors import ChecksumError, HubError
from hdeepinsight.hub._pull import download

if TYPE_CHECKING:
    from hdeepinsight.models import SCHDeepInsight

__all__ = ["load_model", "resolve_model"]


def resolve_model(model: str | os.PathLike[str]) -> Path:
    """Find the folder of a model, and fetch it first where it is somewhere else.

    Parameters
    ----------
    model
        A folder, or else what :func:`download` takes: ``"pbmc"`` (the bundled model),
        ``"owner/name"``, ``"s3://bucket/path"`` or ``"file:///folder"``. A folder that is there is
        never looked for elsewhere, and a path that starts with ``/``, ``.`` or ``~``, like any
        `Path`, is a folder in any case.

    Returns
    -------
    A folder for :meth:`~hdeepinsight.models.SCHDeepInsight.load`; of what was fetched, the
    checksums are verified.

    Raises
    ------
    ValueError
        If the text is neither a folder nor an address.
    HubError
        If the model cannot be fetched.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> hdi.hub.resolve_model("./models/pbmc").parts
    ('models', 'pbmc')
    """
    text = os.fspath(model)
    folder = Path(text).expanduser()
    # Empty text, as of a shell variable that is not set, would mean the working directory.
    if isinstance(model, os.PathLike) or (text and folder.is_dir()) or _is_path(text):
        return folder
    if bundled_folder(text) is not None:
        return download(text).folder
    try:
        address = Address.parse(text)
    except ValueError:
        msg = (
            f"{text!r} is neither a folder nor the name or address of a model. Valid are the "
            f"folder of a saved model, {', '.join(map(repr, bundled_folders()))}, 'owner/name' on "
            "the hub, 's3://bucket/path' and 'file:///folder'. Check the path; `hdeepinsight "
            "models` lists the models that have a name."
        )
        raise ValueError(msg) from None
    try:
        return download(text).folder
    except ChecksumError:
        raise
    except HubError as error:
        if address.kind != "hub":
            raise
        # A path that was mistyped looks like the name of a repository.
        raise type(error)(f"There is no folder {text!r}, so the hub was asked. {error}") from None


def load_model(model: str | os.PathLike[str]) -> SCHDeepInsight:
    """Load the model that `resolve_model` finds, without data."""
    from hdeepinsight.models import SCHDeepInsight

    return SCHDeepInsight.load(resolve_model(model), adata=False)


def _is_path(text: str) -> bool:
    return text.startswith((".", "~")) or Path(text).is_absolute()

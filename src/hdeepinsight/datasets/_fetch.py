"""Bring a public file to this machine once, through pooch, and check it every time."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from hdeepinsight._errors import need_extra
from hdeepinsight.datasets._errors import DatasetError
from hdeepinsight.datasets._registry import PublicFile, named
from hdeepinsight.hub import cache_folder

__all__ = ["fetch"]

#: Further attempts after a transfer that broke off.
RETRIES: Final = 2
logger = logging.getLogger(__name__)


def fetch(
    name: str, *, sha256: str | None = None, folder: str | os.PathLike[str] | None = None
) -> Path:
    """Get a public file, from this machine where it was fetched before.

    Parameters
    ----------
    name
        Name of a file in :func:`list_files`, or any ``https://...``, ``http://...`` or
        ``doi:.../file`` (Figshare, Zenodo, Dataverse).
    sha256
        SHA-256 that the file has to have; it wins over the known one.
    folder
        Where files are kept; by default ``HDEEPINSIGHT_CACHE``, or a folder in the user's cache.

    Returns
    -------
    Path of the file, whose checksum has been verified.

    Raises
    ------
    DatasetError
        If it cannot be reached, or is not what it should be.
    ImportError
        If pooch is not installed.
    ValueError
        If there is no file of that name.

    Notes
    -----
    A file whose checksum nobody stated is taken as it is the first time; its SHA-256 is then
    written beside it, and a later change of the file is an error. Give ``sha256`` to pin it.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> hdi.datasets.fetch("pbmc3k")  # doctest: +SKIP
    >>> hdi.datasets.fetch("pbmc3")
    Traceback (most recent call last):
        ...
    ValueError: Found no public file 'pbmc3'. ... Did you mean 'pbmc3k'?
    """
    file = named(name)
    place = _place(file, folder)
    record = place.with_name(f"{place.name}.sha256")
    remembered = record.read_text(encoding="utf-8").strip() if record.is_file() else None
    known = (sha256 or file.sha256 or remembered or "").removeprefix("sha256:").lower() or None
    pooch = need_extra("pooch", "datasets", "hdi.datasets.fetch")
    if known is None or not _is_right(pooch, place, known):
        _download(pooch, file, place, known)
    if known is None:
        found = pooch.file_hash(str(place))
        record.write_text(f"{found}\n", encoding="utf-8")
        logger.warning(
            "No checksum of %s was known. It has the SHA-256 %s, which is expected from now on; "
            "pass it as sha256 to pin it elsewhere.",
            file.name,
            found,
        )
    return place


def _place(file: PublicFile, folder: str | os.PathLike[str] | None) -> Path:
    root = cache_folder() / "datasets" if folder is None else Path(folder).expanduser()
    base = file.url.rsplit("/", 1)[-1].partition("?")[0] or "file"
    # Files of one name from several places have folders of their own.
    own = file.name if file.name != file.url else quote(file.url.rpartition("/")[0], safe="")
    return root / own / base


def _is_right(pooch: Any, place: Path, known: str) -> bool:
    return place.is_file() and pooch.file_hash(str(place)) == known


def _download(pooch: Any, file: PublicFile, place: Path, known: str | None) -> None:
    """Fetch to a temporary name; the file appears only when its checksum is right."""
    from requests import RequestException

    keeper = pooch.create(
        path=place.parent,
        base_url=f"{file.url.rpartition('/')[0]}/",
        registry={place.name: known},
        urls={place.name: file.url},
        retry_if_failed=RETRIES,
    )
    try:
        if known is None and file.url.startswith("doi:"):
            keeper.load_registry_from_doi()  # the archive states checksums of its own
        keeper.fetch(place.name)
    except RequestException as error:
        raise DatasetError(_unreachable(file, place, error)) from None
    except ValueError as error:
        raise DatasetError(_unexpected(file, error)) from None


def _unreachable(file: PublicFile, place: Path, error: Any) -> str:
    status = getattr(error.response, "status_code", None)
    said = f"answered with status {status}" if status else "could not be reached or broke off"
    host = urlsplit(file.url).netloc or "the archive"
    return (
        f"{file.name} could not be fetched: {host} {said} ({type(error).__name__}). Valid is a "
        f"connection to {file.url}. Connect and try again, or put the file at {place} yourself."
    )


def _unexpected(file: PublicFile, error: Exception) -> str:
    return (
        f"{file.name} from {file.url} is not what was expected ({' '.join(str(error).split())}). "
        "Valid is the file with the known checksum. Try again; if it stays so, the file was "
        "changed: look at its page, and pass sha256=... of the file that you trust."
    )

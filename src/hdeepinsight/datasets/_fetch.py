"""Public files by name: what is known of each, and how it comes to this machine once, checked."""

from __future__ import annotations

import difflib
import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import pandas as pd

from hdeepinsight._errors import need_extra
from hdeepinsight._io import sha256 as sha256_of
from hdeepinsight.hub import cache_folder

#: Further attempts after a transfer that broke off.
RETRIES: Final = 2
logger = logging.getLogger(__name__)


class DatasetError(OSError):
    """Public data could not be fetched, or is not what it should be; the text says what to do."""


@dataclass(frozen=True, kw_only=True)
class PublicFile:
    """A file on the internet.

    Parameters
    ----------
    name
        What :func:`fetch` calls it.
    url
        Where it is: ``https://...``, or ``doi:.../file`` in an archive (Figshare, Zenodo).
    sha256
        Checksum of its bytes. ``None`` where none is known beforehand: an archive states one, any
        other place is remembered at the first download.
    description
        What it holds.
    license
        Licence under which its owner shares it.
    citation
        What to cite.

    Examples
    --------
    >>> from hdeepinsight.datasets import PublicFile
    >>> PublicFile(name="cells", url="https://example.org/cells.h5ad").sha256 is None
    True
    """

    name: str
    url: str
    sha256: str | None = None
    description: str = ""
    license: str = ""
    citation: str = ""


#: What is known of each; checksums were stated by several projects that have nothing in common.
FILES: Final = {
    name: PublicFile(name=name, **known)
    for name, known in json.loads(Path(__file__).with_name("files.json").read_text("utf-8")).items()
}


def list_files() -> pd.DataFrame:
    """List the public files that have a name here.

    Returns
    -------
    One row per file, by its name: ``url``, ``sha256``, ``description``, ``license``, ``citation``.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> hdi.datasets.list_files().loc["pbmc3k", "license"]
    'CC BY 4.0'
    """
    return pd.DataFrame([asdict(file) for file in FILES.values()]).set_index("name")


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
    ValueError: There is no public file 'pbmc3'. ... Did you mean 'pbmc3k'?
    """
    if name in FILES:
        file = FILES[name]
    elif name.startswith(("https://", "http://", "doi:")) and not name.endswith("/"):
        file = PublicFile(name=name, url=name)
    else:
        near = difflib.get_close_matches(name, FILES, n=1)
        meant = f"Did you mean {near[0]!r}?" if near else "Choose one of these."
        known = f"{', '.join(FILES)}, and any address that starts with https:// or http://, or "
        raise ValueError(
            f"There is no public file {name!r}. There are {known}doi:.../file. {meant}"
        )
    root = cache_folder() / "datasets" if folder is None else Path(folder).expanduser()
    base = file.url.rsplit("/", 1)[-1].partition("?")[0] or "file"
    # Files of one name from several places have folders of their own.
    own = file.name if file.name != file.url else quote(file.url.rpartition("/")[0], safe="")
    place = root / own / base
    record = place.with_name(f"{place.name}.sha256")
    remembered = record.read_text(encoding="utf-8").strip() if record.is_file() else None
    digest = (sha256 or file.sha256 or remembered or "").removeprefix("sha256:").lower() or None
    pooch = need_extra("pooch", "datasets", "hdi.datasets.fetch")
    if digest is None or not place.is_file() or sha256_of(place) != digest:
        _download(pooch, file, place, digest)
    if digest is None:
        found = sha256_of(place)
        record.write_text(f"{found}\n", encoding="utf-8")
        said = (
            f"It has the SHA-256 {found}, which is expected from now on; pass it as sha256 to pin"
        )
        logger.warning("No checksum of %s was known. %s it elsewhere.", file.name, said)
    return place


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
        status = getattr(error.response, "status_code", None)
        said = f"answered with status {status}" if status else "could not be reached or broke off"
        said = f"{urlsplit(file.url).netloc or 'the archive'} {said} ({type(error).__name__})"
        how = f"Connect and try again, or put the file at {place} yourself."
        found = f"{file.name} could not be fetched: {said}. It needs a connection to {file.url}"
        raise DatasetError(f"{found}. {how}") from None
    except ValueError as error:
        raise DatasetError(
            f"{file.name} from {file.url} is not what was expected "
            f"({' '.join(str(error).split())}). Try again; if it stays so, the file was changed: "
            "look at its page, and pass sha256=... of the file that you trust."
        ) from None

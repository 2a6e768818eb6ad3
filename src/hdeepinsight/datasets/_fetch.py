"""Download public files by name, with a local cache and verified checksums."""

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

#: Number of retries after a failed transfer.
RETRIES: Final = 2
logger = logging.getLogger(__name__)


class DatasetError(OSError):
    """Error in downloading or verifying public data, with advice."""


@dataclass(frozen=True, kw_only=True)
class PublicFile:
    """Description of a public file.

    Parameters
    ----------
    name
        Name for :func:`fetch`.
    url
        Location: ``https://...``, or ``doi:.../file`` in an archive (Figshare, Zenodo).
    sha256
        SHA-256 checksum. If ``None``, the checksum of the archive is used, or that of the first
        download is recorded.
    description
        Content of the file.
    license
        Licence of the file.
    citation
        Reference to cite.

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


#: Public files by name. Their checksums agree between several independent projects.
FILES: Final = {
    name: PublicFile(name=name, **known)
    for name, known in json.loads(Path(__file__).with_name("files.json").read_text("utf-8")).items()
}


def list_files() -> pd.DataFrame:
    """List the public files that :func:`fetch` knows by name.

    Returns
    -------
    pandas.DataFrame
        One row per name: ``url``, ``sha256``, ``description``, ``license``, ``citation``.

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
    """Download a public file, or return it from the cache.

    Parameters
    ----------
    name
        Name of a file in :func:`list_files`, or any ``https://...``, ``http://...`` or
        ``doi:.../file`` (Figshare, Zenodo, Dataverse).
    sha256
        Required SHA-256 checksum; by default the known one.
    folder
        Folder of the cache; by default ``HDEEPINSIGHT_CACHE``, or a folder in the user's cache.

    Returns
    -------
    pathlib.Path
        Path of the file with a verified checksum.

    Raises
    ------
    DatasetError
        If the file cannot be downloaded, or has a different checksum.
    ImportError
        If pooch is not installed.
    ValueError
        If there is no file with this name.

    Notes
    -----
    Without a known checksum, the first download is accepted. Its SHA-256 is stored next to the
    file, and a later change of the file is an error. Pass ``sha256`` to pin it.

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
        hint = f"Did you mean {near[0]!r}?" if near else "Choose one of these."
        known = f"{', '.join(FILES)}, and any URL with https://, http:// or doi:.../file"
        raise ValueError(f"There is no public file {name!r}. There are {known}. {hint}")
    root = cache_folder() / "datasets" if folder is None else Path(folder).expanduser()
    base = file.url.rsplit("/", 1)[-1].partition("?")[0] or "file"
    # Files with the same name from different locations are stored in separate folders.
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
        text = "No checksum of %s was known. Recorded the SHA-256 %s for later downloads; pass it "
        logger.warning(text + "as sha256 to pin the file elsewhere.", file.name, found)
    return place


def _download(pooch: Any, file: PublicFile, place: Path, known: str | None) -> None:
    """Download under a temporary name, and rename the file once its checksum is verified."""
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
            keeper.load_registry_from_doi()  # checksums of the archive
        keeper.fetch(place.name)
    except RequestException as error:
        status = getattr(error.response, "status_code", None)
        host = urlsplit(file.url).netloc or "the archive"
        problem = f"returned status {status}" if status else "could not be reached or disconnected"
        hint = f"Connect and try again, or put the file at {place} yourself."
        raise DatasetError(
            f"{file.name} could not be downloaded from {file.url}: {host} {problem} "
            f"({type(error).__name__}). {hint}"
        ) from None
    except ValueError as error:
        raise DatasetError(
            f"{file.name} from {file.url} is not what was expected "
            f"({' '.join(str(error).split())}). Try again. If the error persists, the file was "
            "changed: check its page, and pass sha256=... of the file that you trust."
        ) from None

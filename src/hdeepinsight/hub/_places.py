"""Where models are fetched from and put: Hugging Face hubs, S3 buckets, folders."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from hdeepinsight._errors import need_extra
from hdeepinsight._io import atomic_write
from hdeepinsight.hub._address import CHECKSUMS_FILE, Address, hub_endpoint, is_offline
from hdeepinsight.hub._checksums import MOST_BYTES_OF_TEXT, check_revision, pinned_digest
from hdeepinsight.hub._errors import HubError, OfflineError, explained, retry

Token = str | bool | None


def resolve_mirror(token: Token) -> tuple[str, Token, Address | None]:
    """Return the hub to ask for models, the token for it, and the folder or bucket to use instead.

    ``HDEEPINSIGHT_MIRROR`` is a folder, ``file://``, ``s3://``, or the address of a server that
    speaks like the hub. It gets no token but one that was given in the call.
    """
    if not (place := os.environ.get("HDEEPINSIGHT_MIRROR", "").strip().rstrip("/")):
        return hub_endpoint(), token, None
    if place.startswith(("http://", "https://")):
        return place, False if token is None else token, None
    return "", False, Address.parse(place)


def hub_api(endpoint: str, token: Token) -> Any:
    """Return the client of a hub."""
    hub = need_extra("huggingface_hub", "hub", "A Hugging Face hub")
    return hub.HfApi(endpoint=endpoint, token=token, library_name="hdeepinsight")


def bucket_files() -> Any:
    """Return the file system of S3, unsigned without credentials: public buckets need none."""
    s3fs = need_extra("s3fs", "hub", "An S3 bucket")
    session = need_extra("botocore.session", "hub", "An S3 bucket").Session()
    return s3fs.S3FileSystem(
        anon=session.get_credentials() is None, skip_instance_cache=True, use_listings_cache=False
    )


class HubPlace:
    """A repository of a Hugging Face hub at one commit. Methods raise `HubError` on failure."""

    _sizes: dict[str, int]

    def __init__(self, address: Address, revision: str | None, endpoint: str, token: Token) -> None:
        self.address, self._api = address, hub_api(endpoint, token)
        self._explained = partial(explained, server=endpoint, token=token)
        named = None if pinned_digest(revision) else revision
        self.revision, self._sizes = retry(lambda: self._ask(named))

    def _ask(self, revision: str | None) -> tuple[str, dict[str, int]]:
        """Return the commit of a revision, and the bytes of its files."""
        with self._explained(f"fetch {self.address}", revision=revision):
            info = self._api.model_info(self.address.place, revision=revision, files_metadata=True)
            sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
            # The commit names a folder here.
            if not isinstance(info.sha, str) or not re.fullmatch("[0-9a-f]{40,64}", info.sha):
                raise ValueError(f"it names the commit {str(info.sha)[:80]!r}")
            if any(type(size) is not int or size < 0 for size in sizes.values()):
                raise ValueError("it lists files of sizes that are none")
        return info.sha, sizes

    def size(self, name: str) -> int | None:
        """Return the bytes of a file; ``None`` if it is not there."""
        return self._sizes.get(name)

    def fetch(self, name: str, folder: Path) -> None:
        """Bring a file into a folder; one that the client completed there before is kept."""
        name_here = f"{name} of {self.address}"
        guard, notes = _guard(name_here, self._sizes[name]), folder / ".cache"

        def download() -> None:
            how = {"revision": self.revision, "local_dir": folder, "cache_dir": notes}
            with self._explained(f"fetch {name_here}"):
                self._api.hf_hub_download(self.address.place, name, **how, tqdm_class=guard)

        retry(download)


def _guard(file: str, size: int) -> Any:
    """Make what the client takes for a progress bar, and what stops a body without an end."""

    class Guard(ExitStack):
        n = 0

        def __init__(self, *_: object, **__: object) -> None:
            super().__init__()

        def update(self, n: float | None = 1) -> None:
            self.n += int(n or 0)
            if self.n > 2 * size + 2**20:  # the client itself compares the sizes in the end
                raise HubError(f"{file} is longer than the {size:,} bytes that were announced.")

        def __getattr__(self, _: str) -> Any:  # what else a bar can be told
            return lambda *_, **__: None

    return Guard


class BucketPlace:
    """A model in an S3 bucket, or in a store that speaks like one (``AWS_ENDPOINT_URL_S3``)."""

    def __init__(self, address: Address, revision: str | None, *_: object) -> None:
        self.address, self._files, self._root = address, bucket_files(), address.place
        inside = revision if revision and not pinned_digest(revision) else ""
        if inside and self.size(f"{inside}/{CHECKSUMS_FILE}") is not None:
            self._root = f"{address.place}/{inside}"
        with explained(f"fetch {CHECKSUMS_FILE} of {address}"):
            path = f"{self._root}/{CHECKSUMS_FILE}"
            listed = self._files.cat_file(path, start=0, end=MOST_BYTES_OF_TEXT + 1)
        self.revision = check_revision(listed, revision, address, self._root.rpartition("/")[2])

    def size(self, name: str) -> int | None:
        """Return the bytes of a file; ``None`` if it is not there."""
        with explained(f"fetch {name} of {self.address}"):
            try:
                return int(self._files.info(f"{self._root}/{name}")["size"])
            except FileNotFoundError:
                return None

    def fetch(self, name: str, folder: Path) -> None:
        """Bring a file into a folder."""
        with explained(f"fetch {name} of {self.address}"):
            self._files.get_file(f"{self._root}/{name}", str(folder / name))


def check_target(address: Address, *, overwrite: bool) -> None:
    """Refuse a place where nothing can be published, as far as that can be seen without asking it.

    Raises
    ------
    HubError
        If there is no connection to be used, or the folder is a file, full or not to be written.
    """
    if address.kind != "folder":
        if is_offline():
            raise OfflineError(f"Could not publish to {address}: HF_HUB_OFFLINE is set. Unset it.")
        return
    target = Path(address.place)
    above = next(place for place in (target, *target.parents) if place.exists())
    # What is replaced is moved away first, which is for the folder that it lies in to allow.
    written = target.parent if above == target else above
    is_ours = (target / CHECKSUMS_FILE).is_file()
    if is_ours and not overwrite:
        raise _exists(target)
    cases = {
        f"{above} is a file": not above.is_dir(),
        f"{written} may not be changed": not os.access(written, os.W_OK | os.X_OK),
        "it holds something that was not published by hdi.hub": (
            above == target and above.is_dir() and any(target.iterdir()) and not is_ours
        ),
    }
    if why := next((text for text, applies in cases.items() if applies), ""):
        raise HubError(f"Nothing can be published at {target}: {why}. Choose another folder.")


def _exists(place: object) -> HubError:
    return HubError(f"A model is published at {place} already. Pass overwrite=True to replace it.")


def put_on_hub(
    folder: Path, address: Address, revision: str | None, token: Token, private: bool, message: str
) -> str:
    """Publish a folder in one commit, so that a reader sees all of it or nothing; return it."""
    api, branch = hub_api(hub_endpoint(), token), {"revision": revision, "commit_message": message}
    with explained(f"publish to {address}", hub_endpoint(), token, revision):
        api.create_repo(address.place, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(address.place, branch=revision, exist_ok=True)
        how = {"repo_id": address.place, "folder_path": folder, **branch}
        commit = api.upload_folder(**how, delete_patterns="*")  # files of an earlier model
    return str(commit.oid)


def put_in_bucket(folder: Path, address: Address, overwrite: bool) -> None:
    """Publish a folder, the list of checksums last: until it is there, nothing is published."""
    files, checksums = bucket_files(), f"{address.place}/{CHECKSUMS_FILE}"
    with explained(f"publish to {address}"):
        if files.exists(checksums):
            if not overwrite:
                raise _exists(address)
            files.rm_file(checksums)
        for path in sorted(folder.iterdir(), key=lambda path: path.name == CHECKSUMS_FILE):
            files.put_file(str(path), f"{address.place}/{path.name}")


def put_in_folder(folder: Path, target: Path) -> None:
    """Publish a folder in one step."""
    with atomic_write(target) as unfinished:
        unfinished.mkdir()  # not a copy of the folder, which only its owner may open
        for path in folder.iterdir():
            shutil.copy2(path, unfinished)

"""Download models from, and upload them to, Hugging Face hubs, S3 buckets and folders."""

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
from hdeepinsight.hub._checksums import MAX_TEXT_BYTES, check_revision, pinned_digest
from hdeepinsight.hub._errors import HubError, OfflineError, explained, retry

Token = str | bool | None


def resolve_mirror(token: Token) -> tuple[str, Token, Address | None]:
    """Return the hub, its token, and a folder or bucket that replaces it.

    ``HDEEPINSIGHT_MIRROR`` is a folder, ``file://``, ``s3://``, or the URL of a server with the API
    of the hub. Only a token that was passed explicitly is sent to it.
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
    """Return the S3 file system, with unsigned requests if there are no credentials."""
    s3fs = need_extra("s3fs", "hub", "An S3 bucket")
    session = need_extra("botocore.session", "hub", "An S3 bucket").Session()
    return s3fs.S3FileSystem(
        anon=session.get_credentials() is None, skip_instance_cache=True, use_listings_cache=False
    )


class HubPlace:
    """Repository of a Hugging Face hub at one commit; methods raise `HubError`."""

    _sizes: dict[str, int]

    def __init__(self, address: Address, revision: str | None, endpoint: str, token: Token) -> None:
        self.address, self._api = address, hub_api(endpoint, token)
        self._explained = partial(explained, server=endpoint, token=token)
        requested = None if pinned_digest(revision) else revision
        self.revision, self._sizes = retry(lambda: self._info(requested))

    def _info(self, revision: str | None) -> tuple[str, dict[str, int]]:
        """Return the commit of a revision, and the sizes of its files."""
        with self._explained(f"download {self.address}", revision=revision):
            info = self._api.model_info(self.address.place, revision=revision, files_metadata=True)
            sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
            # The commit is used as the name of a folder.
            if not isinstance(info.sha, str) or not re.fullmatch("[0-9a-f]{40,64}", info.sha):
                raise ValueError(f"invalid commit {str(info.sha)[:80]!r}")
            if any(type(size) is not int or size < 0 for size in sizes.values()):
                raise ValueError("invalid file sizes")
        return info.sha, sizes

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, or ``None`` if it does not exist."""
        return self._sizes.get(name)

    def download(self, name: str, folder: Path) -> None:
        """Download a file to a folder; a complete earlier download is kept."""
        file = f"{name} of {self.address}"
        guard, cache = _guard(file, self._sizes[name]), folder / ".cache"

        def request() -> None:
            options = {"revision": self.revision, "local_dir": folder, "cache_dir": cache}
            with self._explained(f"download {file}"):
                self._api.hf_hub_download(self.address.place, name, **options, tqdm_class=guard)

        retry(request)


def _guard(file: str, size: int) -> Any:
    """Return a progress bar class for the client that stops downloads of excessive size."""

    class Guard(ExitStack):
        n = 0

        def __init__(self, *_: object, **__: object) -> None:
            super().__init__()

        def update(self, n: float | None = 1) -> None:
            self.n += int(n or 0)
            if self.n > 2 * size + 2**20:  # the client compares the exact sizes at the end
                raise HubError(f"{file} is longer than the announced {size:,} bytes.")

        def __getattr__(self, _: str) -> Any:  # other methods of a progress bar
            return lambda *_, **__: None

    return Guard


class BucketPlace:
    """Model in an S3 bucket, or a store with the same API (``AWS_ENDPOINT_URL_S3``)."""

    def __init__(self, address: Address, revision: str | None, *_: object) -> None:
        self.address, self._files, self._root = address, bucket_files(), address.place
        subfolder = revision if revision and not pinned_digest(revision) else ""
        if subfolder and self.size(f"{subfolder}/{CHECKSUMS_FILE}") is not None:
            self._root = f"{address.place}/{subfolder}"
        with explained(f"download {CHECKSUMS_FILE} of {address}"):
            path = f"{self._root}/{CHECKSUMS_FILE}"
            listed = self._files.cat_file(path, start=0, end=MAX_TEXT_BYTES + 1)
        self.revision = check_revision(listed, revision, address, self._root.rpartition("/")[2])

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, or ``None`` if it does not exist."""
        with explained(f"download {name} of {self.address}"):
            try:
                return int(self._files.info(f"{self._root}/{name}")["size"])
            except FileNotFoundError:
                return None

    def download(self, name: str, folder: Path) -> None:
        """Download a file to a folder."""
        with explained(f"download {name} of {self.address}"):
            self._files.get_file(f"{self._root}/{name}", str(folder / name))


def check_target(address: Address, *, overwrite: bool) -> None:
    """Raise an error if a model cannot be published, without contacting a server.

    Raises
    ------
    HubError
        If offline mode is set, or the folder is a file, not empty or not writable.
    """
    if address.kind != "folder":
        if is_offline():
            raise OfflineError(f"Could not publish to {address}: HF_HUB_OFFLINE is set. Unset it.")
        return
    target = Path(address.place)
    above = next(place for place in (target, *target.parents) if place.exists())
    # A replaced folder is renamed, so its parent must be writable.
    written = target.parent if above == target else above
    is_published = (target / CHECKSUMS_FILE).is_file()
    if is_published and not overwrite:
        raise _exists(target)
    cases = {
        f"{above} is a file": not above.is_dir(),
        f"{written} is not writable": not os.access(written, os.W_OK | os.X_OK),
        "it holds something that was not published by hdi.hub": (
            above == target and above.is_dir() and any(target.iterdir()) and not is_published
        ),
    }
    if why := next((text for text, applies in cases.items() if applies), ""):
        raise HubError(f"Could not publish to {target}: {why}. Choose another folder.")


def _exists(place: object) -> HubError:
    return HubError(f"A model is already published at {place}. Pass overwrite=True to replace it.")


def put_on_hub(
    folder: Path, address: Address, revision: str | None, token: Token, private: bool, message: str
) -> str:
    """Publish a folder in a single commit, and return the commit."""
    api = hub_api(hub_endpoint(), token)
    with explained(f"publish to {address}", hub_endpoint(), token, revision):
        # Without a wish, the owner's settings decide: some forbid public repositories.
        api.create_repo(address.place, private=private or None, exist_ok=True)
        if private and not api.model_info(address.place).private:
            msg = f"Could not publish to {address} as private: the repository exists and is public."
            raise HubError(f"{msg} Make it private in its settings, or choose another name.")
        if revision is not None:
            api.create_branch(address.place, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=address.place,
            folder_path=folder,
            revision=revision,
            commit_message=message,
            delete_patterns="*",  # files of an earlier model
        )
    return str(commit.oid)


def put_in_bucket(folder: Path, address: Address, overwrite: bool) -> None:
    """Publish a folder; the list of checksums is uploaded last and makes the model visible."""
    files, checksums = bucket_files(), f"{address.place}/{CHECKSUMS_FILE}"
    with explained(f"publish to {address}"):
        if files.exists(checksums):
            if not overwrite:
                raise _exists(address)
            files.rm_file(checksums)
        for path in sorted(folder.iterdir(), key=lambda path: path.name == CHECKSUMS_FILE):
            files.put_file(str(path), f"{address.place}/{path.name}")


def put_in_folder(folder: Path, target: Path) -> None:
    """Publish a folder atomically."""
    with atomic_write(target) as unfinished:
        unfinished.mkdir()  # with default permissions, unlike the temporary folder
        for path in folder.iterdir():
            shutil.copy2(path, unfinished)

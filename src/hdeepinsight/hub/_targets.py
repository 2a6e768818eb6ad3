"""Where a model can be put: a hub, a bucket, a folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hdeepinsight.hub import _s3, _settings
from hdeepinsight.hub._address import Address
from hdeepinsight.hub._errors import HubError, OfflineError
from hdeepinsight.hub._hub_source import Token, explained, hub_api
from hdeepinsight.hub._manifest import CHECKSUMS_FILE

__all__ = ["check_target", "upload"]

_KEPT = {".gitattributes"}


def check_target(address: Address, *, overwrite: bool) -> None:
    """Refuse a place where nothing can be published, as far as that can be seen without asking it.

    Raises
    ------
    HubError
        If there is no connection to be used, or the folder is a file, full or not to be written.
    """
    if address.kind == "folder":
        _check_folder(address.path, overwrite)
    elif _settings.is_offline():
        msg = (
            f"Could not publish to {address}: HF_HUB_OFFLINE is set. Unset it, or publish to a "
            "folder."
        )
        raise OfflineError(msg)


def upload(
    folder: Path,
    address: Address,
    digest: str,
    *,
    revision: str | None,
    token: Token,
    private: bool,
    overwrite: bool,
    message: str,
) -> str:
    """Put a folder where the address says.

    Returns
    -------
    The revision that it has there.
    """
    check_target(address, overwrite=overwrite)
    if address.kind == "folder":
        _into_folder(folder, address.path)
        return f"sha256:{digest}"
    if address.kind == "s3":
        _into_bucket(folder, address, overwrite)
        return f"sha256:{digest}"
    return _to_hub(folder, address, revision, token, private, message)


def _to_hub(
    folder: Path, address: Address, revision: str | None, token: Token, private: bool, message: str
) -> str:
    """Upload in one commit, so that a reader sees all of it or nothing."""
    endpoint = _settings.endpoint()
    api = hub_api(endpoint, token)
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    names = _names(folder)
    with explained(f"publish to {address}", endpoint, token, revision):
        api.create_repo(address.place, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(address.place, branch=revision, exist_ok=True)
        there = api.list_repo_files(address.place, revision=revision)
        stale = [name for name in there if name not in names and name not in _KEPT]
        commit = api.create_commit(
            address.place,
            [
                *(CommitOperationAdd(name, str(folder / name)) for name in names),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message=message,
            revision=revision,
        )
    return str(commit.oid)


def _into_bucket(folder: Path, address: Address, overwrite: bool) -> None:
    """Upload with the list of checksums last: until it is there, nothing counts as published."""
    client = _s3.bucket_client()
    bucket, _, key = address.place.partition("/")
    names = sorted(_names(folder), key=lambda name: name == CHECKSUMS_FILE)
    with _s3.explained("publish to", address):
        there = client.list_objects_v2(Bucket=bucket, Prefix=f"{key}/{CHECKSUMS_FILE}")
        if there.get("KeyCount", 0) and not overwrite:
            raise HubError(_exists(address))
        if there.get("KeyCount", 0):
            client.delete_object(Bucket=bucket, Key=f"{key}/{CHECKSUMS_FILE}")
        for name in names:
            client.upload_file(str(folder / name), bucket, f"{key}/{name}")


def _check_folder(target: Path, overwrite: bool) -> None:
    above = next(place for place in (target, *target.parents) if place.exists())
    if not above.is_dir():
        msg = f"{above} is a file, so nothing can be published at {target}. Choose another folder."
        raise HubError(msg)
    # What is replaced is moved away first, which is for the folder that it lies in to allow.
    written = target.parent if above == target else above
    if not os.access(written, os.W_OK | os.X_OK):
        msg = f"{target} cannot be written: {written} may not be changed. Choose another folder."
        raise HubError(msg)
    if above != target or not any(target.iterdir()):
        return
    if not (target / CHECKSUMS_FILE).is_file():
        msg = (
            f"{target} holds something that was not published by hdi.hub, so it is not replaced. "
            "Valid is a new folder, an empty one, or a published model. Choose another."
        )
        raise HubError(msg)
    if not overwrite:
        raise HubError(_exists(target))


def _into_folder(folder: Path, target: Path) -> None:
    """Copy beside the target first; it then takes its place in one step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        (beside / "new").mkdir()  # not a copy of the folder, which only its owner may open
        for path in folder.iterdir():
            shutil.copy2(path, beside / "new")
        if target.exists():
            target.replace(beside / "old")
        (beside / "new").replace(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _names(folder: Path) -> list[str]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path.relative_to(folder).as_posix() for path in paths]


def _exists(place: object) -> str:
    return (
        f"A model is published at {place} already. Pass overwrite=True to replace it, or choose "
        "another place."
    )

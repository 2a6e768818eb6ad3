"""Get a published model: from a hub, a bucket, a folder, or what was fetched before."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdeepinsight.hub import _settings
from hdeepinsight.hub._address import Address
from hdeepinsight.hub._bundled import bundled_folder
from hdeepinsight.hub._download import MAX_BYTES, fetch_files, patiently
from hdeepinsight.hub._errors import ChecksumError, HubError, OfflineError
from hdeepinsight.hub._hub_source import (
    HubSource,
    Token,
    Transient,
    hub_or_mirror,
    offline_message,
)
from hdeepinsight.hub._manifest import (
    CARD_FILE,
    CHECKSUMS_FILE,
    METADATA_FILE,
    digest_of,
    parse_checksums,
    verify_folder,
)
from hdeepinsight.hub._s3 import BucketSource
from hdeepinsight.hub._shelf import Shelf
from hdeepinsight.hub._sources import FolderSource, Source, check_pin, pinned_digest

if TYPE_CHECKING:
    from hdeepinsight.hub._reference import ReferenceBundle
    from hdeepinsight.models import SCHDeepInsight

__all__ = ["SharedModel", "download", "pull"]

_PARENT_MODULE = "hdeepinsight"
_LONGEST_METADATA = 4 * 2**20


@dataclass(frozen=True)
class SharedModel:
    """A published model that lies in a folder here, with its checksums verified.

    Parameters
    ----------
    address
        Where it was published.
    revision
        Commit of a hub; ``"sha256:..."`` of a bucket or folder. Pass it to :func:`pull` to get
        exactly this again.
    folder
        Where the files are.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> shared = hdi.hub.download("pbmc")
    >>> shared.digest == shared.revision
    True
    >>> shared.card.startswith("---")
    True
    """

    address: str
    revision: str
    folder: Path

    @property
    def digest(self) -> str:
        """``"sha256:..."`` over all files; the same wherever the same model is published."""
        return f"sha256:{digest_of((self.folder / CHECKSUMS_FILE).read_bytes())}"

    @property
    def card(self) -> str:
        """Text of the model card (Markdown). It is shown to people and never interpreted."""
        return (self.folder / CARD_FILE).read_text(encoding="utf-8", errors="replace")

    def load(self, **options: Any) -> SCHDeepInsight:
        """Load the model; nothing in its files is ever executed.

        Parameters
        ----------
        **options
            ``accelerator`` and ``device``, as in :meth:`~hdeepinsight.models.SCHDeepInsight.load`.

        Raises
        ------
        HubError
            If it is a model of another package.
        ModelFileError
            If its file is not one of ours.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> hdi.hub.download("pbmc").load().taxonomy.n_leaves
        8
        """
        model_class = self._model_class()
        return model_class.load(self.folder, adata=False, **options)  # type: ignore[no-any-return]

    def reference(self) -> ReferenceBundle:
        """Features and labels of the reference that were published with the model.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> len(hdi.hub.download("pbmc").reference())
        0
        """
        from hdeepinsight.hub._reference import REFERENCE_FILE, ReferenceBundle

        return ReferenceBundle.read(self.folder / REFERENCE_FILE)

    def _model_class(self) -> Any:
        from hdeepinsight import models

        try:
            with (self.folder / METADATA_FILE).open(encoding="utf-8") as file:
                metadata = json.loads(file.read(_LONGEST_METADATA))
            found = f"{metadata['model_parent_module']}.{metadata['model_cls_name']}"
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            found = "nothing that says which model it is"
        known = {f"{_PARENT_MODULE}.SCHDeepInsight": models.SCHDeepInsight}
        if found not in known:
            msg = (
                f"{self.address} holds {found[:200]}. Valid are {', '.join(known)}. Load models of "
                "other packages with scvi.hub.HubModel."
            )
            raise HubError(msg)
        return known[found]


def pull(
    repo: str | os.PathLike[str],
    revision: str | None = None,
    *,
    token: Token = None,
    max_bytes: int = MAX_BYTES,
    verify: bool = True,
    **options: Any,
) -> SCHDeepInsight:
    """Get a published model, ready to annotate.

    Parameters
    ----------
    repo, revision, token, max_bytes, verify
        As in :func:`download`.
    **options
        ``accelerator`` and ``device``, as in :meth:`~hdeepinsight.models.SCHDeepInsight.load`.

    Returns
    -------
    The model. It annotates exactly as the one that was published.

    Raises
    ------
    HubError
        If it cannot be fetched; the text says why, and what to do.
    ChecksumError
        If its files are not as published.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> hdi.hub.pull("pbmc").taxonomy.level_names
    ('lineage', 'cell_type', 'subtype')
    >>> hdi.hub.pull("atlas/pbmc", revision="v1")  # doctest: +SKIP
    """
    shared = download(repo, revision, token=token, max_bytes=max_bytes, verify=verify)
    return shared.load(**options)


def download(
    repo: str | os.PathLike[str],
    revision: str | None = None,
    *,
    token: Token = None,
    max_bytes: int = MAX_BYTES,
    verify: bool = True,
) -> SharedModel:
    """Get the files of a published model.

    Parameters
    ----------
    repo
        ``"owner/name"`` on a Hugging Face hub, ``"s3://bucket/path"``, ``"file:///folder"``, a
        folder, or ``"pbmc"``, the bundled model.
    revision
        Branch, tag or commit of a hub; name of a folder inside a bucket or folder; or
        ``"sha256:..."``, the digest of the contents, anywhere. By default the newest. A commit or
        a digest pins the model: it can never become another one.
    token
        Token of the hub; by default ``HF_TOKEN``, or the one that ``hf auth login`` stored. It is
        never written anywhere, nor sent to a mirror unless it is given here.
    max_bytes
        Most bytes to fetch.
    verify
        Refuse a repository of a hub that has no list of checksums. A list that is there always
        counts; buckets and folders need one.

    Returns
    -------
    Where the files are, and which revision they are.

    Raises
    ------
    HubError
        If it cannot be fetched; the text says why, and what to do.
    ChecksumError
        If the files are not as published.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> shared = hdi.hub.download("pbmc")
    >>> shared.folder.name, shared.revision[:7]
    ('pbmc', 'sha256:')

    Notes
    -----
    ``HF_ENDPOINT`` names another hub, ``HDEEPINSIGHT_MIRROR`` a folder, bucket or server that is
    asked instead of the hub, ``HTTPS_PROXY`` a proxy. With ``HF_HUB_OFFLINE=1`` only folders and
    what was fetched before are used. ``HDEEPINSIGHT_CACHE`` says where fetched models are kept.
    """
    address = Address.parse(bundled_folder(repo) or repo)
    place, endpoint, token = _route(address, token)
    if place.kind == "folder":
        return _in_place(place, revision)
    shelf = Shelf.of(address)
    known = shelf.remembered(revision)
    if known is not None and (_settings.is_offline() or _is_pin(revision)):
        return _from_shelf(shelf, known, revision)
    if _settings.is_offline():
        raise OfflineError(offline_message(f"fetch {address}"))
    try:
        source = patiently(lambda: _open(place, revision, endpoint, token))
    except Transient as error:
        here = f" {known} is here: HF_HUB_OFFLINE=1 uses it." if known is not None else ""
        raise HubError(f"{error}{here}") from None
    with shelf.alone(source.revision):
        if not shelf.has(source.revision):
            unfinished = shelf.unfinished(source.revision)
            fetch_files(source, unfinished, max_bytes=max_bytes, verify=verify)
            shelf.complete(source.revision)
    shelf.remember(revision, source.revision)
    shared = _from_shelf(shelf, source.revision, revision)
    if (shared.folder / CHECKSUMS_FILE).is_file():
        shelf.remember(shared.digest, source.revision)
    return shared


def _open(place: Address, revision: str | None, endpoint: str, token: Token) -> Source:
    if place.kind == "s3":
        return BucketSource(place, revision)
    return HubSource(place, revision, endpoint, token)


def _route(address: Address, token: Token) -> tuple[Address, str, Token]:
    """Where a model is really looked for: a mirror, where there is one."""
    if address.kind != "hub":
        return address, "", token
    endpoint, token, instead = hub_or_mirror(token)
    inside = address if instead is None else instead.within(*address.place.split("/"))
    return inside, endpoint, token


def _is_pin(revision: str | None) -> bool:
    """Whether a revision can never mean anything else: a digest, or the full hash of a commit."""
    if revision is None:
        return False
    text = pinned_digest(revision) or revision
    return len(text) >= 40 and all(sign in "0123456789abcdef" for sign in text)


def _in_place(place: Address, revision: str | None) -> SharedModel:
    source = FolderSource(place, revision)
    shared = SharedModel(str(place), source.revision, source.folder)
    _verify(shared)
    return shared


def _from_shelf(shelf: Shelf, revision: str, asked: str | None) -> SharedModel:
    shared = SharedModel(str(shelf.address), revision, shelf.revision(revision))
    if not (shared.folder / CHECKSUMS_FILE).is_file():
        return shared  # fetched with verify=False
    try:
        _verify(shared)
    except ChecksumError:
        shelf.discard(revision)  # to be fetched anew
        raise
    if pinned_digest(asked):
        check_pin(shared.digest.removeprefix("sha256:"), asked, shelf.address)
    return shared


def _verify(shared: SharedModel) -> None:
    text = (shared.folder / CHECKSUMS_FILE).read_bytes()
    listed = parse_checksums(text, source=shared.address)
    verify_folder(shared.folder, listed, source=shared.address)

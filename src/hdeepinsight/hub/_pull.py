"""List, download, verify and load published models, with a local cache."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args
from urllib.parse import quote, unquote

import pandas as pd

from hdeepinsight import models
from hdeepinsight._errors import check_choice, check_number, need_extra, refuse_unused
from hdeepinsight._io import atomic_write, sha256
from hdeepinsight._model_folder import bundled_folders
from hdeepinsight.hub import _address, _checksums
from hdeepinsight.hub._address import CARD_FILE, CHECKSUMS_FILE, Address
from hdeepinsight.hub._checksums import parse_checksums, read_text_file
from hdeepinsight.hub._errors import ChecksumError, HubError, OfflineError, explained
from hdeepinsight.hub._places import BucketPlace, HubPlace, Token, hub_api, resolve_mirror

Where = Literal["all", "bundled", "here", "hub"]

#: Tags of a card that are shown in the table.
_SHOWN: Final = ("organism", "tissue", "n_types", "n_genes")
#: A tag in the header of a card. The header is read line by line, because parsing untrusted YAML
#: can exhaust memory.
_TAG: Final = re.compile(r"\s*- +(['\"]?)(organism|tissue|n_types|n_genes):(.*)\1")


def list_models(
    search: str | None = None, *, where: Where = "all", token: Token = None
) -> pd.DataFrame:
    """List the available models.

    Parameters
    ----------
    search
        Text that the name contains.
    where
        ``"bundled"``: models of the package; ``"here"``: models downloaded before; neither needs a
        connection. ``"hub"``: models on the hub or ``HDEEPINSIGHT_MIRROR``; ``"all"``: all of them.
        With ``"all"``, a warning is issued if the hub does not answer or the extra ``hub`` is not
        installed.
    token
        Token of the hub, for private models.

    Returns
    -------
    One row per model: ``model`` (name for :func:`pull`), ``where`` (``"bundled"``, ``"here"`` or
    ``"hub"``), ``revision``, ``organism``, ``tissues``, ``n_types``, ``n_genes``; text, empty if
    unknown.

    Raises
    ------
    HubError
        With ``where="hub"``, if the hub does not answer.
    ImportError
        With ``where="hub"``, if the extra ``hub`` is not installed.
    ValueError
        If ``where`` is invalid.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> hdi.hub.list_models("pbmc", where="bundled")["tissues"].tolist()
    ['blood']
    """
    check_choice("where", where, get_args(Where))
    rows: list[dict[str, str]] = []
    for name, folder in bundled_folders().items() if where in ("all", "bundled") else ():
        digest = SharedModel(name, "", folder).digest
        rows.append(_row(name, "bundled", digest, read_tags(folder)))
    caches = sorted((_address.cache_folder() / "models").glob("*"))
    for cache in caches if where in ("all", "here") else ():
        if revision := newest(cache):
            tags = read_tags(revision_folder(cache, revision))
            rows.append(_row(unquote(cache.name), "here", revision, tags))
    if where == "hub" or (where == "all" and not _address.is_offline()):
        try:
            rows += _on_hub(search, token, wait=where == "hub")
        except (HubError, ImportError) as error:
            if where == "hub":
                raise
            warnings.warn(f"Only local models are listed. {error}", stacklevel=2)
    named = [row for row in rows if search is None or search.lower() in row["model"].lower()]
    table = pd.DataFrame(named, columns=["model", "where", "revision", *_SHOWN])
    return table.rename(columns={"tissue": "tissues"})


def _on_hub(search: str | None, token: Token, *, wait: bool) -> Iterator[dict[str, str]]:
    """Yield the models on the hub, or in a mirror folder."""
    if _address.is_offline():
        raise OfflineError(
            "HF_HUB_OFFLINE is set. Unset it, or list local models with where='here'."
        )
    endpoint, token, mirror = resolve_mirror(token)
    if mirror is None:
        client = need_extra("huggingface_hub.utils", "hub", "Listing the models of a hub")
        api = hub_api(endpoint, token)
        with explained("list the models", endpoint, token):
            if not wait:  # the client gives up only after half a minute
                client.get_session().head(endpoint, timeout=5.0)
            found = api.list_models(filter="hdeepinsight", search=search, limit=1000, full=True)
            for info in found:
                yield _row(info.id, "hub", info.sha or "", info.tags or ())
    elif mirror.kind == "folder":  # buckets cannot be listed
        for card in sorted(Path(mirror.place).glob(f"*/*/{CARD_FILE}")):
            yield _row("/".join(card.parts[-3:-1]), "hub", "", read_tags(card.parent))


def read_tags(folder: Path) -> list[str]:
    """Return the tags in the header of a model card, or none if it cannot be read."""
    try:
        text = read_text_file(folder / CARD_FILE).decode("utf-8", "replace")
    except HubError:
        return []
    header = text.partition("---")[2].partition("\n---")[0]
    found = (_TAG.fullmatch(line) for line in header.splitlines()[:1000])
    return [f"{tag[2]}:{tag[3]}" for tag in found if tag]


def _row(model: str, where: str, revision: str, tags: Iterable[str]) -> dict[str, str]:
    pairs = [tag.partition(":") for tag in tags]
    shown = {key: ", ".join(value for tag, _, value in pairs if tag == key) for key in _SHOWN}
    return {"model": model, "where": where, "revision": revision, **shown}


#: Maximum total size of the files of a model.
MAX_BYTES: Final = 5 * 2**30


@dataclass(frozen=True)
class SharedModel:
    """Published model in a local folder, with verified checksums.

    Parameters
    ----------
    address
        Address at which it was published.
    revision
        Commit of a hub; ``"sha256:..."`` of a bucket or folder. With it, :func:`pull` returns
        exactly this model.
    folder
        Folder with the files.

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

    def __fspath__(self) -> str:
        """Return the folder, for functions that take the folder of a model."""
        return os.fspath(self.folder)

    @property
    def digest(self) -> str:
        """``"sha256:..."`` over all files, independent of the address."""
        return f"sha256:{sha256(read_text_file(self.folder / CHECKSUMS_FILE))}"

    @property
    def card(self) -> str:
        """Text of the model card (Markdown)."""
        return read_text_file(self.folder / CARD_FILE).decode("utf-8", errors="replace")

    def load(self, **options: Any) -> Any:
        """Load the model, without executing code from its files.

        Parameters
        ----------
        **options
            ``accelerator`` and ``device``, as in :func:`hdeepinsight.models.load_model`.

        Raises
        ------
        ModelFileError
            If it is not a model of this package.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> hdi.hub.download("pbmc").load().taxonomy.n_leaves
        8
        """
        return models.load_model(self.folder, **options)

    def _verify(self, max_bytes: float = float("inf")) -> bytes:
        """Compare the files with the list of checksums, and return the list."""
        text = read_text_file(self.folder / CHECKSUMS_FILE)
        listed = parse_checksums(text, source=self.address)
        paths = (self.folder / name for name in listed)
        total = sum(path.stat().st_size for path in paths if path.is_file())
        _check_total(total, max_bytes, self.address)
        _checksums.verify_folder(self.folder, listed, source=self.address)
        return text


def pull(
    repo: str | os.PathLike[str],
    revision: str | None = None,
    *,
    token: Token = None,
    max_bytes: int = MAX_BYTES,
    **options: Any,
) -> Any:
    """Download a published model and load it.

    Parameters
    ----------
    repo, revision, token, max_bytes
        As in :func:`download`.
    **options
        ``accelerator`` and ``device``, as in :func:`hdeepinsight.models.load_model`.

    Returns
    -------
    The model, of the published class.

    Raises
    ------
    HubError
        If it cannot be downloaded.
    ChecksumError
        If its files differ from the published ones.
    ModelFileError
        If it is not a model of this package.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> hdi.hub.pull("pbmc").taxonomy.level_names
    ('lineage', 'cell_type', 'subtype')
    >>> hdi.hub.pull("atlas/pbmc", revision="v1")  # doctest: +SKIP
    """
    return download(repo, revision, token=token, max_bytes=max_bytes).load(**options)


def download(
    repo: str | os.PathLike[str],
    revision: str | None = None,
    *,
    token: Token = None,
    max_bytes: int = MAX_BYTES,
) -> SharedModel:
    """Download the files of a published model, and verify their checksums.

    Parameters
    ----------
    repo
        ``"owner/name"`` on a Hugging Face hub, ``"s3://bucket/path"``, ``"file:///folder"``, a
        folder, or ``"pbmc"`` or ``"immune"``, the bundled models.
    revision
        Branch, tag or commit of a hub; name of a subfolder of a bucket or folder; or
        ``"sha256:..."``, the digest of the content. By default the latest. Commits and digests pin
        the model.
    token
        Token of the hub; by default ``HF_TOKEN``, or the one stored by ``hf auth login``. It is
        never stored, and only sent to a mirror if it is passed here.
    max_bytes
        Maximum total size of the files.

    Returns
    -------
    Folder and revision of the files.

    Raises
    ------
    HubError
        If the model cannot be downloaded.
    ChecksumError
        If the files differ from the published ones.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> shared = hdi.hub.download("pbmc")
    >>> shared.folder.name, shared.revision[:7]
    ('pbmc', 'sha256:')

    Notes
    -----
    Environment variables: ``HF_ENDPOINT`` sets another hub; ``HDEEPINSIGHT_MIRROR`` a folder,
    bucket or server that replaces the hub; ``HTTPS_PROXY`` a proxy; ``HDEEPINSIGHT_CACHE`` the
    folder of downloaded models. With ``HF_HUB_OFFLINE=1``, only folders and earlier downloads are
    used.
    """
    check_number("max_bytes", max_bytes, hint="Omit it to use the default.")
    bundled = bundled_folders().get(repo) if isinstance(repo, str) else None
    address = place = Address.parse(bundled or repo)
    endpoint = ""
    if address.kind == "hub":
        endpoint, token, mirror = resolve_mirror(token)
        if mirror is not None:
            place = Address(mirror.kind, f"{mirror.place}/{address.place}")
    if place.kind == "folder":
        return _open_folder(place, revision, max_bytes)
    cache, offline = cache_of(address), _address.is_offline()
    known = _find(cache, revision)
    pin = _checksums.pinned_digest(revision) or revision or ""
    is_pinned = re.fullmatch("[0-9a-f]{40,}", pin)
    if known is None and offline:
        raise OfflineError(
            f"Could not download {address}: HF_HUB_OFFLINE is set and it was not downloaded "
            "before. Pull it once with a connection, or set HDEEPINSIGHT_MIRROR to a folder that "
            "contains it."
        )
    if known is None or not (is_pinned or offline):
        kind = BucketPlace if place.kind == "s3" else HubPlace
        try:
            remote = kind(place, revision, endpoint, token)
        except HubError as error:
            local = f" HF_HUB_OFFLINE=1 uses the downloaded {known}." if known else ""
            raise type(error)(f"{error}{local}") from None
        known = remote.revision
        download_files(remote, revision_folder(cache, known), max_bytes)
        _remember(cache, revision, known)
    shared = SharedModel(str(address), known, revision_folder(cache, known))
    try:
        listed = shared._verify()
    except ChecksumError:
        shutil.rmtree(shared.folder, ignore_errors=True)  # to be downloaded again
        raise
    if _checksums.pinned_digest(revision):
        _checksums.check_revision(listed, revision, address)
    _remember(cache, shared.digest, known)
    return shared


def _open_folder(place: Address, revision: str | None, max_bytes: int) -> SharedModel:
    """Verify a published model in a folder, without copying it."""
    folder = Path(place.place)
    if revision and not _checksums.pinned_digest(revision) and (folder / revision).is_dir():
        folder = folder / revision
    if not folder.is_dir():
        raise HubError(f"There is no folder {folder}. Check the name.")
    if not os.path.lexists(folder / CHECKSUMS_FILE):
        found = f"{folder} holds no published model, which has a {CHECKSUMS_FILE}"
        hint = "Folders that save() wrote need no download: use load_model()."
        raise HubError(f"{found}. {hint}")
    listed = SharedModel(str(place), "", folder)._verify(max_bytes)
    digest = _checksums.check_revision(listed, revision, place, folder.name)
    return SharedModel(str(place), digest, folder)


def cache_of(address: Address) -> Path:
    """Return the cache folder of a model."""
    return _address.cache_folder() / "models" / quote(str(address), safe="")


def revision_folder(cache: Path, revision: str) -> Path:
    """Return the folder of a revision, which may not exist."""
    return cache / "revisions" / quote(revision, safe="")


def newest(cache: Path) -> str | None:
    """Return the revision that was last recorded as the newest, or else any.

    File times are not used, because clocks and copies are unreliable.
    """
    folders = sorted(path for path in (cache / "revisions").glob("*") if path.is_dir())
    complete = (unquote(path.name) for path in folders if path.suffix != ".part")
    return _find(cache, None) or next(complete, None)


def _find(cache: Path, name: str | None) -> str | None:
    """Return the last known revision of a branch, tag, commit or digest, if it is in the cache."""
    note = cache / "names" / quote(name or "newest", safe="")
    revision = name if name and revision_folder(cache, name).is_dir() else None
    if revision is None and note.is_file():
        revision = note.read_text(encoding="utf-8")
    return revision if revision and revision_folder(cache, revision).is_dir() else None


def _remember(cache: Path, name: str | None, revision: str) -> None:
    with atomic_write(cache / "names" / quote(name or "newest", safe="")) as note:
        note.write_text(revision, encoding="utf-8")


def download_files(place: HubPlace | BucketPlace, target: Path, max_bytes: int) -> None:
    """Download the files of a model to a folder, which is created only when they are complete.

    Other processes wait for it. After an error, complete files are kept for the next attempt.

    Raises
    ------
    ChecksumError
        If a file differs from the published one; it is removed.
    HubError
        If the download fails, or the files are larger than ``max_bytes``.
    """
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.is_dir():
            return
        folder = target.with_name(f"{target.name}.part")
        folder.mkdir(exist_ok=True)
        _sizes(place, [CHECKSUMS_FILE])
        for name in (CHECKSUMS_FILE, CARD_FILE):
            (folder / name).unlink(missing_ok=True)
            if (size := place.size(name)) is not None:
                file, advice = f"{name} of {place.address}", "Pull another model."
                _check_total(size, _checksums.MAX_TEXT_BYTES, file, advice)
                place.download(name, folder)
        listed = parse_checksums(read_text_file(folder / CHECKSUMS_FILE), source=place.address)
        _check_total(sum(_sizes(place, listed)), max_bytes, place.address)
        for name, digest in listed.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True, parents=True)
            if not path.is_file() or sha256(path) != digest:
                path.unlink(missing_ok=True)
                place.download(name, folder)
            if sha256(path) != digest:
                path.unlink()
                found = f"{name} of {place.address} has another checksum"
                raise ChecksumError(f"{found}. Pull it again.")
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # of the client
        folder.replace(target)


def _sizes(place: HubPlace | BucketPlace, names: Iterable[str]) -> list[int]:
    sizes = {name: place.size(name) for name in names}
    if missing := ", ".join([name for name, size in sizes.items() if size is None][:5]):
        raise HubError(
            f"{place.address} is incomplete: {missing} is not there. Try again in a minute if it "
            "is being published, or publish it with hdi.hub.publish."
        )
    return [size for size in sizes.values() if size is not None]


def _check_total(
    n_bytes: int, limit: float, source: object, hint: str = "Raise max_bytes."
) -> None:
    if n_bytes > limit:
        raise HubError(f"{source} must have at most {limit:,} bytes, got {n_bytes:,}. {hint}")


def resolve_model(model: str | os.PathLike[str]) -> Path:
    """Return the folder of a model, downloading it if necessary.

    Parameters
    ----------
    model
        A folder, or an address as in :func:`download`: ``"pbmc"`` (a bundled model),
        ``"owner/name"``, ``"s3://bucket/path"`` or ``"file:///folder"``. Existing folders take
        precedence, and paths that start with ``/``, ``.`` or ``~`` are always folders, as is any
        `Path`.

    Returns
    -------
    A folder for :func:`load_model`; checksums of downloads are verified.

    Raises
    ------
    ValueError
        If the text is neither a folder nor an address.
    HubError
        If the model cannot be downloaded.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> hdi.hub.resolve_model("./models/pbmc").parts
    ('models', 'pbmc')
    """
    text = os.fspath(model)
    folder = Path(text).expanduser()
    is_path = isinstance(model, os.PathLike) or text.startswith((".", "~")) or folder.is_absolute()
    # Empty text, for example of an unset shell variable, would be the working directory.
    if is_path or (text and folder.is_dir()):
        return folder
    names = bundled_folders()
    try:
        is_on_hub = text not in names and Address.parse(text).kind == "hub"
    except ValueError as error:
        known = ", ".join(names)
        raise ValueError(f"{text!r} is neither a folder nor one of {known}, and {error}") from None
    try:
        return download(text).folder
    except HubError as error:
        if not is_on_hub or isinstance(error, ChecksumError):
            raise
        # Mistyped paths look like names of repositories.
        raise type(error)(f"There is no folder {text!r}, so the hub was tried. {error}") from None


def load_model(model: Any, *, with_types: bool = False, **options: Any) -> Any:
    """Load a model by its name, folder or address; models are returned unchanged.

    Parameters
    ----------
    model
        Name, folder or address as in :func:`resolve_model`, or a model.
    with_types
        Whether the model must have cell types and be trained.
    **options
        ``accelerator`` and ``device``, as in :func:`hdeepinsight.models.load_model`.

    Returns
    -------
    The model, without data, of the saved class.

    Raises
    ------
    TypeError
        If it is neither a model nor a string or path, or lacks required cell types.
    ValueError
        If the text is neither a folder nor an address, the model must be trained but is not, or an
        option has no effect.
    HubError
        If the model cannot be downloaded.
    ModelFileError
        If the folder contains no model.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> model = hdi.hub.load_model("pbmc")
    >>> hdi.hub.load_model(model) is model
    True
    """
    if isinstance(model, str | os.PathLike):
        model = models.load_model(resolve_model(model), **options)
    else:
        refuse_unused(options, "on a model that is loaded already")
    kind = type(model).__name__
    if isinstance(model, type) or not hasattr(model, "module"):
        expected = "a trained model, or the name, folder or address of one"
        hint = "Pass the query first and the model second."
        raise TypeError(f"The model must be {expected}, got a {kind}. {hint}")
    if with_types and getattr(model, "taxonomy", None) is None:
        found = f"a {kind} that has learned without labels"
        hint = "Use its own methods, such as predict(), or train a classifier."
        raise TypeError(f"The model must have cell types, got {found}. {hint}")
    if with_types and not getattr(model, "is_trained_", True):
        raise ValueError(f"The model must be trained, got an untrained {kind}. Train it first.")
    return model


def load_annotator(model: Any) -> Any:
    """Load a model for annotation only, by its name, folder or address.

    Annotation needs neither scvi-tools nor Lightning, so they are not imported for saved models
    whose class supports this.

    Parameters
    ----------
    model
        As in :func:`load_model`; it must have cell types.

    Returns
    -------
    An :class:`~hdeepinsight.models.Annotator`, or the model if its class does not support it.

    Raises
    ------
    TypeError, ValueError, HubError, ModelFileError
        As in :func:`load_model`.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> hdi.hub.load_annotator("pbmc").taxonomy.n_leaves
    8
    """
    if isinstance(model, str | os.PathLike):
        folder = resolve_model(model)
        model = models.Annotator.from_folder(folder) or folder
    return load_model(model, with_types=True)

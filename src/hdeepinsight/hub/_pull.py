"""Get a published model: from a hub, a bucket, a folder, or what was fetched before."""

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
from anndata import AnnData

from hdeepinsight import models
from hdeepinsight._errors import check_choice, check_number, need_extra
from hdeepinsight._io import atomic_write, sha256
from hdeepinsight.hub import _address, _checksums
from hdeepinsight.hub._address import CARD_FILE, CHECKSUMS_FILE, Address, bundled_folders
from hdeepinsight.hub._checksums import parse_checksums, read_text_file
from hdeepinsight.hub._errors import ChecksumError, HubError, OfflineError, explained
from hdeepinsight.hub._places import BucketPlace, HubPlace, Token, hub_api, resolve_mirror
from hdeepinsight.hub._publish import REFERENCE_FILE, read_features

Where = Literal["all", "bundled", "here", "hub"]

#: Tags of a card that are columns of the table.
_SHOWN: Final = ("organism", "tissue", "n_types", "n_genes")
#: A tag in the header of a card, which is read line by line: parsing YAML takes what a few bytes
#: of it stand for, which can be more than any memory.
_TAG: Final = re.compile(r"\s*- +(['\"]?)(organism|tissue|n_types|n_genes):(.*)\1")


def list_models(
    search: str | None = None, *, where: Where = "all", token: Token = None
) -> pd.DataFrame:
    """List the models that can be used.

    Parameters
    ----------
    search
        Text that the name has to contain.
    where
        ``"bundled"``: those that the package carries; ``"here"``: those fetched before; neither
        needs a connection. ``"hub"``: those of the hub or of ``HDEEPINSIGHT_MIRROR``; ``"all"``:
        all of them. With ``"all"``, a hub that does not answer is a warning, and so is the missing
        extra without which no hub can be asked.
    token
        Token of the hub, for private models.

    Returns
    -------
    One row per model: ``model`` (what to pull), ``where`` (``"bundled"``, ``"here"`` or
    ``"hub"``), ``revision``, ``organism``, ``tissues``, ``n_types``, ``n_genes``; text, empty where
    it is not known.

    Raises
    ------
    HubError
        With ``where="hub"``, if the hub cannot be asked.
    ImportError
        With ``where="hub"``, if the extra ``hub`` is not installed.
    ValueError
        If ``where`` is none of these.

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
            warnings.warn(f"Only models that are here are listed. {error}", stacklevel=2)
    named = [row for row in rows if search is None or search.lower() in row["model"].lower()]
    table = pd.DataFrame(named, columns=["model", "where", "revision", *_SHOWN])
    return table.rename(columns={"tissue": "tissues"})


def _on_hub(search: str | None, token: Token, *, wait: bool) -> Iterator[dict[str, str]]:
    """Find models on the hub, or in the folder that stands in for it."""
    if _address.is_offline():
        raise OfflineError("HF_HUB_OFFLINE is set. Unset it, or list what is here: where='here'.")
    endpoint, token, instead = resolve_mirror(token)
    if instead is None:
        client = need_extra("huggingface_hub.utils", "hub", "Listing the models of a hub")
        api = hub_api(endpoint, token)
        with explained("list the models", endpoint, token):
            if not wait:  # the client itself tries for half a minute before it gives up
                client.get_session().head(endpoint, timeout=5.0)
            found = api.list_models(filter="hdeepinsight", search=search, limit=1000, full=True)
            for info in found:
                yield _row(info.id, "hub", info.sha or "", info.tags or ())
    elif instead.kind == "folder":  # the models of a bucket have to be known by name
        for card in sorted(Path(instead.place).glob(f"*/*/{CARD_FILE}")):
            yield _row("/".join(card.parts[-3:-1]), "hub", "", read_tags(card.parent))


def read_tags(folder: Path) -> list[str]:
    """Return the tags in the header of a model's card; none where it cannot be read."""
    try:
        text = read_text_file(folder / CARD_FILE).decode("utf-8", "replace")
    except HubError:
        return []
    header = text.partition("---")[2].partition("\n---")[0]
    found = (_TAG.fullmatch(line) for line in header.splitlines()[:1000])
    return [f"{tag[2]}:{tag[3]}" for tag in found if tag]


def _row(model: str, where: str, revision: str, tags: Iterable[str]) -> dict[str, str]:
    said = [tag.partition(":") for tag in tags]
    shown = {key: ", ".join(value for tag, _, value in said if tag == key) for key in _SHOWN}
    return {"model": model, "where": where, "revision": revision, **shown}


#: Most bytes of a model, all files together: what is larger is not a model of ours.
MAX_BYTES: Final = 5 * 2**30


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
        return f"sha256:{sha256(read_text_file(self.folder / CHECKSUMS_FILE))}"

    @property
    def card(self) -> str:
        """Text of the model card (Markdown). It is shown to people and never interpreted."""
        return read_text_file(self.folder / CARD_FILE).decode("utf-8", errors="replace")

    def load(self, **options: Any) -> Any:
        """Load the model; nothing in its files is ever executed.

        Parameters
        ----------
        **options
            ``accelerator`` and ``device``, as in :func:`hdeepinsight.models.load_model`.

        Raises
        ------
        ModelFileError
            If its file is not one of ours, or of a model class of another package.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> hdi.hub.download("pbmc").load().taxonomy.n_leaves
        8
        """
        return models.load_model(self.folder, **options)

    def reference(self) -> AnnData:
        """Return features and labels of the reference that were published with the model.

        Returns
        -------
        What :func:`reference_features` returned to its publisher.

        Raises
        ------
        HubError
            If the file holds something else.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> hdi.hub.download("pbmc").reference().n_obs
        0
        """
        return read_features(self.folder / REFERENCE_FILE)

    def _verify(self, max_bytes: float = float("inf")) -> bytes:
        """Compare the files with the list of checksums, which is returned."""
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
    """Get a published model, ready to annotate.

    Parameters
    ----------
    repo, revision, token, max_bytes
        As in :func:`download`.
    **options
        ``accelerator`` and ``device``, as in :func:`hdeepinsight.models.load_model`.

    Returns
    -------
    The model, of the class that was published. It annotates exactly as the one that was published.

    Raises
    ------
    HubError
        If it cannot be fetched; the text says why, and what to do.
    ChecksumError
        If its files are not as published.
    ModelFileError
        If they hold a model of another package.

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
        Most bytes of all files together.

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
    check_number("max_bytes", max_bytes, hint="Omit it to use the default.")
    address = place = Address.parse(_address.bundled_folder(repo) or repo)
    endpoint = ""
    if address.kind == "hub":
        endpoint, token, instead = resolve_mirror(token)
        if instead is not None:
            place = Address(instead.kind, f"{instead.place}/{address.place}")
    if place.kind == "folder":
        return _open_folder(place, revision, max_bytes)
    cache, offline = cache_of(address), _address.is_offline()
    known = _find(cache, revision)
    pin = _checksums.pinned_digest(revision) or revision or ""
    is_pinned = re.fullmatch("[0-9a-f]{40,}", pin)
    if known is None and offline:
        raise OfflineError(
            f"Could not fetch {address}: HF_HUB_OFFLINE is set and it was not fetched before. Pull "
            "it once with a connection, or point HDEEPINSIGHT_MIRROR at a folder that has it."
        )
    if known is None or not (is_pinned or offline):
        kind = BucketPlace if place.kind == "s3" else HubPlace
        try:
            there = kind(place, revision, endpoint, token)
        except HubError as error:
            here = f" {known} is here: HF_HUB_OFFLINE=1 uses it." if known else ""
            raise type(error)(f"{error}{here}") from None
        known = there.revision
        fetch_files(there, revision_folder(cache, known), max_bytes)
        _remember(cache, revision, known)
    shared = SharedModel(str(address), known, revision_folder(cache, known))
    try:
        listed = shared._verify()
    except ChecksumError:
        shutil.rmtree(shared.folder, ignore_errors=True)  # to be fetched anew
        raise
    if _checksums.pinned_digest(revision):
        _checksums.check_revision(listed, revision, address)
    _remember(cache, shared.digest, known)
    return shared


def _open_folder(place: Address, revision: str | None, max_bytes: int) -> SharedModel:
    """Use a published folder where it is."""
    folder = Path(place.place)
    if revision and not _checksums.pinned_digest(revision) and (folder / revision).is_dir():
        folder = folder / revision
    if not os.path.lexists(folder / CHECKSUMS_FILE):
        found = f"{folder} holds no published model, which has a {CHECKSUMS_FILE}. What save() "
        found = f"{found}wrote, load_model() reads."
        raise HubError(
            found if folder.is_dir() else f"There is no folder {folder}. Check the name."
        )
    listed = SharedModel(str(place), "", folder)._verify(max_bytes)
    digest = _checksums.check_revision(listed, revision, place, folder.name)
    return SharedModel(str(place), digest, folder)


def cache_of(address: Address) -> Path:
    """Return the folder of what was fetched of one model."""
    return _address.cache_folder() / "models" / quote(str(address), safe="")


def revision_folder(cache: Path, revision: str) -> Path:
    """Return the folder of a complete revision, whether it is there or not."""
    return cache / "revisions" / quote(revision, safe="")


def newest(cache: Path) -> str | None:
    """Return the revision that was the newest when it was last asked for, or else any.

    No time of a file is looked at: clocks go wrong, and copies have times of their own.
    """
    folders = sorted(path for path in (cache / "revisions").glob("*") if path.is_dir())
    complete = (unquote(path.name) for path in folders if path.suffix != ".part")
    return _find(cache, None) or next(complete, None)


def _find(cache: Path, name: str | None) -> str | None:
    """Return what a branch, tag, commit or digest was when it was last asked for, if it is here."""
    note = cache / "names" / quote(name or "newest", safe="")
    revision = name if name and revision_folder(cache, name).is_dir() else None
    if revision is None and note.is_file():
        revision = note.read_text(encoding="utf-8")
    return revision if revision and revision_folder(cache, revision).is_dir() else None


def _remember(cache: Path, name: str | None, revision: str) -> None:
    with atomic_write(cache / "names" / quote(name or "newest", safe="")) as note:
        note.write_text(revision, encoding="utf-8")


def fetch_files(place: HubPlace | BucketPlace, target: Path, max_bytes: int) -> None:
    """Bring the files of a model into a folder, which appears only when it is complete.

    Other processes wait meanwhile. Complete files stay for a later attempt where something fails.

    Raises
    ------
    ChecksumError
        If a file is not as published; it is removed, to be fetched anew.
    HubError
        If the place gives up, or offers more than ``max_bytes``.
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
                about = f"{name} of {place.address}"
                _check_total(size, _checksums.MOST_BYTES_OF_TEXT, about, "It is not one of ours.")
                place.fetch(name, folder)
        listed = parse_checksums(read_text_file(folder / CHECKSUMS_FILE), source=place.address)
        _check_total(sum(_sizes(place, listed)), max_bytes, place.address)
        for name, digest in listed.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True, parents=True)
            if not path.is_file() or sha256(path) != digest:
                path.unlink(missing_ok=True)
                place.fetch(name, folder)
            if sha256(path) != digest:
                path.unlink()
                found = f"{name} of {place.address} has another checksum"
                raise ChecksumError(f"{found}. Pull it again.")
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # notes of the client
        folder.replace(target)


def _sizes(place: HubPlace | BucketPlace, names: Iterable[str]) -> list[int]:
    sizes = {name: place.size(name) for name in names}
    if missing := ", ".join([name for name, size in sizes.items() if size is None][:5]):
        raise HubError(
            f"{place.address} is incomplete: {missing} is not there. Try again in a minute, as it "
            "may be being published, or have it published with hdi.hub.publish."
        )
    return [size for size in sizes.values() if size is not None]


def _check_total(n_bytes: int, most: float, source: object, hint: str = "Raise max_bytes.") -> None:
    if n_bytes > most:
        raise HubError(f"{source} has {n_bytes:,} bytes, and {most:,} are accepted. {hint}")


def resolve_model(model: str | os.PathLike[str]) -> Path:
    """Return the folder of a model, which is fetched first where it is somewhere else.

    Parameters
    ----------
    model
        A folder, or else what :func:`download` takes: ``"pbmc"`` (the bundled model),
        ``"owner/name"``, ``"s3://bucket/path"`` or ``"file:///folder"``. A folder that is there is
        never looked for elsewhere, and a path that starts with ``/``, ``.`` or ``~``, like any
        `Path`, is a folder in any case.

    Returns
    -------
    A folder for :func:`load_model`; of what was fetched, the checksums are verified.

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
    is_path = isinstance(model, os.PathLike) or text.startswith((".", "~")) or folder.is_absolute()
    # Empty text, as of a shell variable that is not set, would mean the working directory.
    if is_path or (text and folder.is_dir()):
        return folder
    names = _address.bundled_folders()
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
        # A path that was mistyped looks like the name of a repository.
        raise type(error)(f"There is no folder {text!r}, so the hub was asked. {error}") from None


def load_model(model: Any, *, with_types: bool = False, **options: Any) -> Any:
    """Return a model, by its name, folder or address; a model itself is returned as it is.

    Parameters
    ----------
    model
        What :func:`resolve_model` takes, or a model.
    with_types
        Whether it has to be one that knows cell types.
    **options
        ``accelerator`` and ``device``, as in :func:`hdeepinsight.models.load_model`.

    Returns
    -------
    The model, without data, of the class that was saved.

    Raises
    ------
    TypeError
        If it is neither a model nor text or a path, or knows no cell types and has to.
    ValueError
        If the text is neither a folder nor an address.
    HubError
        If the model cannot be fetched.
    ModelFileError
        If the folder holds no model.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> model = hdi.hub.load_model("pbmc")
    >>> hdi.hub.load_model(model) is model
    True
    """
    if isinstance(model, str | os.PathLike):
        model = models.load_model(resolve_model(model), **options)
    kind = type(model).__name__
    if isinstance(model, type) or not hasattr(model, "module"):
        expected = "a trained model, or the name, folder or address of one"
        hint = "Pass the query first and the model second."
        raise TypeError(f"The model must be {expected}, got a {kind}. {hint}")
    if with_types and getattr(model, "taxonomy", None) is None:
        found = f"a {kind} that has learned without labels"
        hint = "Take what it offers, such as predict(), or train a classifier."
        raise TypeError(f"The model must know cell types, got {found}. {hint}")
    return model


def load_annotator(model: Any) -> Any:
    """Return what annotates, by the name, folder or address of a model; a model is returned as is.

    Annotating takes neither scvi-tools nor Lightning, which are not imported where a saved model is
    of a class that can do without them.

    Parameters
    ----------
    model
        As in :func:`load_model`; it has to know cell types.

    Returns
    -------
    An :class:`~hdeepinsight.models.Annotator`, or the model where there is none for its class.

    Raises
    ------
    TypeError, ValueError, HubError, ModelFileError
        As of :func:`load_model`.

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

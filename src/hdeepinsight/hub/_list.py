"""Which models there are: in the package, fetched before, and on the hub."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from hdeepinsight.hub import _settings
from hdeepinsight.hub._address import Address
from hdeepinsight.hub._bundled import bundled_folders
from hdeepinsight.hub._card_text import TAG
from hdeepinsight.hub._errors import HubError
from hdeepinsight.hub._hub_source import Token, explained, hub_api, hub_or_mirror
from hdeepinsight.hub._manifest import CARD_FILE, CHECKSUMS_FILE, digest_of
from hdeepinsight.hub._shelf import shelves

__all__ = ["list_models"]

Where = Literal["all", "bundled", "here", "hub"]

_COLUMNS = ["model", "where", "revision", "organism", "tissues", "n_types", "n_genes"]
_MOST_MODELS = 1000
_SECONDS_TO_ANSWER = 5.0
_LONGEST_HEADER = 64 * 2**10
_MOST_NESTING = 8


def list_models(
    search: str | None = None,
    *,
    where: Where = "all",
    token: Token = None,
) -> pd.DataFrame:
    """List the models that can be used.

    Parameters
    ----------
    search
        Text that the name has to contain.
    where
        ``"bundled"``: those that the package carries; ``"here"``: those fetched before; neither
        needs a connection. ``"hub"``: those of the hub or of ``HDEEPINSIGHT_MIRROR``; ``"all"``:
        all of them. With ``"all"`` a hub that does not answer is a warning.
    token
        Token of the hub, for private models.

    Returns
    -------
    One row a model: ``model`` (what to pull), ``where`` (``"bundled"``, ``"here"`` or ``"hub"``),
    ``revision``, ``organism``, ``tissues``, ``n_types``, ``n_genes``; text, empty where it is not
    known.

    Raises
    ------
    HubError
        With ``where="hub"``, if the hub cannot be asked.
    ValueError
        If ``where`` is none of these.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> hdi.hub.list_models("pbmc", where="bundled")["tissues"].tolist()
    ['blood']
    """
    if where not in get_args(Where):
        msg = f"where={where!r}; valid are {', '.join(map(repr, get_args(Where)))}. Choose one."
        raise ValueError(msg)
    rows = list(_bundled()) if where in ("all", "bundled") else []
    rows += _here() if where in ("all", "here") else ()
    if where == "hub" or (where == "all" and not _settings.is_offline()):
        try:
            rows += _on_hub(search, token, patient=where == "hub")
        except HubError as error:
            if where == "hub":
                raise
            warnings.warn(f"Only models that are here are listed. {error}", stacklevel=2)
    named = [row for row in rows if search is None or search.lower() in row["model"].lower()]
    return pd.DataFrame(named, columns=_COLUMNS)


def _bundled() -> Iterator[dict[str, str]]:
    for name, folder in bundled_folders().items():
        digest = digest_of((folder / CHECKSUMS_FILE).read_bytes())
        yield _row(name, "bundled", f"sha256:{digest}", _tags_of_card(folder / CARD_FILE))


def _here() -> Iterator[dict[str, str]]:
    for shelf in shelves():
        revision = shelf.revisions()[0]
        tags = _tags_of_card(shelf.revision(revision) / CARD_FILE)
        yield _row(str(shelf.address), "here", revision, tags)


def _on_hub(search: str | None, token: Token, *, patient: bool) -> list[dict[str, str]]:
    if _settings.is_offline():
        msg = (
            "Could not list the models of the hub: HF_HUB_OFFLINE is set. Unset it, or use "
            "where='here' for those that were fetched before."
        )
        raise HubError(msg)
    endpoint, token, instead = hub_or_mirror(token)
    if instead is not None:
        return list(_in_mirror(instead))
    with explained("list the models", endpoint, token):
        if not patient:
            _knock(endpoint)
        found = hub_api(endpoint, token).list_models(
            filter=TAG, search=search, limit=_MOST_MODELS, full=True
        )
        return [_row(info.id, "hub", info.sha or "", info.tags or ()) for info in found]


def _knock(endpoint: str) -> None:
    """Ask once: the client itself tries for half a minute before it says that nobody is there."""
    client = _settings.require("huggingface_hub.utils", "A Hugging Face hub")
    client.get_session().head(endpoint, timeout=_SECONDS_TO_ANSWER)


def _in_mirror(address: Address) -> Iterator[dict[str, str]]:
    if address.kind != "folder":
        return  # the models of a bucket have to be known by name
    for card in sorted(address.path.glob(f"*/*/{CARD_FILE}")):
        name = card.parent.relative_to(address.path).as_posix()
        yield _row(name, "hub", "", _tags_of_card(card))


def _tags_of_card(path: Path) -> Iterable[str]:
    """Tags in the header of a card; none where it cannot be read.

    Anchors and deep nesting are not read: a few bytes of them stand for more than any memory.
    """
    import yaml

    try:
        with path.open(encoding="utf-8") as file:
            header = file.read(_LONGEST_HEADER).split("---", 2)[1]
        depth = 0
        for event in yaml.parse(header):
            opens = isinstance(event, yaml.CollectionStartEvent)
            depth += opens - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > _MOST_NESTING:
                return ()
        tags = yaml.safe_load(header)["tags"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
        return ()
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else ()


def _row(model: str, where: str, revision: str, tags: Iterable[str]) -> dict[str, str]:
    values: dict[str, list[str]] = {}
    for tag in tags:
        key, _, value = tag.partition(":")
        values.setdefault(key, []).append(value)

    def said(key: str) -> Any:
        return ", ".join(values.get(key, []))

    return {
        "model": model,
        "where": where,
        "revision": revision,
        "organism": said("organism"),
        "tissues": said("tissue"),
        "n_types": said("n_types"),
        "n_genes": said("n_genes"),
    }

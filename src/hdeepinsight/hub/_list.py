"""Which models there are: in the package, fetched before, and on the hub."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Literal, get_args
from urllib.parse import unquote

import pandas as pd

from hdeepinsight._errors import check_choice, need_extra
from hdeepinsight.hub._address import CARD_FILE, bundled_folders, cache_folder, is_offline
from hdeepinsight.hub._checksums import read_text_file
from hdeepinsight.hub._errors import HubError, OfflineError, explained
from hdeepinsight.hub._places import Token, hub_api, resolve_mirror
from hdeepinsight.hub._pull import SharedModel, newest, revision_folder

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
    if where in ("all", "bundled"):
        for name, folder in bundled_folders().items():
            digest = SharedModel(name, "", folder).digest
            rows.append(_row(name, "bundled", digest, read_tags(folder)))
    if where in ("all", "here"):
        for cache in sorted((cache_folder() / "models").glob("*")):
            if revision := newest(cache):
                tags = read_tags(revision_folder(cache, revision))
                rows.append(_row(unquote(cache.name), "here", revision, tags))
    if where == "hub" or (where == "all" and not is_offline()):
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
    if is_offline():
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

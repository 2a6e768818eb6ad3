"""Share a model: its file, its card, its checksums, and features of its reference."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hdeepinsight.hub._address import Address
from hdeepinsight.hub._card import ModelCard
from hdeepinsight.hub._card_text import RELIABILITY_FILE, card_text
from hdeepinsight.hub._facts import draw_reliability, facts_of
from hdeepinsight.hub._hub_source import Token
from hdeepinsight.hub._manifest import (
    CARD_FILE,
    CHECKSUMS_FILE,
    METADATA_FILE,
    digest_of,
    write_checksums,
)
from hdeepinsight.hub._reference import REFERENCE_FILE, ReferenceBundle
from hdeepinsight.hub._targets import check_target, upload

if TYPE_CHECKING:
    from anndata import AnnData

    from hdeepinsight.models import SCHDeepInsight

__all__ = ["Published", "publish"]

ReferenceOption = Literal["features", "none"]


@dataclass(frozen=True)
class Published:
    """Where a model was published.

    Parameters
    ----------
    address
        What to give to :func:`pull`.
    revision
        What to give to it to get exactly this again.
    digest
        ``"sha256:..."`` over all files, the same wherever they are.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import hdeepinsight as hdi
    >>> model = hdi.hub.pull("pbmc")
    >>> card = {"title": "PBMC", "license": "cc-by-4.0", "organism": "human", "tissues": ["blood"]}
    >>> with TemporaryDirectory() as folder:
    ...     published = hdi.hub.publish(model, f"{folder}/pbmc", card=card, reference="none")
    >>> published.digest == published.revision
    True
    """

    address: str
    revision: str
    digest: str


def publish(
    model: SCHDeepInsight,
    repo_or_dir: str | os.PathLike[str],
    *,
    card: ModelCard | Mapping[str, Any],
    reference: ReferenceOption | ReferenceBundle = "features",
    scored_on: Mapping[str, AnnData] | None = None,
    revision: str | None = None,
    token: Token = None,
    private: bool = False,
    overwrite: bool = False,
    message: str = "Publish a model of hdeepinsight",
) -> Published:
    """Share a trained model.

    Parameters
    ----------
    model
        Trained model. With its reference attached, the card shows cells per type and scores of
        the held-out cells.
    repo_or_dir
        ``"owner/name"`` on a Hugging Face hub, ``"s3://bucket/path"``, ``"file:///folder"`` or a
        folder.
    card
        What only you know: a :class:`ModelCard`, or its fields.
    reference
        ``"features"`` publishes features and labels of at most 200 cells of each label, where the
        reference is attached; ``"none"`` publishes none; or a :class:`ReferenceBundle` of your
        own. Counts, names of cells and other columns are never published.
    scored_on
        Labelled data that the model has not seen, by name, for the card.
    revision
        Branch of a hub; it is made where it does not exist. ``main`` by default.
    token
        Token of the hub with the right to write; by default ``HF_TOKEN``, or the one that
        ``hf auth login`` stored. It is never written anywhere.
    private
        Make a new repository private.
    overwrite
        Replace a model in a bucket or folder. A hub keeps the old one as an earlier commit.
    message
        Message of the commit.

    Returns
    -------
    Address, revision and digest.

    Raises
    ------
    HubError
        If it cannot be published; the text says why, and what to do.
    ValueError
        If the card lacks something, the model is not trained, or the bundle is of another tree.
    TypeError
        If ``scored_on`` is no mapping.

    Notes
    -----
    What is published is what :class:`scvi.hub.HubModel` reads, unchanged: ``model.pt``,
    ``_scvi_required_metadata.json``, ``README.md``, and an ``adata.h5ad`` without counts, without
    which that class refuses to load a model. A server that does not know Xet, the newer way of
    sending files to a hub, needs ``HF_HUB_DISABLE_XET=1``.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import hdeepinsight as hdi
    >>> model = hdi.hub.pull("pbmc")
    >>> card = {"title": "PBMC", "license": "cc-by-4.0", "organism": "human", "tissues": ["blood"]}
    >>> with TemporaryDirectory() as folder:
    ...     published = hdi.hub.publish(model, f"{folder}/pbmc", card=card, reference="none")
    ...     hdi.hub.pull(published.address).taxonomy == model.taxonomy
    True
    >>> hdi.hub.publish(model, "atlas/pbmc", card=card)  # doctest: +SKIP
    """
    address, card = Address.parse(repo_or_dir), ModelCard.of(card)
    if not model.is_trained_:
        msg = "The model is not trained, so it would label at random. Train it before sharing it."
        raise ValueError(msg)
    if revision is not None and address.kind != "hub":
        msg = (
            f"revision={revision!r} was given for {address}, which has no branches. Valid is a "
            "hub. Publish to a folder inside instead, such as .../v1."
        )
        raise ValueError(msg)
    _check_scored_on(scored_on)
    check_target(address, overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix="hdeepinsight-") as name:
        folder = Path(name)
        model.save(folder, overwrite=True)
        _bundle(model, reference).write(folder / REFERENCE_FILE)
        digest = _describe(model, folder, card, scored_on or {}, address)
        found = upload(
            folder,
            address,
            digest,
            revision=revision,
            token=token,
            private=private,
            overwrite=overwrite,
            message=message,
        )
    return Published(str(address), found, f"sha256:{digest}")


def _check_scored_on(scored_on: object) -> None:
    if scored_on is not None and not isinstance(scored_on, Mapping):
        msg = (
            f"scored_on is a {type(scored_on).__name__}. Valid is labelled data by the name that "
            "the card is to call it. Pass scored_on={'donor 9': adata}."
        )
        raise TypeError(msg)


def _bundle(model: SCHDeepInsight, reference: ReferenceOption | ReferenceBundle) -> ReferenceBundle:
    if isinstance(reference, ReferenceBundle):
        if reference.taxonomy != model.taxonomy:
            msg = (
                "The reference bundle has another taxonomy than the model, so its nodes would be "
                "taken for others. Valid is a bundle of this model. Make one with "
                "ReferenceBundle.from_model(model, adata)."
            )
            raise ValueError(msg)
        return reference
    if reference not in ("features", "none"):
        msg = (
            f"reference={reference!r}; valid are 'features', 'none' or a ReferenceBundle. Use "
            "ReferenceBundle.from_model(model, adata) for a reference that is not attached."
        )
        raise ValueError(msg)
    if reference == "none" or model.adata is None:
        return ReferenceBundle.empty(model)
    return ReferenceBundle.from_model(model)


def _describe(
    model: SCHDeepInsight,
    folder: Path,
    card: ModelCard,
    scored_on: Mapping[str, AnnData],
    address: Address,
) -> str:
    """Write everything that says what the model is; return the digest of all files."""
    facts = facts_of(model, scored_on)
    if facts.scored and len(facts.scored[0].confidence):
        draw_reliability(facts.scored[0], folder / RELIABILITY_FILE)
    (folder / METADATA_FILE).write_text(json.dumps(_metadata(model), indent=4), encoding="utf-8")
    listed = write_checksums(folder)
    # The path of a folder on this machine means nothing to others.
    shown = f"./{address.path.name}" if address.kind == "folder" else str(address)
    text = card_text(card, facts, listed, address=shown)
    (folder / CARD_FILE).write_text(text, encoding="utf-8")
    return digest_of((folder / CHECKSUMS_FILE).read_bytes())


def _metadata(model: SCHDeepInsight) -> dict[str, str | None]:
    """Fields of ``scvi.hub.HubMetadata``, which takes these and no others."""
    return {
        "scvi_version": str(model.registry_.get("scvi_version", version("scvi-tools"))),
        "anndata_version": version("anndata"),
        "model_cls_name": type(model).__name__,
        "training_data_url": None,
        "model_parent_module": "hdeepinsight",
    }

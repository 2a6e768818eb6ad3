"""Publish models with a card and checksums."""

from __future__ import annotations

import html
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

from hdeepinsight._errors import invalid, refuse_unused
from hdeepinsight._io import sha256
from hdeepinsight._keys import REFERENCE_BUNDLE_KEY
from hdeepinsight.hub._address import CARD_FILE, CHECKSUMS_FILE, Address
from hdeepinsight.hub._checksums import write_checksums
from hdeepinsight.hub._places import Token, check_target, put_in_bucket, put_in_folder, put_on_hub

_LISTS = ("tissues", "technologies", "datasets")
_REQUIRED = ("title", "license", "organism", "tissues")
#: Licence identifiers of the hub; others are published as "other" with their name.
_KNOWN_LICENSES = re.compile(
    r"apache-2\.0|mit|bsd|bsd-[23]-clause|cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[34]\.0|a?gpl-3\.0|"
    r"gpl-2\.0|lgpl-3\.0|mpl-2\.0|odc-by|odbl|pddl|unlicense|other"
)
_ENSEMBL = re.compile(r"ENS[A-Z]{0,6}G\d{11}(\.\d+)?")


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """Publisher's information for a model card.

    :func:`~hdeepinsight.hub.publish` adds the taxonomy, numbers of cells per type, recipe, scores,
    genes and checksums. Texts are Markdown, in which HTML is escaped.

    Parameters
    ----------
    title
        Name of the model.
    license
        Licence of the model, preferably an SPDX identifier (``"cc-by-4.0"``). It must be compatible
        with the licences of the data.
    organism
        Species, such as ``"human"``.
    tissues
        Tissues of the reference.
    technologies
        Protocols of the reference, such as ``"10x 3' v3"``.
    description
        Short description of the reference.
    intended_use
        Intended use of the model, and unsuitable uses.
    limitations
        Known limitations.
    datasets
        Datasets of the reference, with accession, licence and citation.
    citation
        Citation of the model; BibTeX or plain text.
    contact
        Contact address.

    Raises
    ------
    ValueError
        If title, licence, organism or tissues are missing, or a field is not text.

    Examples
    --------
    >>> card = ModelCard(title="PBMC", license="cc-by-4.0", organism="human", tissues=["blood"])
    >>> card.tissues
    ('blood',)
    """

    title: str
    license: str
    organism: str
    tissues: tuple[str, ...]
    technologies: tuple[str, ...] = ()
    description: str = ""
    intended_use: str = ""
    limitations: str = ""
    datasets: tuple[str, ...] = ()
    citation: str = ""
    contact: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            value: Any = getattr(self, field.name)
            if field.name in _LISTS:
                several = isinstance(value, Iterable) and not isinstance(value, str)
                texts = value if several else (value,)
                value = tuple(str(text) for text in texts if text and str(text).strip())
            elif value is None or isinstance(value, str):
                value = (value or "").strip()
            else:
                raise invalid(field.name, value, "text", "Put it in quotes.")
            object.__setattr__(self, field.name, value)
        if lacking := ", ".join(name for name in _REQUIRED if not getattr(self, name)):
            raise ValueError(f"The card must have {', '.join(_REQUIRED)}, but lacks {lacking}.")

    @classmethod
    def of(cls, card: ModelCard | Mapping[str, Any]) -> ModelCard:
        """Convert a mapping of fields to a card; cards are returned unchanged.

        Raises
        ------
        ValueError
            If the value is neither a card nor a mapping of its fields, or a required field is
            missing.

        Examples
        --------
        >>> from hdeepinsight.hub import ModelCard
        >>> fields = {
        ...     "title": "PBMC",
        ...     "license": "cc-by-4.0",
        ...     "organism": "human",
        ...     "tissues": "blood",
        ... }
        >>> ModelCard.of(fields).tissues
        ('blood',)
        """
        if isinstance(card, ModelCard):
            return card
        known = ", ".join(field.name for field in fields(cls))
        if not isinstance(card, Mapping):
            raise invalid("card", type(card).__name__, f"a ModelCard or a mapping with {known}")
        if unknown := [name for name in card if name not in known.split(", ")]:
            raise invalid("card", unknown, f"a mapping with {known}", "Use description for text.")
        return cls(**(dict.fromkeys(_REQUIRED, "") | dict(card)))


def card_text(
    card: ModelCard, model: Any, labelled: Mapping[str, Any], digests: dict[str, str], address: str
) -> str:
    """Return the card as Markdown, with the metadata header of the hub.

    Parameters
    ----------
    card
        Publisher's information.
    model
        Trained model. If its reference is attached, the card has numbers of cells per type and
        scores of the held-out cells.
    labelled
        Further labelled data to score, by name.
    digests
        SHA-256 of the files, by name.
    address
        Address from which the model can be pulled.

    Raises
    ------
    ValueError
        If the attached reference is not the one that the model was trained on.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    taxonomy, own = getattr(model, "taxonomy", None), model.adata
    n_cells, scored = None, {}
    if taxonomy is not None and own is not None:
        n_found = len(model.train_indices_) + len(model.validation_indices_)
        if n_found != (n_trained := model.recipe.get("n_cells", n_found)):
            msg = f"The attached reference must have the {n_trained:,} cells that the model was"
            hint = "Attach that one, or load the model with adata=False."
            raise ValueError(f"{msg} trained on, got {n_found:,} of them. {hint}")
        if model.held_out_ is not None and len(model.held_out_):
            scored["held-out cells of the reference"] = model.evaluate()
        n_cells = np.bincount(model.label_nodes(own), minlength=taxonomy.n_nodes)
    if taxonomy is not None:
        scored |= {name: model.evaluate(adata) for name, adata in labelled.items()}
    environment = Environment(
        loader=PackageLoader("hdeepinsight.hub", ""), undefined=StrictUndefined, trim_blocks=True
    )
    # All texts of users and data are escaped by these filters.
    environment.filters.update(cell=as_cell, fenced=as_fenced, line=_line, markdown=as_markdown)
    environment.filters.update(number=_number, quoted=_quoted)
    environment.tests.update(ensembl=_ENSEMBL.fullmatch, known=_KNOWN_LICENSES.fullmatch)
    environment.globals.update(version=version, digests=digests, address=address, card=card)
    template = environment.get_template("card.md.j2")
    return template.render(model=model, taxonomy=taxonomy, n_cells=n_cells, scored=scored) + "\n"


def _number(value: Any) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}"


def _line(text: object) -> str:
    return " ".join(str(text).split())


def _quoted(text: object) -> str:
    return json.dumps(_line(text), ensure_ascii=False)  # JSON is YAML


def as_markdown(text: str) -> str:
    """Escape HTML in a Markdown text."""
    return html.escape(text.strip(), quote=False)


def as_cell(text: object) -> str:
    """Escape a text for a cell of a Markdown table."""
    return html.escape(_line(text), quote=False).replace("|", "\\|")


def as_fenced(text: str, language: str = "text") -> str:
    """Return a code block whose fence is longer than any in the text."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.strip()}\n{fence}"


@dataclass(frozen=True)
class Published:
    """Address and revision of a published model.

    Parameters
    ----------
    address
        Address for :func:`pull`.
    revision
        Revision for :func:`pull`, which pins exactly this model.
    digest
        ``"sha256:..."`` over all files, independent of the address.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import hdeepinsight as hdi
    >>> model = hdi.hub.pull("pbmc")
    >>> card = {"title": "PBMC", "license": "cc-by-4.0", "organism": "human", "tissues": ["blood"]}
    >>> with TemporaryDirectory() as folder:
    ...     published = hdi.hub.publish(model, f"{folder}/pbmc", card=card)
    >>> published.digest == published.revision
    True
    """

    address: str
    revision: str
    digest: str


def publish(
    model: Any,
    repo_or_dir: str | os.PathLike[str],
    *,
    card: ModelCard | Mapping[str, Any],
    scored_on: Mapping[str, AnnData] | None = None,
    revision: str | None = None,
    token: Token = None,
    private: bool = False,
    overwrite: bool = False,
    message: str = "Publish a model of hdeepinsight",
) -> Published:
    """Publish a trained model.

    Parameters
    ----------
    model
        Trained model of any class of this package, adapted or not. If its reference is attached,
        the card has numbers of cells per type and scores of the held-out cells.
    repo_or_dir
        ``"owner/name"`` on a Hugging Face hub, ``"s3://bucket/path"``, ``"file:///folder"`` or a
        folder.
    card
        A :class:`ModelCard`, or its fields.
    scored_on
        Labelled data that was not used for training, by name, to report scores on the card.
    revision
        Branch of the repository, created if necessary; ``main`` by default.
    token
        Token of the hub with write access; by default ``HF_TOKEN``, or the one stored by
        ``hf auth login``. It is never stored or logged.
    private
        Create a new repository as private; an existing one must be private. By default the
        settings of the owner decide.
    overwrite
        Replace a model in a bucket or folder. Hubs keep earlier models as commits.
    message
        Commit message.

    Returns
    -------
    Address, revision and digest.

    Raises
    ------
    HubError
        If the model cannot be published, or the repository is public and ``private`` is set.
    ValueError
        If the card is incomplete, ``private`` or ``revision`` is set for a bucket or folder, the
        model is not trained, the attached reference is not the one that it was trained on, or
        ``scored_on`` is not a mapping.

    Notes
    -----
    The files can be loaded with :class:`scvi.hub.HubModel`: ``model.pt``,
    ``_scvi_required_metadata.json``, ``README.md``, and an ``adata.h5ad`` without cells, which
    that class requires. Servers without support for Xet uploads need ``HF_HUB_DISABLE_XET=1``.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import hdeepinsight as hdi
    >>> model = hdi.hub.pull("pbmc")
    >>> card = {"title": "PBMC", "license": "cc-by-4.0", "organism": "human", "tissues": ["blood"]}
    >>> with TemporaryDirectory() as folder:
    ...     published = hdi.hub.publish(model, f"{folder}/pbmc", card=card)
    ...     hdi.hub.pull(published.address).taxonomy == model.taxonomy
    True
    >>> hdi.hub.publish(model, "atlas/pbmc", card=card)  # doctest: +SKIP
    """
    address, card = Address.parse(repo_or_dir), ModelCard.of(card)
    if not hasattr(model, "is_trained_"):
        hint = "Load a saved model with hdi.hub.load_model(folder)."
        raise invalid("model", model, "a model", hint)
    if not model.is_trained_:
        raise ValueError("The model is not trained: its weights are random. Train it first.")
    if revision is not None and address.kind != "hub":
        raise invalid("revision", revision, "omitted", f"{address} has no branches; use .../v1.")
    if private and address.kind != "hub":
        raise invalid("private", private, "omitted", f"Set the access of {address} there.")
    if not isinstance(scored_on or {}, Mapping):
        raise invalid("scored_on", type(scored_on).__name__, "a mapping like {'donor 9': adata}")
    unused = scored_on and getattr(model, "taxonomy", None) is None
    refuse_unused({"scored_on": unused}, "for a model without cell types")
    check_target(address, overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix="hdeepinsight-") as name:
        folder = Path(name)
        model.save(folder, overwrite=True)
        AnnData(uns={REFERENCE_BUNDLE_KEY: {}}).write_h5ad(folder / "adata.h5ad")
        metadata = {  # exactly the fields of scvi.hub.HubMetadata
            "scvi_version": str(model.registry_.get("scvi_version", version("scvi-tools"))),
            "anndata_version": version("anndata"),
            "model_cls_name": type(model).__name__,
            "training_data_url": None,
            "model_parent_module": "hdeepinsight",
        }
        (folder / "_scvi_required_metadata.json").write_text(json.dumps(metadata, indent=4))
        # The absolute path of a local folder is not published.
        shown = f"./{Path(address.place).name}" if address.kind == "folder" else str(address)
        text = card_text(card, model, scored_on or {}, write_checksums(folder), shown)
        (folder / CARD_FILE).write_text(text, encoding="utf-8")
        found = digest = f"sha256:{sha256(folder / CHECKSUMS_FILE)}"
        if address.kind == "hub":
            found = put_on_hub(folder, address, revision, token, private, message)
        elif address.kind == "s3":
            put_in_bucket(folder, address, overwrite)
        else:
            put_in_folder(folder, Path(address.place))
    return Published(str(address), found, digest)

"""Share a model: its file, its card, its checksums, and features of its reference."""

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
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from anndata import AnnData, read_h5ad

from hdeepinsight._errors import check_integer, invalid
from hdeepinsight._io import sha256
from hdeepinsight._keys import REFERENCE_BUNDLE_KEY
from hdeepinsight.data import check_file
from hdeepinsight.hub._address import CARD_FILE, CHECKSUMS_FILE, Address
from hdeepinsight.hub._checksums import write_checksums
from hdeepinsight.hub._errors import HubError
from hdeepinsight.hub._places import Token, check_target, put_in_bucket, put_in_folder, put_on_hub

_LISTS = ("tissues", "technologies", "datasets")
_REQUIRED = ("title", "license", "organism", "tissues")
#: Licences that a hub knows by these names; any other one is "other", with its name beside it.
_KNOWN_LICENSES = re.compile(
    r"apache-2\.0|mit|bsd|bsd-[23]-clause|cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[34]\.0|a?gpl-3\.0|"
    r"gpl-2\.0|lgpl-3\.0|mpl-2\.0|odc-by|odbl|pddl|unlicense|other"
)
_ENSEMBL = re.compile(r"ENS[A-Z]{0,6}G\d{11}(\.\d+)?")


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a model card says beyond what the model itself knows.

    Taxonomy, cells of every type, recipe, scores, genes and checksums are added by
    :func:`~hdeepinsight.hub.publish`. Texts are Markdown; HTML in them is shown, not rendered.

    Parameters
    ----------
    title
        Name of the model.
    license
        Licence under which the model is shared, best as its SPDX identifier (``"cc-by-4.0"``). It
        has to agree with the licences of the data.
    organism
        Species, such as ``"human"``.
    tissues
        Tissues of the reference.
    technologies
        Protocols of the reference, such as ``"10x 3' v3"``.
    description
        A few sentences on the reference and what is special about it.
    intended_use
        What the model is made for, and what it should not be used for.
    limitations
        What is known to go wrong.
    datasets
        Datasets of the reference, with accession, licence and citation.
    citation
        How to cite the model; BibTeX or plain text.
    contact
        Whom to write to.

    Raises
    ------
    ValueError
        If title, licence, organism or tissues are missing, or a text is something else.

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
            raise ValueError(f"The card says nothing about {lacking}, which others need. Add it.")

    @classmethod
    def of(cls, card: ModelCard | Mapping[str, Any]) -> ModelCard:
        """Return the card itself, or make one of its fields.

        Raises
        ------
        ValueError
            If it is neither a card nor a mapping of its fields, or a required one is missing.

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
    """Write the card as Markdown, with the header that hubs read.

    Parameters
    ----------
    card
        What the publisher says.
    model
        Trained model, which is asked for what it knows; with its reference attached there are cells
        per type and scores of the held-out cells.
    labelled
        Further labelled data to score, by name.
    digests
        SHA-256 of every file, by name.
    address
        Where the model can be pulled from.

    Raises
    ------
    ValueError
        If the attached reference is not the one that the model was trained on.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    taxonomy, own = getattr(model, "taxonomy", None), model.adata
    n_cells, scored = None, {}
    if taxonomy is not None and own is not None:
        held_out = model.validation_indices_
        if held_out is not None and len(held_out):
            scored["held-out cells of the reference"] = model.evaluate()
        n_cells = np.bincount(model.label_nodes(own), minlength=taxonomy.n_nodes)
    if taxonomy is not None:
        scored |= {name: model.evaluate(adata) for name, adata in labelled.items()}
    environment = Environment(
        loader=PackageLoader("hdeepinsight.hub", ""), undefined=StrictUndefined, trim_blocks=True
    )
    # Markdown: all that is not ours passes one of these filters.
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
    """Return the publisher's Markdown, in which HTML is shown instead of rendered."""
    return html.escape(text.strip(), quote=False)


def as_cell(text: object) -> str:
    """Return text that stays inside one cell of a table."""
    return html.escape(_line(text), quote=False).replace("|", "\\|")


def as_fenced(text: str, language: str = "text") -> str:
    """Return a block of code that nothing in the text can close."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.strip()}\n{fence}"


#: scvi-tools' hub fetches a file of this name with the model, and wants one to load the model.
REFERENCE_FILE: Final = "adata.h5ad"
_LATENT: Final = "X_hdi_latent"
_SCHEMA_VERSION: Final = 2


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
    model: Any,
    repo_or_dir: str | os.PathLike[str],
    *,
    card: ModelCard | Mapping[str, Any],
    reference: Literal["features", "none"] | AnnData = "features",
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
        Trained model of any class of this package, adapted or not. With its reference attached,
        the card shows cells per type and scores of the held-out cells.
    repo_or_dir
        ``"owner/name"`` on a Hugging Face hub, ``"s3://bucket/path"``, ``"file:///folder"`` or a
        folder.
    card
        What only you know: a :class:`ModelCard`, or its fields.
    reference
        ``"features"`` publishes features and labels of at most 200 cells of each label, where the
        reference is attached; ``"none"`` publishes none; or what :func:`reference_features`
        returned. Counts, names of cells and other columns are never published.
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
        If the card lacks something, the model is not trained, the attached reference is not the
        one that it was trained on, the features are of another model, or ``scored_on`` is not a
        mapping.

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
    if not hasattr(model, "is_trained_"):
        hint = "Load it first: hdi.hub.load_model takes its folder."
        raise invalid("model", model, "a model", hint)
    if not model.is_trained_:
        raise ValueError("The model is not trained: it would label at random. Train it first.")
    if revision is not None and address.kind != "hub":
        raise invalid("revision", revision, "omitted", f"{address} has no branches; use .../v1.")
    if not isinstance(scored_on or {}, Mapping):
        raise invalid("scored_on", type(scored_on).__name__, "a mapping as {'donor 9': adata}")
    check_target(address, overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix="hdeepinsight-") as name:
        folder = Path(name)
        model.save(folder, overwrite=True)
        _features(model, reference).write_h5ad(folder / REFERENCE_FILE, compression="gzip")
        metadata = {  # the fields of scvi.hub.HubMetadata, which takes these and no others
            "scvi_version": str(model.registry_.get("scvi_version", version("scvi-tools"))),
            "anndata_version": version("anndata"),
            "model_cls_name": type(model).__name__,
            "training_data_url": None,
            "model_parent_module": "hdeepinsight",
        }
        (folder / "_scvi_required_metadata.json").write_text(json.dumps(metadata, indent=4))
        # The path of a folder on this machine means nothing to others.
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


def _features(model: Any, reference: Any) -> AnnData:
    """Return what `publish` writes as `REFERENCE_FILE`."""
    if isinstance(reference, str) and reference in ("features", "none"):
        has_reference = model.adata is not None and getattr(model, "taxonomy", None) is not None
        n_cells = 200 if reference == "features" and has_reference else 0
        return reference_features(model, max_cells_per_type=n_cells)
    about = getattr(reference, "uns", {}).get(REFERENCE_BUNDLE_KEY, {})
    if about.get("taxonomy") != model.taxonomy.to_json():
        valid = "'features', 'none' or what reference_features(model, adata) returned"
        found = reference if isinstance(reference, str) else type(reference).__name__
        raise invalid("reference", found, valid)
    return reference


def reference_features(
    model: Any, adata: AnnData | None = None, *, max_cells_per_type: int = 200, seed: int = 0
) -> AnnData:
    """Return features and labels of reference cells; no counts, no names of cells, no donors.

    Parameters
    ----------
    model
        Trained model.
    adata
        Reference with counts and the label columns of the model; by default the attached one.
    max_cells_per_type
        Most cells of each label; they are drawn at random. With 0, no reference is needed.
    seed
        Seed of the draw.

    Returns
    -------
    AnnData without ``X``: ``obs["label"]``, the path of every cell's label such as ``"T > CD4 T"``,
    and ``obs["node"]``, its node in the model's taxonomy; ``obsm["X_hdi_latent"]``, features of the
    network, shape ``(n_cells, n_latent)``, float16; in ``uns["hdeepinsight_reference"]`` the
    ``taxonomy`` as JSON and ``n_reference``, the cells of the whole reference labelled exactly at
    each node, shape ``(n_nodes,)``.

    Raises
    ------
    ValueError
        If ``max_cells_per_type`` is not an integer of at least 0, or there is no reference.

    Notes
    -----
    Features are not anonymous in a strict sense: they are a summary of a cell's expression. What
    they do not hold is counts, genotypes that could be called from reads, cell barcodes, or any
    other column of ``obs``.

    Examples
    --------
    Cells of which the bundled model itself says what they are:

    >>> import warnings
    >>> import hdeepinsight as hdi
    >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
    >>> model, cells = hdi.hub.pull("pbmc"), hdi.datasets.demo().query[:10].copy()
    >>> cells.obs["label"] = model.annotate(cells, reject="off").labels["stop_label"]
    >>> features = hdi.hub.reference_features(model, cells, max_cells_per_type=1)
    >>> features.n_obs == cells.obs["label"].nunique()
    True
    """
    check_integer("max_cells_per_type", max_cells_per_type, 0)
    adata = model.adata if adata is None else adata
    taxonomy: Any = getattr(model, "taxonomy", None)
    n_nodes = 0 if taxonomy is None else taxonomy.n_nodes
    nodes, latent = np.zeros(0, dtype=np.int64), np.zeros((0, 0))
    counts = np.zeros(n_nodes, dtype=np.int64)
    if max_cells_per_type:
        if adata is None:
            raise ValueError("The model has no reference to take features from. Pass one as adata.")
        nodes = model.label_nodes(adata)
        counts = np.bincount(nodes, minlength=n_nodes)
        order = np.random.default_rng(seed).permutation(np.flatnonzero(nodes))
        rank = pd.Series(order).groupby(nodes[order]).cumcount().to_numpy()
        rows = np.sort(order[rank < max_cells_per_type])
        nodes, latent = nodes[rows], model.get_latent_representation(adata[rows])
    labels = pd.Categorical([taxonomy.path_name(int(node)) for node in nodes])
    names = [f"reference_{i}" for i in range(len(nodes))]
    obs = pd.DataFrame({"node": nodes, "label": labels}, index=names)
    tree = "" if taxonomy is None else taxonomy.to_json()
    about = {"schema_version": _SCHEMA_VERSION, "taxonomy": tree, "n_reference": counts}
    features = {_LATENT: latent.astype(np.float16)}
    return AnnData(obs=obs, obsm=features, uns={REFERENCE_BUNDLE_KEY: about})


def read_features(path: Path) -> AnnData:
    """Read features of a reference that `publish` wrote.

    Raises
    ------
    HubError
        If it is something else.
    """
    try:
        check_file(path)
        features = read_h5ad(path)
        about = features.uns[REFERENCE_BUNDLE_KEY]
        if int(about["schema_version"]) > _SCHEMA_VERSION:
            raise ValueError("it is of a later release: update hdeepinsight")
        is_ours = features.obs["node"].max() < len(about["n_reference"]) or not features.n_obs
        if not (is_ours and np.isfinite(features.obsm[_LATENT]).all()):
            raise ValueError("features that are not finite, or nodes of another tree")
    except Exception as error:  # noqa: BLE001 what the libraries raise about odd files is open
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        how = "Pull the model again; if it stays so, tell whoever published it."
        raise HubError(f"{path} does not hold features of a reference ({said}). {how}") from None
    return features

"""Model cards: content, and escaped texts."""

import hashlib
import re

import anndata as ad
import pytest
import yaml

import hdeepinsight as hdi
from hdeepinsight.hub import ModelCard

HELD_OUT = "held-out cells of the reference"


@pytest.fixture(scope="module")
def text(published_folder):
    return (published_folder / "README.md").read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_header(text):
    header = yaml.safe_load(text.split("---")[1])
    assert header["license"] == "cc-by-4.0"
    assert header["library_name"] == "scvi-tools"
    tags = set(header["tags"])
    assert tags >= {
        "hdeepinsight",
        "model_cls_name:SCHDeepInsight",
        "tissue:blood",
        "tissue:bone marrow",
        "organism:human",
        "n_types:7",
        "annotated:True",
        "modality:rna",
    }


def test_taxonomy_has_the_cells_of_every_type(text, shared_model):
    counts = shared_model.adata.obs["cell_type"].value_counts()
    tree = section(text, "Taxonomy")
    for name, n_cells in counts.items():
        assert f"{name} ({n_cells})" in tree
    assert "root (300)" in tree


def test_evaluation_is_that_of_the_held_out_cells(text, shared_model, published_folder):
    levels = shared_model.evaluate().levels
    table = section(text, "Evaluation")
    assert HELD_OUT in table
    for level in ("lineage", "cell_type"):
        row = next(line for line in table.splitlines() if line.startswith(f"| {level} "))
        assert f"{levels.loc[level, 'accuracy']:.3f}" in row
        assert f"{levels.loc[level, 'ece']:.3f}" in row


def test_checksums_are_those_of_the_files(text, published_folder):
    listed = dict(
        reversed(line.split("  ")) for line in section(text, "Checksums").splitlines()
        if re.match(r"[0-9a-f]{64}  ", line)
    )  # fmt: skip
    assert set(listed) == {path.name for path in published_folder.iterdir()} - {
        "README.md",
        "checksums.sha256",
    }
    for name, digest in listed.items():
        assert hashlib.sha256((published_folder / name).read_bytes()).hexdigest() == digest


def test_local_path_is_not_in_the_card(text, published_folder):
    assert 'hdi.hub.pull("./blood")' in text
    assert str(published_folder.parent) not in text


def test_recipe_genes_and_missing_fields(text, shared_model):
    recipe = section(text, "Recipe")
    for name in ("seed", "max_epochs", "torch", "scvi-tools"):
        assert f"| {name} | {shared_model.recipe[name]} |" in recipe
    assert "120 genes (0 Ensembl identifiers, 120 symbols)" in section(text, "Genes")
    assert "Not stated by the publisher." in section(text, "Intended use")


def test_further_scores_and_models_without_a_reference(published_folder, synthetic_hierarchy, home):
    unseen = synthetic_hierarchy[300:]
    loaded = hdi.hub.pull(published_folder)
    card = ModelCard(title="x", license="our own", organism="human", tissues="blood")
    hdi.hub.publish(loaded, home / "x", card=card, scored_on={"another donor": unseen})
    text = (home / "x" / "README.md").read_text(encoding="utf-8")
    assert "### another donor" in text
    assert f"{loaded.evaluate(unseen).levels.loc['cell_type', 'accuracy']:.3f}" in text
    assert HELD_OUT not in text
    assert "B memory\n" in section(text, "Taxonomy"), "no counts without a reference"
    header = yaml.safe_load(text.split("---")[1])
    assert (header["license"], header["license_name"]) == ("other", "our own")
    hdi.hub.publish(loaded, home / "bare", card=card)
    bare = (home / "bare" / "README.md").read_text(encoding="utf-8")
    assert "No scores" in section(bare, "Evaluation")


def test_card_texts_are_escaped(published_folder, home, monkeypatch):
    evil = '<script>alert("x")</script>'
    card = ModelCard(
        title=f"T {evil}\n# second",
        license=f"mit {evil}",
        organism=f"human | {evil}",
        tissues=[evil, "a\nb", 'a "b" \\ \u00e9 \U0001f9eb'],
        description=evil,
        intended_use=evil,
        citation=f"```\n{evil}",
        datasets=[evil],
        contact=evil,
    )
    model = hdi.hub.pull(published_folder)
    model.recipe[evil] = f"``` | {evil}"
    hdi.hub.publish(model, home / "```", card=card)
    text = (home / "```" / "README.md").read_text(encoding="utf-8")
    header, body = text.split("---", 2)[1:]
    tags = yaml.safe_load(header)["tags"]
    for tissue in (evil, "a b", 'a "b" \\ \u00e9 \U0001f9eb'):
        assert f"tissue:{tissue}" in tags
    citation = section(text, "How to cite").strip()
    assert citation.startswith("````text")
    assert citation.endswith("\n````")
    assert "<script>" not in body.replace(citation, "")
    assert "````python\nimport hdeepinsight as hdi" in body, "the folder's name closes no block"


class Unsupervised:
    """What a model without labels has to offer."""

    adata, is_trained_, registry_ = None, True, {}
    recipe, module = {"seed": 3}, None

    def save(self, folder, *, overwrite):
        (folder / "model.pt").write_bytes(b"weights")


def test_model_without_a_taxonomy_is_published(card, home):
    with pytest.raises(ValueError, match="scored_on has no effect for a model without cell types"):
        hdi.hub.publish(Unsupervised(), home / "x", card=card, scored_on={"a": ad.AnnData()})
    published = hdi.hub.publish(Unsupervised(), home / "x", card=card)
    shared = hdi.hub.download(published.address)
    header = yaml.safe_load(shared.card.split("---")[1])
    assert "model_cls_name:Unsupervised" in header["tags"]
    assert not [tag for tag in header["tags"] if tag.startswith("n_types")]
    assert "annotate(" not in shared.card
    assert "## Taxonomy" not in shared.card
    assert "## Evaluation" not in shared.card
    assert "| seed | 3 |" in section(shared.card, "Recipe")


def test_other_reference_raises(shared_model, card, home):
    shared_model.save(home / "saved")
    own = shared_model.adata
    others = own[:-20].copy(), own.copy(), ad.concat([own, own[:5]], index_unique="-")
    others[1].obs_names += "-1"
    for other in others:
        model = hdi.SCHDeepInsight.load(home / "saved", adata=other)
        with pytest.raises(ValueError, match=f"the {own.n_obs} cells that the model was trained"):
            hdi.hub.publish(model, home / "x", card=card)
        assert not (home / "x").exists()


def test_incomplete_card_raises_early(shared_model, home):
    for fields, message in [
        ({"title": "x"}, "lacks license, organism"),
        ({"title": "x", "license": "mit", "organism": "human", "tissues": []}, "lacks tissues"),
        ({"title": "x", "license": "mit", "organism": "human", "tissues": [" "]}, "lacks tissues"),
        ({"title": "x", "license": "mit", "organism": "human", "tissues": None}, "lacks tissues"),
        ({"title": "x", "licence": "mit"}, "title, license.*got .*'licence'"),
        ({"title": "x", "organism": ["human"]}, r"organism must be text, got \['human'\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            hdi.hub.publish(shared_model, home / "x", card=fields)
        assert not (home / "x").exists()


def test_blank_fields_are_missing(card):
    silent = {"datasets": None, "citation": None, "description": None}
    assert ModelCard.of({**card, **silent}) == ModelCard.of(card)


def test_bad_options_are_refused(shared_model, card, home):
    with pytest.raises(ValueError, match=r"card must be a ModelCard.*got 'str'"):
        hdi.hub.publish(shared_model, home / "x", card="card.json")
    with pytest.raises(ValueError, match=r"scored_on must be a mapping.*got 'AnnData'"):
        hdi.hub.publish(shared_model, home / "x", card=card, scored_on=shared_model.adata)
    with pytest.raises(ValueError, match="has no branches"):
        hdi.hub.publish(shared_model, home / "x", card=card, revision="v1")


def test_an_untrained_model_is_refused(synthetic_hierarchy, card, home):
    adata = synthetic_hierarchy
    hdi.SCHDeepInsight.setup_anndata(adata, labels_key="cell_type")
    model = hdi.SCHDeepInsight(adata, layout="random", n_latent=8)
    with pytest.raises(ValueError, match="not trained"):
        hdi.hub.publish(model, home / "x", card=card)

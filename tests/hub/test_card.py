"""The card says what the model knows and what its publisher says, and nothing in it is live."""

import re
import shutil

import numpy as np
import pytest
import yaml

import hdeepinsight as hdi
from hdeepinsight._io import sha256 as file_sha256
from hdeepinsight.hub import HubError, ModelCard, ReferenceBundle
from hdeepinsight.hub._card_text import _fenced, card_text
from hdeepinsight.hub._facts import HELD_OUT, facts_of


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
    assert "![Reliability of the types](reliability.png)" in table
    assert (published_folder / "reliability.png").read_bytes().startswith(b"\x89PNG")


def test_checksums_are_those_of_the_files(text, published_folder):
    listed = dict(
        reversed(line.split("  ")) for line in section(text, "Checksums").splitlines()
        if re.match(r"[0-9a-f]{64}  ", line)
    )  # fmt: skip
    assert set(listed) == {path.name for path in published_folder.iterdir()} - {
        "README.md",
        "checksums.sha256",
    }
    for name, sha256 in listed.items():
        assert file_sha256(published_folder / name) == sha256


def test_the_path_of_the_publisher_is_not_in_the_card(text, published_folder):
    assert 'hdi.hub.pull("./blood")' in text
    assert str(published_folder.parent) not in text


def test_recipe_genes_and_what_was_not_said(text, shared_model):
    recipe = section(text, "Recipe")
    for name in ("seed", "max_epochs", "torch", "scvi-tools"):
        assert f"| {name} | {shared_model.recipe[name]} |" in recipe
    assert "120 genes (0 Ensembl identifiers, 120 symbols)" in section(text, "Genes")
    assert "Not stated by the publisher." in section(text, "Intended use")


def test_further_scores_and_models_without_a_reference(
    shared_model, published_folder, synthetic_hierarchy
):
    unseen = synthetic_hierarchy[300:]
    loaded = hdi.hub.pull(published_folder)
    facts = facts_of(loaded, {"another donor": unseen})
    card = ModelCard(title="x", license="our own", organism="human", tissues="blood")
    text = card_text(card, facts, {}, address="atlas/x")
    assert "### another donor" in text
    assert f"{loaded.evaluate(unseen).levels.loc['cell_type', 'accuracy']:.3f}" in text
    assert HELD_OUT not in text
    assert "B memory\n" in section(text, "Taxonomy"), "no counts without a reference"
    header = yaml.safe_load(text.split("---")[1])
    assert (header["license"], header["license_name"]) == ("other", "our own")
    bare = card_text(card, facts_of(loaded, {}), {}, address="atlas/x")
    assert "No scores" in section(bare, "Evaluation")


def test_nothing_in_a_card_is_live(shared_model):
    evil = '<script>alert("x")</script>'
    card = ModelCard(
        title=f"T {evil}\n# second",
        license=f"mit {evil}",
        organism=f"human | {evil}",
        tissues=[evil, "a\nb"],
        description=evil,
        intended_use=evil,
        citation=f"```\n{evil}",
        datasets=[evil],
        contact=evil,
    )
    text = card_text(card, facts_of(shared_model, {}), {}, address="atlas/x")
    header, body = text.split("---", 2)[1:]
    tags = yaml.safe_load(header)["tags"]
    assert f"tissue:{evil}" in tags
    assert "tissue:a b" in tags
    citation = section(text, "How to cite").strip()
    assert citation.startswith("````text")
    assert citation.endswith("\n````")
    assert "<script>" not in body.replace(citation, "")
    assert _fenced("a ```` b").startswith("`````text")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"title": "x"}, "nothing about license, organism"),
        ({"title": "x", "license": "mit", "organism": "human", "tissues": []}, "about tissues"),
        ({"title": "x", "license": "mit", "organism": "human", "tissues": [" "]}, "about tissues"),
        ({"title": "x", "license": "mit", "organism": "human", "tissues": None}, "about tissues"),
        ({"title": "x", "licence": "mit"}, "'licence'.*Valid are title, license"),
        ({"title": "x", "organism": ["human"]}, r"organism=\['human'\]. Valid is text"),
    ],
)
def test_an_incomplete_card_is_refused_before_any_work(shared_model, home, fields, message):
    with pytest.raises(ValueError, match=message):
        hdi.hub.publish(shared_model, home / "x", card=fields)
    assert not (home / "x").exists()


def test_a_field_that_says_nothing_is_one_that_was_left_out(card):
    silent = {"datasets": None, "citation": None, "description": None}
    assert ModelCard.of({**card, **silent}) == ModelCard.of(card)


def test_bad_options_are_refused(shared_model, card, home):
    with pytest.raises(TypeError, match=r"The card is a str.*Pass \{"):
        hdi.hub.publish(shared_model, home / "x", card="card.json")
    with pytest.raises(TypeError, match=r"scored_on is a AnnData.*by the name"):
        hdi.hub.publish(shared_model, home / "x", card=card, scored_on=shared_model.adata)
    tree = hdi.Taxonomy.from_nested({"T": [], "B": []})
    other = ReferenceBundle(np.zeros((1, 8), np.float16), np.array([1]), np.array([0, 1, 1]), tree)
    with pytest.raises(ValueError, match="another taxonomy than the model"):
        hdi.hub.publish(shared_model, home / "x", card=card, reference=other)
    with pytest.raises(ValueError, match="reference='counts'"):
        hdi.hub.publish(shared_model, home / "x", card=card, reference="counts")
    with pytest.raises(ValueError, match="no branches"):
        hdi.hub.publish(shared_model, home / "x", card=card, revision="v1")


def test_an_untrained_model_is_refused(synthetic_hierarchy, card, home):
    adata = synthetic_hierarchy
    hdi.SCHDeepInsight.setup_anndata(adata, labels_key="cell_type")
    model = hdi.SCHDeepInsight(adata, layout="random", n_latent=8)
    with pytest.raises(ValueError, match="not trained"):
        hdi.hub.publish(model, home / "x", card=card)


def test_the_bundle_holds_features_and_labels_and_nothing_else(published_folder, shared_model):
    from anndata import read_h5ad

    file = read_h5ad(published_folder / "adata.h5ad")
    assert (file.X, file.n_vars, file.raw, len(file.layers)) == (None, 0, None, 0)
    assert list(file.obs) == ["node", "label"]
    assert list(file.obsm) == ["X_hdi_latent"]
    own = set(shared_model.adata.obs_names)
    assert not own & set(file.obs_names), "names of cells stay at home"
    bundle = hdi.hub.download(published_folder).reference()
    assert bundle.taxonomy == shared_model.taxonomy
    assert bundle.latent.dtype == np.float16
    latent = shared_model.get_latent_representation()
    np.testing.assert_array_equal(bundle.latent, latent.astype(np.float16))
    truth = shared_model.adata.obs["cell_type"].astype(str)
    assert [label.split(" > ")[1] for label in bundle.labels] == truth.tolist()
    assert bundle.n_reference.sum() == 300


def test_the_bundle_takes_equally_many_cells_of_every_label(shared_model):
    bundle = ReferenceBundle.from_model(shared_model, max_cells_per_type=5, seed=3)
    assert np.unique(bundle.nodes, return_counts=True)[1].tolist() == [5] * 7
    again = ReferenceBundle.from_model(shared_model, max_cells_per_type=5, seed=3)
    np.testing.assert_array_equal(bundle.latent, again.latent)
    other = ReferenceBundle.from_model(shared_model, max_cells_per_type=5, seed=4)
    assert not np.array_equal(bundle.latent, other.latent)


@pytest.mark.parametrize("n", [0, -1, 2.5])
def test_a_bundle_of_no_number_of_cells_is_refused(shared_model, n):
    with pytest.raises(ValueError, match=r"max_cells_per_type.*whole numbers from 1 up"):
        ReferenceBundle.from_model(shared_model, max_cells_per_type=n)


def test_a_bundle_is_read_from_text_too(published_folder):
    assert len(ReferenceBundle.read(str(published_folder / "adata.h5ad"))) == 300


def test_what_is_no_bundle_is_refused(published_folder, synthetic_hierarchy, home):
    synthetic_hierarchy.write_h5ad(home / "counts.h5ad")
    (home / "text.h5ad").write_text("not hdf5")
    shutil.copy(published_folder / "model.pt", home / "model.h5ad")
    for path in sorted(home.glob("*.h5ad")):
        with pytest.raises(HubError, match="no reference bundle"):
            ReferenceBundle.read(path)

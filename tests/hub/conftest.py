"""Fixtures: a small trained model, published on local servers."""

import pytest
from loopback import FakeHub, Repository, empty_bucket, s3_server, sha

import hdeepinsight as hdi
from hdeepinsight import SCHDeepInsight

CARD = {
    "title": "Synthetic blood",
    "license": "cc-by-4.0",
    "organism": "human",
    "tissues": ["blood", "bone marrow"],
    "technologies": ["10x 3' v3"],
}


@pytest.fixture(scope="session")
def shared_model(_synthetic_hierarchy):
    """Three hundred cells of reference, a network of some thousand weights, two epochs."""
    adata = _synthetic_hierarchy[:300].copy()
    SCHDeepInsight.setup_anndata(adata, labels_keys=["lineage", "cell_type"])
    model = SCHDeepInsight(adata, layout="random", n_latent=16)
    model.train(
        max_epochs=3,
        batch_size=64,
        validation_size=0.2,
        enable_progress_bar=False,
        accelerator="cpu",
    )
    return model


@pytest.fixture(scope="session")
def published_folder(shared_model, tmp_path_factory):
    """The model, published to a folder; it is only read."""
    folder = tmp_path_factory.mktemp("published") / "blood"
    hdi.hub.publish(shared_model, folder, card=CARD)
    return folder


@pytest.fixture
def published(published_folder, fake_hub):
    """The same files, as the newest commit of ``atlas/blood``."""
    files = {path.name: path.read_bytes() for path in published_folder.iterdir()}
    repository = fake_hub.repositories["atlas/blood"] = Repository()
    digest = f"sha256:{sha(files['checksums.sha256'])}"
    return hdi.hub.Published("atlas/blood", repository.commit("main", files), digest)


@pytest.fixture
def query(_synthetic_hierarchy):
    cells = _synthetic_hierarchy[300:].copy()
    cells.obs = cells.obs[[]]
    return cells


@pytest.fixture(scope="session")
def card():
    return dict(CARD)


@pytest.fixture(scope="session")
def _fake_hub():
    hub = FakeHub()
    yield hub
    hub.close()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user without settings, tokens or fetched models."""
    for name in ("HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE", "HDEEPINSIGHT_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HDEEPINSIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path


@pytest.fixture
def fake_hub(_fake_hub, home, monkeypatch):
    """The server, empty and without faults, as what ``HF_ENDPOINT`` names."""
    import huggingface_hub
    from huggingface_hub import constants, hf_api

    _fake_hub.repositories.clear()
    _fake_hub.objects.clear()
    _fake_hub.requests.clear()
    _fake_hub.faults.clear()
    monkeypatch.setenv("HF_ENDPOINT", _fake_hub.url)
    # The client reads its environment once, at import; a new process would need none of this.
    template = _fake_hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", _fake_hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "no_token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hf_cache"))
    monkeypatch.setattr(hf_api.api, "endpoint", _fake_hub.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 2)
    huggingface_hub.utils.disable_progress_bars()
    yield _fake_hub
    huggingface_hub.utils.enable_progress_bars()


@pytest.fixture
def writer(monkeypatch):
    """A token with the right to write, in the environment."""
    monkeypatch.setenv("HF_TOKEN", "hf_mayWriteEverything")
    return "hf_mayWriteEverything"


@pytest.fixture(scope="session")
def _s3_server():
    with s3_server() as address:
        yield address


@pytest.fixture
def bucket(_s3_server, home, monkeypatch):
    """An empty bucket, and the credentials for it in the environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", _s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "lab")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "verySecretKey")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with empty_bucket("lab-models") as name:
        yield name

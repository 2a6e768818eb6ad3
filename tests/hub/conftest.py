"""A small trained model, a Hugging-Face-compatible server and an S3 server, all on loopback."""

import base64
import hashlib
import json
import threading
import time
import urllib.parse
import warnings
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import hdeepinsight as hdi
from hdeepinsight import SCHDeepInsight

TOKENS = {"hf_mayWriteEverything": "write", "hf_mayReadOnly": "read"}
CARD = {
    "title": "Synthetic blood",
    "license": "cc-by-4.0",
    "organism": "human",
    "tissues": ["blood", "bone marrow"],
    "technologies": ["10x 3' v3"],
}


@dataclass
class Fault:
    """What goes wrong, with which requests, and how often."""

    path: str
    kind: str
    times: int = 10**6
    method: str = "GET"
    value: float = 0.0
    headers: dict = field(default_factory=dict)


@dataclass
class Repository:
    private: bool = False
    commits: dict = field(default_factory=dict)
    refs: dict = field(default_factory=dict)

    def commit(self, branch: str, files: dict) -> str:
        text = json.dumps({n: hashlib.sha256(b).hexdigest() for n, b in files.items()})
        oid = hashlib.sha1(f"{len(self.commits)}{text}".encode()).hexdigest()
        self.commits[oid] = files
        self.refs[branch] = oid
        return oid

    def files(self, revision: str) -> tuple:
        oid = self.refs.get(revision, revision)
        return oid, self.commits.get(oid)


class FakeHub:
    """Enough of the hub's HTTP interface for the real client, and faults on demand.

    Large files are redirected to a second port, as the real one redirects to its CDN.
    """

    def __init__(self):
        self.repositories, self.objects = {}, {}
        self.requests, self.faults = [], []
        handler = type("Handler", (Handler,), {"hub": self})
        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        self.url, self.cdn = (f"http://127.0.0.1:{s.server_address[1]}" for s in self.servers)
        for server in self.servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def fault(self, path: str, kind: str, **options) -> None:
        self.faults.append(Fault(path, kind, **options))

    def pending_fault(self, method: str, path: str):
        for fault in self.faults:
            if fault.times > 0 and fault.path in path and method == fault.method:
                fault.times -= 1
                return fault
        return None

    def asked(self, method: str, part: str) -> list:
        return [r for r in self.requests if r["method"] == method and part in r["path"]]

    def close(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status=200, body=b"", **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), **headers}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_one(self):
        self.body = self.read_body()
        url = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(url.query))
        self.parts = [urllib.parse.unquote(part) for part in url.path.strip("/").split("/")]
        self.hub.requests.append(
            {
                "method": self.command,
                "path": self.path,
                "headers": {name.lower(): value for name, value in self.headers.items()},
            }
        )
        self.fault = self.hub.pending_fault(self.command, self.path)
        if self.fault is not None and self.fault.kind.isdigit():
            return self.reply(int(self.fault.kind), b"out of order", **self.fault.headers)
        if self.fault is not None and self.fault.kind == "close":
            self.close_connection = True
            return self.connection.close()
        if self.fault is not None and self.fault.kind == "garbage":
            return self.reply(200, b"<html>log in to the guest network</html>")
        return self.route()

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_HEAD = do_POST = do_PUT = handle_one

    def route(self):
        parts = self.parts
        if parts[:2] == ["api", "models"] and len(parts) == 2:
            return self.list_models()
        if parts[:2] == ["api", "models"]:
            return self.api("/".join(parts[2:4]), *(parts[4:] or ["revision", "main"]))
        if parts == ["api", "repos", "create"]:
            return self.create()
        if parts == ["api", "validate-yaml"]:
            return self.reply(body={"errors": [], "warnings": []})
        if parts[0] in ("lfs", "cdn"):
            return self.object(parts)
        if parts[2:5] == ["info", "lfs", "objects"]:
            return self.batch()
        if parts[2:3] == ["resolve"]:
            return self.resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        return self.reply(404, b"no such page")

    def right(self) -> str:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return TOKENS.get(given, "none")

    def repository(self, name):
        """The repository, or None after an answer that says why not."""
        found = self.hub.repositories.get(name)
        if "Authorization" in self.headers and self.right() == "none":
            self.reply(401, b"", X_Error_Message="Invalid credentials in Authorization header")
        elif found is not None and not (found.private and self.right() == "none"):
            return found
        elif self.right() == "none":
            self.reply(
                401, b"", X_Error_Code="RepoNotFound", X_Error_Message="Repository Not Found"
            )
        else:
            self.reply(
                404, b"", X_Error_Code="RepoNotFound", X_Error_Message="Repository Not Found"
            )
        return None

    def list_models(self):
        wanted = self.query.get("search", "")
        named = [
            {"id": name, "modelId": name, "sha": repo.refs["main"], "tags": tags_of(repo)}
            for name, repo in self.hub.repositories.items()
            if wanted in name and (not repo.private or self.right() != "none")
        ]
        tagged = [row for row in named if self.query.get("filter", "") in row["tags"]]
        return self.reply(body=tagged)

    def create(self):
        wish = json.loads(self.body)
        name = f"{wish['organization']}/{wish['name']}"
        if self.right() != "write":
            return self.reply(403, {"error": "this token may not write"})
        if name in self.hub.repositories:
            taken = {
                "error": "You already created this model repo",
                "url": f"{self.hub.url}/{name}",
            }
            return self.reply(409, taken)
        repository = Repository(private=wish.get("visibility") == "private")
        repository.commit("main", {".gitattributes": b"*.pt filter=lfs\n"})
        self.hub.repositories[name] = repository
        return self.reply(body={"url": f"{self.hub.url}/{name}"})

    def api(self, name, verb, revision, *_):
        repository = self.repository(name)
        if repository is None:
            return None
        if verb in ("preupload", "commit", "branch", "tag") and self.right() != "write":
            return self.reply(403, {"error": "this token may not write"})
        if verb == "branch":
            taken = revision in repository.refs
            repository.refs.setdefault(revision, repository.refs["main"])
            return self.reply(409 if taken else 200, {})
        oid, files = repository.files(revision)
        if files is None:
            return self.reply(404, b"", X_Error_Code="RevisionNotFound")
        if verb == "preupload":
            asked = json.loads(self.body)["files"]
            modes = [
                {"path": f["path"], "shouldIgnore": False, "uploadMode": mode(f["path"])}
                for f in asked
            ]
            return self.reply(body={"files": modes})
        if verb == "commit":
            return self.commit(name, repository, revision, dict(files))
        if verb == "tree":
            return self.reply(body=[entry(path, body) for path, body in files.items()])
        siblings = [
            {
                "rfilename": path,
                "size": len(body),
                "blobId": "0" * 40,
                **(
                    {"lfs": {"sha256": sha(body), "size": len(body), "pointerSize": 130}}
                    if mode(path) == "lfs"
                    else {}
                ),
            }
            for path, body in files.items()
        ]
        return self.reply(
            body={"id": name, "sha": oid, "siblings": siblings, "tags": tags_of(repository)}
        )

    def commit(self, name, repository, branch, files):
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        oid = repository.commit(branch, files)
        url = f"{self.hub.url}/{name}/commit/{oid}"
        return self.reply(body={"commitUrl": url, "commitOid": oid})

    def batch(self):
        objects = []
        for wish in json.loads(self.body)["objects"]:
            actions = {
                "upload": {"href": f"{self.hub.url}/lfs/{wish['oid']}"},
                "verify": {"href": f"{self.hub.url}/lfs/verify"},
            }
            known = wish["oid"] in self.hub.objects
            objects.append({**wish, **({} if known else {"actions": actions})})
        return self.reply(body={"transfer": "basic", "objects": objects})

    def object(self, parts):
        if self.command == "PUT":
            assert sha(self.body) == parts[1]
            self.hub.objects[parts[1]] = self.body
            return self.reply()
        if parts[1] == "verify":
            known = json.loads(self.body)["oid"] in self.hub.objects
            return self.reply(200 if known else 404)
        return self.content(self.hub.objects[parts[1]], ETag=f'"{parts[1]}"')

    def resolve(self, name, revision, path):
        repository = self.repository(name)
        if repository is None:
            return None
        oid, files = repository.files(revision)
        if files is None:
            return self.reply(404, b"", X_Error_Code="RevisionNotFound")
        if path not in files:
            return self.reply(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=oid)
        body = files[path]
        if mode(path) == "regular":
            return self.content(body, ETag=f'"{sha(body)[:40]}"', X_Repo_Commit=oid)
        self.hub.objects[sha(body)] = body
        return self.reply(
            302,
            Location=f"{self.hub.cdn}/cdn/{sha(body)}/{path}",
            X_Repo_Commit=oid,
            X_Linked_Etag=f'"{sha(body)}"',
            X_Linked_Size=str(len(body)),
        )

    def content(self, body, **headers):
        """A body, whole or from a byte on, perhaps with a fault."""
        wanted = self.headers.get("Range")
        ignored = self.fault is not None and self.fault.kind == "ignore_range"
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and not ignored else 0
        if start >= len(body) > 0:
            return self.reply(416)
        status = 206 if start else 200
        if start:
            headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        body = body[start:]
        if self.fault is None or ignored:
            return self.reply(status, body, **headers)
        return self.faulty(self.fault, status, body, headers)

    def faulty(self, fault, status, body, headers):
        if fault.kind == "flip":
            middle = len(body) // 2
            changed = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
            return self.reply(status, changed, **headers)
        if fault.kind == "longer":
            return self.reply(status, body + b"x" * 100, **headers)
        assert fault.kind in ("truncate", "stall", "drip"), fault.kind
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if fault.kind == "drip":
            for i in range(len(body)):
                self.wfile.write(body[i : i + 1])
                time.sleep(fault.value)
        self.wfile.write(body[: len(body) // 2])
        if fault.kind == "stall":
            time.sleep(fault.value)
        self.close_connection = True
        return None


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def mode(path: str) -> str:
    return "lfs" if path.endswith((".pt", ".h5ad", ".png", ".safetensors")) else "regular"


def entry(path: str, body: bytes) -> dict:
    lfs = {"oid": sha(body), "size": len(body), "pointerSize": 130}
    extra = {"lfs": lfs} if mode(path) == "lfs" else {}
    return {"type": "file", "path": path, "size": len(body), "oid": "0" * 40, **extra}


def tags_of(repository: Repository) -> list:
    import yaml

    text = repository.commits[repository.refs["main"]].get("README.md", b"").decode()
    return yaml.safe_load(text.split("---")[1])["tags"] if text.startswith("---") else []


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from moto.server import ThreadedMotoServer

        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(_s3_server, home, monkeypatch):
    """An empty bucket, and the credentials for it in the environment."""
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", _s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "lab")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "verySecretKey")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = boto3.client("s3")
    client.create_bucket(Bucket="lab-models")
    yield "lab-models"
    for item in client.list_objects_v2(Bucket="lab-models").get("Contents", []):
        client.delete_object(Bucket="lab-models", Key=item["Key"])
    client.delete_bucket(Bucket="lab-models")

"""Repositories of the hub: files by commit, and what the hub says about them."""

import hashlib
import json
from dataclasses import dataclass, field


@dataclass
class Repository:
    """Commits and branches of one model."""

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


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def mode(path: str) -> str:
    return "lfs" if path.endswith((".pt", ".h5ad", ".png", ".safetensors")) else "regular"


def entry(path: str, body: bytes) -> dict:
    """A file, as the list of a commit's files gives it."""
    lfs = {"oid": sha(body), "size": len(body), "pointerSize": 130}
    extra = {"lfs": lfs} if mode(path) == "lfs" else {}
    return {"type": "file", "path": path, "size": len(body), "oid": "0" * 40, **extra}


def described(path: str, body: bytes) -> dict:
    """A file, as the description of a model gives it."""
    lfs = {"sha256": sha(body), "size": len(body), "pointerSize": 130}
    extra = {"lfs": lfs} if mode(path) == "lfs" else {}
    return {"rfilename": path, "size": len(body), "blobId": "0" * 40, **extra}


def tags_of(repository: Repository) -> list:
    import yaml

    text = repository.commits[repository.refs["main"]].get("README.md", b"").decode()
    return yaml.safe_load(text.split("---")[1])["tags"] if text.startswith("---") else []

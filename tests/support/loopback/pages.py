"""The pages of a hub: repositories, commits, large files."""

import base64
import json

from loopback.repository import Repository, described, entry, mode, sha, tags_of
from loopback.transport import Transport

TOKENS = {"hf_mayWriteEverything": "write", "hf_mayReadOnly": "read"}


class Pages(Transport):
    """Enough of the hub's interface for the real client."""

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
        else:
            status = 401 if self.right() == "none" else 404
            message = "Repository Not Found"
            self.reply(status, b"", X_Error_Code="RepoNotFound", X_Error_Message=message)
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
        siblings = [described(path, body) for path, body in files.items()]
        return self.reply(
            body={
                "id": name,
                "sha": oid,
                "private": repository.private,
                "siblings": siblings,
                "tags": tags_of(repository),
            }
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

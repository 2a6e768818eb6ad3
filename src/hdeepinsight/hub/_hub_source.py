"""A Hugging Face hub, or a server that speaks like one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hdeepinsight.hub import _settings
from hdeepinsight.hub._address import Address
from hdeepinsight.hub._errors import HubError, OfflineError, without_secrets
from hdeepinsight.hub._sources import Body, RemoteFile, pinned_digest

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["HubSource", "Token", "Transient", "explained", "hub_api", "hub_or_mirror"]

Token = str | bool | None
_TRANSIENT = {408, 429, 500, 502, 503, 504}
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_TEXT = (str, type(None))
#: What the client raises about answers that it does not expect.
_ODD_ANSWERS = (ValueError, RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError)


class Transient(HubError):
    """A failure that may pass; ``wait`` is how long the server asks to wait, in seconds."""

    def __init__(self, message: str, wait: float | None = None, status: int | None = None) -> None:
        super().__init__(message)
        self.wait = wait
        self.status = status


def hub_or_mirror(token: Token) -> tuple[str, Token, Address | None]:
    """Server to ask for models, the token for it, and the folder or bucket to look in instead.

    A mirror gets no token but one that was given here.
    """
    mirror = _settings.mirror()
    if mirror is None:
        return _settings.endpoint(), token, None
    if mirror.startswith(("http://", "https://")):
        return mirror, False if token is None else token, None
    return "", False, Address.parse(mirror)


def hub_api(endpoint: str, token: Token) -> HfApi:
    """Client of a hub."""
    hub = _settings.require("huggingface_hub", "A Hugging Face hub")
    api: HfApi = hub.HfApi(endpoint=endpoint, token=token, library_name="hdeepinsight")
    return api


class HubSource:
    """A repository of a hub at one commit."""

    def __init__(self, address: Address, revision: str | None, endpoint: str, token: Token) -> None:
        self.address, self._endpoint, self._token = address, endpoint, token
        self._api = hub_api(endpoint, token)
        named = None if pinned_digest(revision) else revision
        with explained(f"fetch {address}", endpoint, token, named):
            self._info = self._api.model_info(
                address.place, revision=named, files_metadata=True, timeout=_timeout()
            )
            self.revision = _commit(self._info.sha)
            self._files = dict(map(_file, self._info.siblings or []))

    def files(self) -> dict[str, RemoteFile]:
        """Files by name."""
        return self._files

    @contextmanager
    def open(self, name: str, start: int) -> Iterator[Body]:
        """Bytes of a file from ``start`` on."""
        from huggingface_hub import hf_hub_url

        client = _settings.require("huggingface_hub.utils", "A Hugging Face hub")

        url = hf_hub_url(self.address.place, name, revision=self.revision, endpoint=self._endpoint)
        # Compressed on the way, a byte range would not be one of the file.
        headers = client.build_hf_headers(token=self._token) | {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        request: dict[str, Any] = {
            "headers": headers,
            "timeout": _timeout(),
            "follow_redirects": True,
        }
        with (
            explained(f"fetch {name} of {self.address}", self._endpoint, self._token),
            client.get_session().stream("GET", url, **request) as response,
        ):
            if response.status_code == 416:  # the part here is longer than the file there
                yield Body(0, iter(()))
                return
            client.hf_raise_for_status(response)
            yield Body(start if response.status_code == 206 else 0, response.iter_bytes())


def _commit(found: object) -> str:
    """Hash of a commit; it names a folder here, so nothing else is taken."""
    if not isinstance(found, str) or not _COMMIT.fullmatch(found):
        msg = f"it names the commit {str(found)[:80]!r}"
        raise ValueError(msg)
    return found


def _file(sibling: Any) -> tuple[str, RemoteFile]:
    name, size = sibling.rfilename, sibling.size or 0
    sha256 = sibling.lfs.sha256 if sibling.lfs else None
    if type(name) is not str or type(size) is not int or size < 0 or type(sha256) not in _TEXT:
        msg = f"it lists {str(name)[:80]!r} with the size {str(size)[:80]}"
        raise ValueError(msg)
    return name, RemoteFile(name, size, sha256)


@contextmanager
def explained(
    wish: str, endpoint: str, token: Token = None, revision: str | None = None
) -> Iterator[None]:
    """Turn failures of the client into one clear sentence.

    Raises
    ------
    HubError
        What was asked for, where, what happened, and what to do.
    """
    from huggingface_hub import errors

    try:
        yield
    except HubError:
        raise
    except (_transport_errors(), errors.OfflineModeIsEnabled, *_ODD_ANSWERS) as error:
        raise _explain(error, wish, endpoint, token, revision) from None


def _explain(
    error: BaseException, wish: str, endpoint: str, token: Token, revision: str | None
) -> HubError:
    from huggingface_hub import errors

    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__  # uploads of large files are wrapped
    if isinstance(error, errors.OfflineModeIsEnabled):
        return OfflineError(offline_message(wish))
    if isinstance(error, errors.HfHubHTTPError):
        return _refusal(error, wish, endpoint, token, revision)
    where, what = without_secrets(endpoint), without_secrets(error, token)[:200]
    if isinstance(error, _transport_errors()):
        return Transient(
            f"Could not {wish} at {where}: no answer, or one that broke off "
            f"({type(error).__name__}: {what}). Check the connection, HTTPS_PROXY and "
            "HF_ENDPOINT, and try again; what has arrived is kept."
        )
    return HubError(
        f"Could not {wish} at {where}: its answer was not understood ({what}). Check that "
        "HF_ENDPOINT names a Hugging Face hub."
    )


def offline_message(wish: str) -> str:
    """Say why nothing was asked for."""
    return (
        f"Could not {wish}: HF_HUB_OFFLINE is set and the model has not been fetched before. Pull "
        "it once with a connection, or point HDEEPINSIGHT_MIRROR at a folder that has it."
    )


def _refusal(error: Any, wish: str, endpoint: str, token: Token, revision: str | None) -> HubError:
    status = error.response.status_code
    where = f"Could not {wish} at {without_secrets(endpoint)}"
    code = error.response.headers.get("X-Error-Code", "")
    if code == "RevisionNotFound":
        return HubError(
            f"{where}: it has no revision {revision!r}. Valid are its branches, tags and full "
            "commit hashes. Leave revision out for the newest."
        )
    if code == "EntryNotFound":
        return HubError(
            f"{where}: the repository does not hold this file (404). Check that it was published "
            "with hdi.hub.publish."
        )
    if status in (401, 403) or code == "GatedRepo":
        return HubError(
            f"{where}: access was refused ({status}). The model is private, gated or not there, or "
            "the token may not do this. Set HF_TOKEN to a token with the right to it, and check "
            "the name."
        )
    if status == 404:
        return HubError(
            f"{where}: there is no such repository (404). Check the name; for a private one, set "
            "HF_TOKEN."
        )
    if status in _TRANSIENT:
        wait = _seconds(error.response.headers.get("Retry-After"))
        asked = f" and asked to wait {wait:.0f} s" if wait is not None else ""
        what = "too many requests were sent" if status == 429 else "it is out of order"
        return Transient(
            f"{where}: {what} ({status}){asked}. Try again later; what has arrived is kept.",
            wait,
            status,
        )
    said = without_secrets(getattr(error, "server_message", None) or "", token)[:200]
    return HubError(f"{where}: it answered {status}. {said} Check the name and HF_ENDPOINT.")


def _transport_errors() -> type[Exception]:
    """Find the base of the errors of the HTTP library that the client uses, whatever its name."""
    from huggingface_hub.errors import HfHubHTTPError

    return next(cls for cls in HfHubHTTPError.__mro__ if cls.__name__ == "HTTPError")


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.strip().isdigit() else None


def _timeout() -> float:
    from huggingface_hub import constants

    return float(constants.HF_HUB_DOWNLOAD_TIMEOUT)

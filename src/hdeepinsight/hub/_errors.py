"""Convert errors of the hub and S3 clients to clear messages without secrets."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_PASSWORD_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
#: Prefixes of packages whose exceptions are connection errors.
_TRANSPORT = ("aio", "boto", "fsspec", "http")


class HubError(OSError):
    """Error for a model that cannot be published, found or downloaded."""


class OfflineError(HubError):
    """Error for a model that was not downloaded before while offline mode is set."""


class ChecksumError(HubError):
    """Error for files that differ from the published ones."""


class Transient(HubError):
    """Error for temporary failures of a server."""


def retry(request: Callable[[], Any]) -> Any:
    """Repeat a request a few times if the server fails temporarily.

    Connection errors are not retried, because they rarely resolve within seconds.
    """
    for pause in (0.5, 1.0, 2.0):  # seconds
        try:
            return request()
        except Transient:
            time.sleep(pause)
    return request()


def without_secrets(text: object, token: str | bool | None = None) -> str:
    """Remove the token, and user names and passwords in URLs, from a text; return one line.

    Examples
    --------
    >>> without_secrets("GET https://me:secret@mirror/x with hf_abc", "hf_abc")
    'GET https://***@mirror/x with ***'
    """
    line = " ".join(str(text).split())
    if isinstance(token, str) and token:
        line = line.replace(token, "***")
    return _PASSWORD_IN_URL.sub("***@", line)


@contextmanager
def explained(
    action: str, server: str = "", token: str | bool | None = None, revision: str | None = None
) -> Iterator[None]:
    """Convert errors of a client library to `HubError`.

    Parameters
    ----------
    action
        Description of the action, such as ``"download atlas/pbmc"``.
    server
        Address of a Hugging Face hub; empty for S3.
    token, revision
        Arguments passed to the hub.

    Raises
    ------
    HubError
        With the action, the server, the reason, and what to do.
    """
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _explain(error, action, server, token, revision) from None


def _explain(
    error: BaseException, action: str, server: str, token: str | bool | None, revision: str | None
) -> HubError:
    missing = isinstance(error, FileNotFoundError) and not server
    # Both libraries wrap the original error.
    while not hasattr(error, "response") and error.__cause__ is not None:
        error = error.__cause__
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):  # S3
        code = str(response.get("Error", {}).get("Code", ""))
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    else:
        status = getattr(response, "status_code", 0)
        code = response.headers.get("X-Error-Code", "") if status else ""
    detail = without_secrets(f"{type(error).__name__}: {error}", token)[:200]
    settings = "HF_ENDPOINT" if server else "AWS_ENDPOINT_URL_S3"
    access = "HF_TOKEN to a token with access" if server else "AWS_PROFILE"
    kind = HubError
    if code == "RevisionNotFound":
        why = f"there is no revision {revision!r}. Pass a branch, tag or full commit hash, or none"
    elif status in (401, 403):
        why = f"access was refused ({status}): it is private, gated or missing. Set {access}"
    elif status == 404 or missing:
        why = f"it does not exist ({code or 404}). Check the name; if it is private, set {access}"
    elif status == 429 or status >= 500:
        reason = "too many requests were sent" if status == 429 else "the server failed"
        kind, why = Transient, f"{reason} ({status}). Try again later; complete files are kept"
    elif not status and (
        isinstance(error, OSError) or type(error).__module__.startswith(_TRANSPORT)
    ):
        why = f"no answer ({detail}). Check the connection, HTTPS_PROXY and {settings}"
    else:
        why = f"unexpected answer ({detail}). Check the name and {settings}"
    where = f"Could not {action}" + (f" at {without_secrets(server)}" if server else "")
    return kind(f"{where}: {why}.")

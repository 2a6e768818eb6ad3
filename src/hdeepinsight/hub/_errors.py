"""What can go wrong between here and a place with models, in one sentence each, without secrets."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_PASSWORD_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
#: How the packages begin whose exceptions say that a connection failed.
_TRANSPORT = ("aio", "boto", "fsspec", "http")


class HubError(OSError):
    """A model could not be published, found or fetched; the text says what to do."""


class OfflineError(HubError):
    """Something is not here yet, and nothing may be asked for, or nobody answers."""


class ChecksumError(HubError):
    """What arrived is not what was published."""


class Transient(HubError):
    """A server says that it is out of order, which may pass."""


def retry(ask: Callable[[], Any]) -> Any:
    """Ask again, a few times, where a server is out of order.

    Where nobody answers at all, nobody is asked again: that is rarely over in seconds.
    """
    for pause in (0.5, 1.0, 2.0):  # seconds
        try:
            return ask()
        except Transient:
            time.sleep(pause)
    return ask()


def without_secrets(text: object, token: str | bool | None = None) -> str:
    """Return one line of text without the token, and without names and passwords in addresses.

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
    """Turn failures of a client library into one clear sentence.

    Parameters
    ----------
    action
        What is being done, such as ``"fetch atlas/pbmc"``.
    server
        Address of a Hugging Face hub; empty for S3.
    token, revision
        What was passed to the hub.

    Raises
    ------
    HubError
        What was asked for, where, what happened, and what to do.
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
    # Both libraries wrap what really happened.
    while not hasattr(error, "response") and error.__cause__ is not None:
        error = error.__cause__
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):  # S3
        code = str(response.get("Error", {}).get("Code", ""))
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    else:
        status = getattr(response, "status_code", 0)
        code = response.headers.get("X-Error-Code", "") if status else ""
    said = without_secrets(f"{type(error).__name__}: {error}", token)[:200]
    settings = "HF_ENDPOINT" if server else "AWS_ENDPOINT_URL_S3"
    access = "HF_TOKEN to a token with the right to it" if server else "AWS_PROFILE"
    kind = HubError
    if code == "RevisionNotFound":
        what = f"it has no revision {revision!r}. Pass a branch, tag or full commit hash, or none"
    elif status in (401, 403):
        what = f"access was refused ({status}): it is private, gated or not there. Set {access}"
    elif status == 404 or missing:
        what = f"it is not there ({code or 404}). Check the name; if it is private, set {access}"
    elif status == 429 or status >= 500:
        why = "too many requests were sent" if status == 429 else "it is out of order"
        kind, what = Transient, f"{why} ({status}). Try again later; complete files are kept"
    elif not status and (
        isinstance(error, OSError) or type(error).__module__.startswith(_TRANSPORT)
    ):
        what = f"no answer ({said}). Check the connection, HTTPS_PROXY and {settings}"
    else:
        what = f"its answer was not understood ({said}). Check the name and {settings}"
    where = f"Could not {action}" + (f" at {without_secrets(server)}" if server else "")
    return kind(f"{where}: {what}.")

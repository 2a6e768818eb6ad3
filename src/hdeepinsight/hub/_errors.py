"""What can go wrong between here and a hub, in one sentence each, and without secrets."""

from __future__ import annotations

import re

__all__ = ["ChecksumError", "HubError", "OfflineError", "without_secrets"]

_PASSWORD_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")


class HubError(OSError):
    """A model could not be published, found or fetched; the text says what to do."""


class OfflineError(HubError):
    """Something is not here yet, and nothing may be asked for, or nobody answers."""


class ChecksumError(HubError):
    """What arrived is not what was published."""


def without_secrets(text: object, token: str | bool | None = None) -> str:
    """Give one line of text without the token, and without names and passwords in addresses.

    Examples
    --------
    >>> without_secrets("GET https://me:secret@mirror/x with hf_abc", "hf_abc")
    'GET https://***@mirror/x with ***'
    """
    line = " ".join(str(text).split())
    if isinstance(token, str) and token:
        line = line.replace(token, "***")
    return _PASSWORD_IN_URL.sub("***@", line)

"""An S3 bucket, or a store that speaks like one (``AWS_ENDPOINT_URL_S3``)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from hdeepinsight.hub import _settings
from hdeepinsight.hub._address import Address
from hdeepinsight.hub._errors import HubError, without_secrets
from hdeepinsight.hub._hub_source import Transient
from hdeepinsight.hub._manifest import CHECKSUMS_FILE, digest_of
from hdeepinsight.hub._sources import CHUNK, Body, RemoteFile, check_pin, pinned_digest

__all__ = ["BucketSource", "bucket_client", "explained"]

_MOST_FILES = 1000
_REFUSED = {"401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
_ABSENT = {"404", "NoSuchKey", "NoSuchBucket"}


def bucket_client() -> Any:
    """Client of S3, unsigned where there are no credentials: public buckets need none."""
    boto3 = _settings.require("boto3", "An S3 bucket")
    from botocore import UNSIGNED
    from botocore.config import Config

    session = boto3.Session()
    options: dict[str, Any] = {
        "connect_timeout": 10,
        "read_timeout": 30,
        "retries": {"max_attempts": 3, "mode": "standard"},
    }
    if session.get_credentials() is None:
        options["signature_version"] = UNSIGNED
    region = session.region_name or "us-east-1"
    return session.client("s3", region_name=region, config=Config(**options))


class BucketSource:
    """A model in a bucket."""

    def __init__(self, address: Address, revision: str | None) -> None:
        self.address = address
        self._client = bucket_client()
        self._bucket, _, self._key = address.place.partition("/")
        inside = ""
        if revision and not pinned_digest(revision) and self._has(f"{revision}/{CHECKSUMS_FILE}"):
            inside = revision
            self._key = f"{self._key}/{revision}"
        with self.open(CHECKSUMS_FILE, 0) as body:
            digest = digest_of(b"".join(body.chunks))
        self.revision = check_pin(digest, revision, address, inside)

    def files(self) -> dict[str, RemoteFile]:
        """Files by name; of a folder with more than a thousand, the first thousand."""
        with explained("list", self.address):
            listed = self._client.list_objects_v2(
                Bucket=self._bucket, Prefix=f"{self._key}/", MaxKeys=_MOST_FILES
            )
        named = {
            item["Key"].removeprefix(f"{self._key}/"): int(item["Size"])
            for item in listed.get("Contents", [])
        }
        return {name: RemoteFile(name, size) for name, size in named.items()}

    @contextmanager
    def open(self, name: str, start: int) -> Iterator[Body]:
        """Bytes of a file from ``start`` on."""
        wanted = {"Range": f"bytes={start}-"} if start else {}
        with explained(f"fetch {name} of", self.address):
            found = self._client.get_object(
                Bucket=self._bucket, Key=f"{self._key}/{name}", **wanted
            )
            with closing(found["Body"]) as body:
                yield Body(start if "ContentRange" in found else 0, body.iter_chunks(CHUNK))

    def _has(self, name: str) -> bool:
        from botocore.exceptions import ClientError

        try:
            self._client.head_object(Bucket=self._bucket, Key=f"{self._key}/{name}")
        except ClientError:
            return False
        return True


@contextmanager
def explained(wish: str, address: Address) -> Iterator[None]:
    """Turn failures of the client into one clear sentence.

    Raises
    ------
    HubError
        What was asked for, where, what happened, and what to do.
    """
    from botocore import exceptions as aws

    where = f"Could not {wish} {address}"
    try:
        yield
    except aws.ClientError as error:
        raise _refusal(error, where) from None
    except (aws.HTTPClientError, aws.ConnectionError, aws.IncompleteReadError) as error:
        msg = (
            f"{where}: no answer, or one that broke off ({type(error).__name__}). Check the "
            "connection, HTTPS_PROXY and AWS_ENDPOINT_URL_S3, and try again; what has arrived is "
            "kept."
        )
        raise Transient(msg) from None
    except aws.BotoCoreError as error:
        msg = f"{where}: {without_secrets(error)[:200]}. Check your AWS settings."
        raise HubError(msg) from None


def _refusal(error: Any, where: str) -> HubError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _REFUSED:
        return HubError(
            f"{where}: access was refused ({code}). Set credentials that have the right to it "
            "(AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)."
        )
    if code in _ABSENT:
        return HubError(
            f"{where}: it is not there ({code}). Check bucket and path; a published model has a "
            f"file {CHECKSUMS_FILE}."
        )
    if status >= 500 or status == 429:
        return Transient(f"{where}: it is out of order ({code}). Try again later.", None, status)
    return HubError(f"{where}: it answered {code}. Check bucket, path and AWS settings.")

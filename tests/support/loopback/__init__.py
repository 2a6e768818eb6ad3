"""Servers on loopback that speak as a Hugging Face hub and as S3 do, with faults on demand."""

from loopback.bucket import empty_bucket, s3_server
from loopback.hub import FakeHub
from loopback.repository import Repository, sha

__all__ = ["FakeHub", "Repository", "empty_bucket", "s3_server", "sha"]

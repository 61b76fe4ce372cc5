"""Where a repository is, from how the operator writes it. Pure.

/path, file:///path                        this machine
s3://bucket/path                           Amazon's own, or AWS_ENDPOINT_URL
s3://host:port/bucket/path                 another S3 server, over HTTP
s3://https://host[:port]/bucket/path       the same over HTTPS
gs://bucket/path
as://account[.blob.core.windows.net]/container/path
"""

from __future__ import annotations

import re
from typing import Literal

import attrs

Scheme = Literal["s3", "gs", "as"]

_SERVER = re.compile(r"(?:(?P<protocol>https?)://)?(?P<host>\[[0-9a-fA-F:]+\]|[^/:@\s\[]+)(?::(?P<port>[0-9]{1,5}))?")
_BUCKET = re.compile(r"[A-Za-z0-9$][A-Za-z0-9._$-]{0,221}")
_ACCOUNT = re.compile(r"[a-z0-9-]{3,63}")


@attrs.frozen
class CloudLocation:
    """A folder in a bucket."""

    scheme: Scheme
    text: str
    """As the operator has written it."""
    bucket: str
    prefix: str = ""
    """The folder: without slashes around it."""
    endpoint: str = ""
    """Of S3, the server if it is not Amazon's; of Azure, the host if it is not the usual one."""
    account: str = ""
    """Of Azure."""


def cloud_location(text: str) -> CloudLocation | None:
    """The location in a cloud; None for a path of this machine. Raises ValueError for what is neither."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme == "file":
        return None
    if scheme == "s3":
        return _s3(text, rest)
    if scheme == "gs":
        bucket, _, folder = rest.partition("/")
        return CloudLocation("gs", text, _bucket(text, bucket), _folder(text, folder))
    if scheme == "as":
        host, _, path = rest.partition("/")
        account, dot, _ = host.partition(".")
        if _ACCOUNT.fullmatch(account) is None:
            raise ValueError(f"'{text}' names no storage account: expected as://account/container/path")
        bucket, _, folder = path.partition("/")
        endpoint = f"https://{host}" if dot and not host.endswith(".blob.core.windows.net") else ""
        return CloudLocation("as", text, _bucket(text, bucket), _folder(text, folder), endpoint, account)
    raise ValueError(f"'{text}' is no path, s3://, gs:// or as:// location")


def _s3(text: str, rest: str) -> CloudLocation:
    server = _SERVER.match(rest)
    if server is None or not (server["protocol"] or server["port"]):
        bucket, _, folder = rest.partition("/")
        return CloudLocation("s3", text, _bucket(text, bucket), _folder(text, folder))
    if server["port"] and not 0 < int(server["port"]) < 65536:
        raise ValueError(f"'{text}' names port {server['port']}, which is none")
    endpoint = f"{server['protocol'] or 'http'}://{server['host']}" + (f":{server['port']}" if server["port"] else "")
    bucket, _, folder = rest[server.end() :].lstrip("/").partition("/")
    return CloudLocation("s3", text, _bucket(text, bucket), _folder(text, folder), endpoint)


def _bucket(text: str, bucket: str) -> str:
    if _BUCKET.fullmatch(bucket) is None:
        raise ValueError(f"'{text}' names no bucket")
    return bucket


def _folder(text: str, folder: str) -> str:
    parts = [part for part in folder.split("/") if part]
    if any(part in (".", "..") for part in parts):
        raise ValueError(f"'{text}' has '.' or '..' in its path, which no bucket knows")
    return "/".join(parts)

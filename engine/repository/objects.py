"""What is in a bucket, through the `obstore` package. Blocking; every call comes back, whatever the server does.

pages(after)   what a listing brings, a page at a time: nobody has to take all of it
chunks(stored) the bytes of one object
"""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from ...schema.fault import InvalidArgument, Unavailable, Unsupported
from .credentials import options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .locations import CloudLocation

log = logging.getLogger("despina.engine.repository.objects")

PAGE_KEYS = 1000
CHUNK_BYTES = 1 << 20

CONNECT_S = 5.0
SILENCE_S = 20.0
"""How long a server may send nothing."""
ANSWER_S = 60.0
"""How long a listing's page may take in all."""
RETRIES = 3
RETRY_S = 60.0


@attrs.frozen
class Stored:
    """One object, as a listing says."""

    key: str
    """Below the location's folder."""
    size: int
    modified_ns: int
    tag: str
    """Differs for another content, where the server knows one."""


_GOOGLE_IDENTITIES = {"service_account", "application_credentials", "skip_signature"}


class Objects(Protocol):
    """The objects below one location."""

    def pages(self, folder: str = "", after: str = "") -> Iterator[list[Stored]]:
        """All in that folder, or those behind the key `after`, sorted. Raises Unavailable, InvalidArgument."""
        ...

    def is_folder(self, stored: Stored) -> bool:
        """Whether an empty object only stands for a folder: listings do not tell. Raises Unavailable."""
        ...

    def chunks(self, stored: Stored) -> Iterator[bytes]:
        """The object's bytes, in order. Raises Unavailable, also for one that has changed since it was listed."""
        ...


class Bucket:
    """See Objects. May be used from any threads."""

    def __init__(self, location: CloudLocation) -> None:
        """Raises Unsupported without the package, InvalidArgument for credentials that cannot be read."""
        self._location = location
        self._connect(options(location, os.environ))

    def _connect(self, known: dict[str, Any]) -> None:
        self._known = known
        self._for_pages = _client(self._location, known, timeout=timedelta(seconds=ANSWER_S))
        self._for_chunks = _client(self._location, known)

    def _become_nobody(self) -> bool:
        """For a public bucket of Google's, where neither a credential is given nor a machine's own is there."""
        if self._location.scheme != "gs" or self._known.keys() & _GOOGLE_IDENTITIES:
            return False
        log.info("no credential opens %s: trying without any", self._location.text)
        self._connect({**self._known, "skip_signature": True})
        return True

    def pages(self, folder: str = "", after: str = "") -> Iterator[list[Stored]]:
        import obstore.exceptions

        start = f"{self._location.prefix}/" if self._location.prefix else ""
        begun = False
        try:
            for page in obstore.list(
                self._for_pages, start + folder, offset=start + after if after else None, chunk_size=PAGE_KEYS
            ):
                begun = True
                yield [
                    Stored(
                        key=entry["path"][len(start) :],
                        size=entry["size"],
                        modified_ns=int(entry["last_modified"].timestamp() * 1_000_000_000),
                        tag=entry["e_tag"] or "",
                    )
                    for entry in page
                    if entry["path"].startswith(start)
                ]
        except obstore.exceptions.BaseError as error:
            if begun or not self._become_nobody():
                raise self._fault("listing", error) from error
            yield from self.pages(folder, after)

    def is_folder(self, stored: Stored) -> bool:
        import obstore.exceptions

        try:
            obstore.head(self._for_pages, self._key(stored))
        except (FileNotFoundError, obstore.exceptions.NotFoundError):
            return True  # its key has a slash at the end, which the package takes away
        except obstore.exceptions.BaseError as error:
            raise self._fault(f"looking at '{stored.key}' of", error) from error
        return False

    def chunks(self, stored: Stored) -> Iterator[bytes]:
        import obstore.exceptions

        key = self._key(stored)
        try:
            answer = obstore.get(self._for_chunks, key)
            if (answer.meta["e_tag"] or "") != stored.tag:
                raise Unavailable(f"'{key}' of {self._location.text} was changed while it was fetched; try again later")
            for chunk in answer.stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)
        except (OSError, obstore.exceptions.BaseError) as error:
            raise self._fault(f"fetching '{stored.key}' of", error) from error

    def _key(self, stored: Stored) -> str:
        return f"{self._location.prefix}/{stored.key}" if self._location.prefix else stored.key

    def _fault(self, doing: str, error: Exception) -> Unavailable | InvalidArgument:
        text = _said(error)
        kind = InvalidArgument if type(error).__name__ == "InvalidPathError" else Unavailable
        return kind(f"{doing} {self._location.text} failed: {text}")


def check_installed(location: CloudLocation) -> None:
    """Raises Unsupported without the package that speaks to clouds."""
    try:
        import obstore.store  # noqa: F401
    except ImportError as problem:
        raise Unsupported(
            f"{location.scheme}:// file-system not supported. To enable, `pip install 'despina[cloud]'`: {problem}"
        ) from problem


def _client(location: CloudLocation, known: dict[str, Any], **client_options: Any) -> Any:
    check_installed(location)
    from obstore.store import AzureStore, GCSStore, S3Store

    client: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=CONNECT_S),
        "read_timeout": timedelta(seconds=SILENCE_S),
        "allow_http": True,
        **client_options,
    }
    retry: dict[str, Any] = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_S)}
    common: dict[str, Any] = {"client_options": client, "retry_config": retry, **known}
    try:
        if location.scheme == "s3":
            return S3Store(location.bucket, virtual_hosted_style_request=False, **common)
        if location.scheme == "gs":
            return GCSStore(location.bucket, **common)
        return AzureStore(location.bucket, **common)
    except Exception as error:
        text = _said(error)
        raise InvalidArgument(f"the credentials for {location.text} are of no use: {text}") from error


def _said(error: Exception) -> str:
    """What the package says, on one line, without what is for its developers."""
    return " ".join(str(error).partition("\n\nDebug source")[0].split())

"""Where a server is, as people write it.

models.example[:8000]            HTTP (gRPC with --protocol grpc)
http://, https://                HTTP
grpc://, grpcs://                gRPC
unix:/run/http.sock              HTTP at a Unix socket; unix:@name for one without a file
grpc+unix:/run/grpc.sock         gRPC at one
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal

import attrs

from .calls import BadCall

if TYPE_CHECKING:
    from collections.abc import Mapping

Protocol = Literal["http", "grpc"]

_SCHEMES: Final[Mapping[str, tuple[Protocol, bool]]] = {
    "http": ("http", False),
    "https": ("http", True),
    "grpc": ("grpc", False),
    "grpcs": ("grpc", True),
}
_UNIX: Final = re.compile(r"(?:(http|grpc)\+)?unix:(?://)?(.+)")


@attrs.frozen
class Place:
    protocol: Protocol
    host: str
    """Without the brackets of IPv6; `localhost` at a Unix socket."""
    port: int
    tls: bool
    path: str = ""
    """Of a Unix socket; with @ in front it has no file."""

    @property
    def authority(self) -> str:
        """As in a URL: `[::1]:8000`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def socket_path(self) -> str:
        """As the system has it."""
        return "\0" + self.path[1:] if self.path.startswith("@") else self.path

    def __str__(self) -> str:
        if self.path:
            return f"{self.protocol}+unix:{self.path}"
        return f"{self.protocol}{'s' if self.tls else ''}://{self.authority}"


def read_place(url: str, protocol: Protocol | None = None) -> Place:
    """The place that was typed; a given protocol wins over the scheme's. Raises BadCall."""
    if unix := _UNIX.fullmatch(url):
        named: Protocol = "grpc" if unix[1] == "grpc" else "http"
        return Place(protocol or named, "localhost", 0, tls=False, path=unix[2])
    scheme, separator, place = url.rstrip("/").rpartition("://")
    if separator and scheme not in _SCHEMES:
        raise BadCall(
            f"--url is HOST[:PORT], after http://, https://, grpc:// or grpcs:// if you like, or unix:PATH, got '{url}'"
        )
    spoken, tls = _SCHEMES.get(scheme, ("http", False))
    spoken = protocol or spoken
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, port = place, str(443 if tls else 8001 if spoken == "grpc" else 8000)
    if not port.isdigit() or not host or "/" in host:
        raise BadCall(f"--url is HOST or HOST:PORT, got '{url}'")
    return Place(spoken, host.removeprefix("[").removesuffix("]"), int(port), tls)

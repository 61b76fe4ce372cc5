"""The options of every verb that asks a running server."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, Literal

import attrs
import click

from .calls import BadCall, CallFailed, Calls
from .place import Place, read_place
from .trust import Trust

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .place import Protocol


@attrs.frozen(kw_only=True)
class Server:
    """A server as the options describe it."""

    url: str
    protocol: Protocol | None
    headers: Sequence[str]
    trust: Trust
    timeout: float

    def place(self) -> Place:
        return read_place(self.url, self.protocol)

    @contextlib.contextmanager
    def calls(self) -> Iterator[Calls]:
        """A connection. What fails with BadCall or CallFailed inside becomes the command's error."""
        try:
            calls = self._open()
            try:
                yield calls
            finally:
                calls.close()
        except (BadCall, CallFailed) as problem:
            raise click.ClickException(str(problem)) from None

    def _open(self) -> Calls:
        place = self.place()
        given = self.trust.given()
        if given and not place.tls:
            raise BadCall(f"{given} is for https:// and grpcs://, got '{self.url}'")
        headers = dict(_header(text) for text in self.headers)
        tls = self.trust.context() if place.tls else None
        if place.protocol == "grpc":
            from .over_grpc import GrpcCalls  # imported when asked for: it brings asyncio

            return GrpcCalls(place, headers, self.timeout, tls)
        from .over_http import HttpCalls

        return HttpCalls(place, headers, self.timeout, tls)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or any(character in text for character in "\r\n"):
        raise BadCall(f"--header is NAME:VALUE, got '{text}'")
    return name.strip(), value.strip()


def server_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options; `verb` gets them as one Server, by the name of `server`."""

    @click.option(
        "--url",
        default="localhost",
        metavar="URL",
        help="The server: HOST[:PORT], after http://, https://, grpc:// or grpcs:// if you like; unix:PATH or "
        "grpc+unix:PATH. Without a port: 8000, 8001 for gRPC, 443 with TLS. [localhost]",
    )
    @click.option("--protocol", type=click.Choice(["http", "grpc"]), help="Of a --url without a scheme. [http]")
    @click.option("-H", "--header", "headers", multiple=True, metavar="NAME:VALUE", help="Send it along. Repeatable.")
    @click.option("--ca-file", default="", type=click.Path(), metavar="PEM", help="Trust these authorities, too.")
    @click.option("--cert", default="", type=click.Path(), metavar="PEM", help="The client's certificate.")
    @click.option("--key", default="", type=click.Path(), metavar="PEM", help="Its key, if not in the same file.")
    @click.option("--insecure", is_flag=True, help="Believe any certificate.")
    @click.option(
        "--timeout",
        default=60.0,
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="For each step. [60]",
    )
    @functools.wraps(verb)
    def with_server(
        *,
        url: str,
        protocol: Literal["http", "grpc"] | None,
        headers: Sequence[str],
        ca_file: str,
        cert: str,
        key: str,
        insecure: bool,
        timeout: float,
        **rest: Any,
    ) -> Any:
        trust = Trust(ca_file=ca_file, cert=cert, key=key, insecure=insecure)
        return verb(server=Server(url=url, protocol=protocol, headers=headers, trust=trust, timeout=timeout), **rest)

    return with_server

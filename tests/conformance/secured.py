"""TLS as clients speak it: the options of a server, the four real clients, and bare connections."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl

import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio

from tests.conformance.wire import WAIT_S, connect

KINDS = {
    "http": tritonclient.http,
    "http.aio": tritonclient.http.aio,
    "grpc": tritonclient.grpc,
    "grpc.aio": tritonclient.grpc.aio,
}


def options(certificates, *doors, mutual=False):
    """The command line's part on TLS. Mutual TLS needs no word that it is TLS."""
    made = []
    for door in doors:
        made += [f"--{door}-server-cert={certificates.path('server.pem')}"]
        made += [f"--{door}-server-key={certificates.path('server.key')}"]
        made += [f"--{door}-root-cert={certificates.path('root.pem')}"]
        made += [f"--{door}-use-ssl-mutual=true" if mutual else f"--{door}-use-ssl=true"]
    return made


class Waiting:
    """An asyncio client whose calls return when they are done."""

    def __init__(self, runner, client):
        self._runner, self._client = runner, client

    def __getattr__(self, name):
        method = getattr(self._client, name)
        return lambda *arguments, **named: self._runner.run(waited(method(*arguments, **named)))


async def waited(coroutine):
    """The result, which may not take longer than WAIT_S."""
    return await asyncio.wait_for(coroutine, WAIT_S)


@contextlib.contextmanager
def client_of(kind, server, certificates=None, who="", root="root.pem"):
    """A client of that kind with the certificate of `who`, who trusts `root`; without certificates one that speaks no
    TLS. asyncio's calls wait."""
    module = KINDS[kind]
    address = f"localhost:{server.http_port if kind.startswith('http') else server.grpc_port}"
    if certificates is None:
        named = {}
    elif kind.startswith("grpc"):
        named = {"ssl": True, "root_certificates": certificates.path(root)}
        if who:
            named |= {
                "private_key": certificates.path(f"{who}.key"),
                "certificate_chain": certificates.path(f"{who}.pem"),
            }
    elif kind == "http":
        named = {"ssl": True, "ssl_options": {"ca_certs": certificates.path(root)}, "connection_timeout": WAIT_S}
        if who:
            named["ssl_options"] |= {
                "certfile": certificates.path(f"{who}.pem"),
                "keyfile": certificates.path(f"{who}.key"),
            }
            named["ssl_context_factory"] = functools.partial(certificates.client_context, who)
    else:
        context = ssl.create_default_context(cafile=certificates.path(root))
        if who:
            context.load_cert_chain(certificates.path(f"{who}.pem"), certificates.path(f"{who}.key"))
        named = {"ssl": True, "ssl_context": context}
    if not kind.endswith("aio"):
        with module.InferenceServerClient(address, **named) as client:
            yield client
        return
    with asyncio.Runner() as runner:

        async def opened():
            return module.InferenceServerClient(address, **named)

        client = runner.run(opened())
        try:
            yield Waiting(runner, client)
        finally:
            runner.run(client.close())


@contextlib.contextmanager
def secured(port, context, session=None):
    """A bare connection after its handshake, with the session of one before. A stream that ends without a word, which
    anybody on the way can bring about, is an SSLEOFError."""
    with (
        connect(port) as plain,
        context.wrap_socket(plain, server_hostname="localhost", session=session, suppress_ragged_eofs=False) as sock,
    ):
        yield sock


def protocol_of(port, context):
    """What ALPN came to. Raises OSError if the handshake fails."""
    with secured(port, context) as sock:
        return sock.selected_alpn_protocol()

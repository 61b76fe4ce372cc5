"""Certificates for tests of TLS, as files."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import attrs
import trustme
from despina.frontends.tls import TlsSettings

if TYPE_CHECKING:
    from pathlib import Path


@attrs.frozen
class Certificates:
    """A server's and a client's certificate of one authority; and an authority that nobody trusts."""

    folder: Path

    @classmethod
    def write(cls, folder: Path) -> Certificates:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "root.pem")
        for who, issuer in (("server", authority), ("client", authority), ("stranger", trustme.CA())):
            issued = issuer.issue_cert("localhost", "127.0.0.1")
            issued.private_key_pem.write_to_path(folder / f"{who}.key")
            (folder / f"{who}.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        return cls(folder)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def settings(self, *, mutual: bool = False) -> TlsSettings:
        """For a server."""
        return TlsSettings(
            server_cert=self.path("server.pem"),
            server_key=self.path("server.key"),
            root_cert=self.path("root.pem"),
            mutual=mutual,
        )

    def client_context(self, who: str = "", *protocols: str) -> ssl.SSLContext:
        """For a client that trusts the authority, with the certificate of `who`."""
        context = ssl.create_default_context(cafile=self.path("root.pem"))
        if who:
            context.load_cert_chain(self.path(f"{who}.pem"), self.path(f"{who}.key"))
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context

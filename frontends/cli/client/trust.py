"""TLS as a client: whom to believe, and who one is."""

from __future__ import annotations

import ssl

import attrs

from .calls import BadCall


@attrs.frozen(kw_only=True)
class Trust:
    """PEM files; empty for none."""

    ca_file: str = ""
    """Authorities beside the system's."""
    cert: str = ""
    """The client's own certificate, for servers that ask for one."""
    key: str = ""
    insecure: bool = False
    """Believe anybody."""

    def context(self) -> ssl.SSLContext:
        """Raises BadCall for files that cannot be used."""
        context = ssl.create_default_context()
        if self.ca_file:
            try:
                context.load_verify_locations(self.ca_file)
            except OSError as error:  # SSLError is one, for a file without certificates
                raise BadCall(f"--ca-file {self.ca_file}: {error.strerror or error}") from None
        if self.cert:
            try:
                context.load_cert_chain(self.cert, self.key or None)
            except OSError as error:
                raise BadCall(f"--cert {self.cert}: {error.strerror or error}") from None
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def given(self) -> str:
        """The first option that only TLS has a use for; empty for none."""
        pairs = {"--ca-file": self.ca_file, "--cert": self.cert, "--key": self.key, "--insecure": self.insecure}
        return next((name for name, value in pairs.items() if value), "")


def tls_problem(error: Exception) -> str:
    """What is wrong where two cannot agree on TLS; empty for other errors."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}; --ca-file names another authority"
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return "it does not speak TLS; leave https:// out"
    if isinstance(error, ssl.SSLError) and error.reason and "CERTIFICATE_REQUIRED" in error.reason:
        return "it asks for a client's certificate; --cert and --key name one"
    return ""

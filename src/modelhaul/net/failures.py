"""What the system's and TLS's errors mean, for every path that opens connections."""

from __future__ import annotations

import socket
import ssl

from modelhaul.errors import CertificateError, ConnectFailed, HaulError

#: What OpenSSL says of an answer that is no TLS at all.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNEXPECTED_MESSAGE"})
NO_CONNECTION = "is the address right, and is the network there?"


def connect_failed(where: str, error: OSError) -> HaulError:
    """The error for a connection that could not be made.

    Args:
        where: the address as it may be shown.
        error: what the system, the resolver or the TLS library said.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return untrusted(where, error)
    if isinstance(error, socket.gaierror):
        return ConnectFailed(
            f"no address known for the host of {where}", hint="check the name and the network"
        )
    if isinstance(error, TimeoutError):
        return ConnectFailed(f"no connection to {where} in time", hint=NO_CONNECTION)
    if isinstance(error, ssl.SSLError) and error.reason in _NO_TLS:
        return ConnectFailed(
            f"no connection to {where}: the server speaks no TLS",
            hint="is its address http:// instead of https://?",
        )
    why = one_line(error.strerror or str(error)) or type(error).__name__
    return ConnectFailed(f"no connection to {where}: {why}", hint=NO_CONNECTION)


def untrusted(where: str, error: BaseException) -> CertificateError:
    """The error for a certificate that nobody here trusts."""
    reason = getattr(error, "verify_message", "") or "certificate verify failed"
    return CertificateError(
        f"{where} is not trusted: {reason}",
        hint="if the site has its own authority, name its file in SSL_CERT_FILE",
    )


def one_line(text: str) -> str:
    """A foreign message as part of ours."""
    return " ".join(text.split())[:200]

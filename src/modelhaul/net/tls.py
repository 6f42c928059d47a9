"""Which certificates are trusted."""

from __future__ import annotations

import ssl

from modelhaul.errors import CertificateError
from modelhaul.settings import Settings


def tls_context(settings: Settings) -> ssl.SSLContext:
    """A context for clients, by the settings: HTTP/1.1 only.

    Raises:
        CertificateError: the certificates cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ca_file, capath=settings.ca_folder)
    except OSError as error:
        raise CertificateError(
            f"the certificates in {settings.ca_file or settings.ca_folder} cannot be read"
            f" ({error.strerror or error})",
            hint="check SSL_CERT_FILE, SSL_CERT_DIR, REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE",
        ) from None
    context.set_alpn_protocols(["http/1.1"])
    return context

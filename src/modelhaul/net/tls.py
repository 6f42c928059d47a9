"""Which certificates are trusted."""

from __future__ import annotations

import ssl

import anyio
from anyio import to_thread

from modelhaul.errors import CertificateError
from modelhaul.settings import Settings


class Trust:
    """The context of one transport: made once, when first asked for, in a thread.

    Reading a system's certificates takes some 20 ms, which the loop would miss.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._making = anyio.Lock()
        self._context: ssl.SSLContext | None = None

    async def context(self) -> ssl.SSLContext:
        """The context.

        Raises:
            CertificateError: the certificates cannot be read.
        """
        async with self._making:
            if self._context is None:
                self._context = await to_thread.run_sync(tls_context, self._settings)
            return self._context


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

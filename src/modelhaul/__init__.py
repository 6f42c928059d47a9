"""modelhaul moves model weights: fast, resumable, proven by digest.

Names are loaded when they are first used: the command line asks for a few of them only, and what
it does not ask for would cost it a fifth of a second at every start.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from modelhaul.version import __version__

if TYPE_CHECKING:
    from modelhaul import events
    from modelhaul.client import Client, download, get, verify
    from modelhaul.core.plan import Action, FilePlan, Plan
    from modelhaul.errors import (
        AccessError,
        CertificateError,
        ConnectFailed,
        ConnectionLost,
        DiskFull,
        HaulError,
        IntegrityError,
        NotFound,
        NothingMatched,
        Occupied,
        ProtocolError,
        QuotaError,
        Stalled,
        StatusError,
        StorageError,
        TimedOut,
        TransportError,
        Unauthorized,
        UnsafeName,
        UsageError,
    )
    from modelhaul.report import (
        FileCheck,
        FileResult,
        Incomplete,
        Report,
        VerifyFailed,
        VerifyReport,
    )
    from modelhaul.settings import Settings

__all__ = [
    "download",
    "get",
    "verify",
    "Client",
    "Settings",
    "Report",
    "FileResult",
    "VerifyReport",
    "FileCheck",
    "Plan",
    "FilePlan",
    "Action",
    "events",
    "HaulError",
    "UsageError",
    "NothingMatched",
    "AccessError",
    "NotFound",
    "Unauthorized",
    "QuotaError",
    "TransportError",
    "ConnectFailed",
    "ConnectionLost",
    "TimedOut",
    "Stalled",
    "CertificateError",
    "ProtocolError",
    "StatusError",
    "IntegrityError",
    "StorageError",
    "DiskFull",
    "Occupied",
    "UnsafeName",
    "Incomplete",
    "VerifyFailed",
    "__version__",
]

_HOMES = {
    "Client": "modelhaul.client",
    "download": "modelhaul.client",
    "get": "modelhaul.client",
    "verify": "modelhaul.client",
    "Action": "modelhaul.core.plan",
    "FilePlan": "modelhaul.core.plan",
    "Plan": "modelhaul.core.plan",
    "AccessError": "modelhaul.errors",
    "CertificateError": "modelhaul.errors",
    "ConnectFailed": "modelhaul.errors",
    "ConnectionLost": "modelhaul.errors",
    "DiskFull": "modelhaul.errors",
    "HaulError": "modelhaul.errors",
    "IntegrityError": "modelhaul.errors",
    "NotFound": "modelhaul.errors",
    "NothingMatched": "modelhaul.errors",
    "Occupied": "modelhaul.errors",
    "ProtocolError": "modelhaul.errors",
    "QuotaError": "modelhaul.errors",
    "Stalled": "modelhaul.errors",
    "StatusError": "modelhaul.errors",
    "StorageError": "modelhaul.errors",
    "TimedOut": "modelhaul.errors",
    "TransportError": "modelhaul.errors",
    "Unauthorized": "modelhaul.errors",
    "UnsafeName": "modelhaul.errors",
    "UsageError": "modelhaul.errors",
    "FileCheck": "modelhaul.report",
    "FileResult": "modelhaul.report",
    "Incomplete": "modelhaul.report",
    "Report": "modelhaul.report",
    "VerifyFailed": "modelhaul.report",
    "VerifyReport": "modelhaul.report",
    "Settings": "modelhaul.settings",
}


def __getattr__(name: str) -> object:
    """Load a public name (PEP 562)."""
    if name == "events":
        return import_module("modelhaul.events")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

"""modelhaul moves model weights: fast, resumable, proven by SHA-256."""

from modelhaul import events
from modelhaul.client import Client, download, get
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
from modelhaul.report import FileResult, Incomplete, Report
from modelhaul.settings import Settings
from modelhaul.version import __version__

__all__ = [
    "download",
    "get",
    "Client",
    "Settings",
    "Report",
    "FileResult",
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
    "__version__",
]

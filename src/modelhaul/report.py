"""What `download()` and `get()` return, and the error that carries it when files are missing.

A report is an `os.PathLike`: pass it wherever the path of the result is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from modelhaul.errors import HaulError

How = Literal["fetched", "kept", "copied", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileResult:
    """One file of a run.

    Attributes:
        path: path inside the repository, with `/`.
        final: where the file stands on this machine.
        how: `fetched` over the network, `kept` because it was there and proven, `copied` from
            another file on this disk (or from one of this run, or with a second name for the same
            file where a cache allows that), or `failed`.
        size: bytes.
        sha256: digest of the content in hex, proven or computed here; None if not known.
        verified: the digest was stated by the hub or the caller, and the bytes have it.
        fetched: payload bytes received over the network, repeats included.
        hedged: bytes of `fetched` that came twice because a connection was late and a second one
            was asked for the same.
        reused: bytes that lay on disk already and were not fetched.
        proof_seconds: seconds from the last byte to the verdict; None if nothing was fetched.
        sources: where the bytes came from, as `scheme://host[:port]`.
        disproven: sources that sent wrong bytes, as the digest has shown, as the user named them.
            The file is right all the same: those bytes were fetched again.
        failing: sources that refused or broke off when they were last asked, named in the same way.
            Others brought what they would have.
        error: why it failed, or None.
    """

    path: str
    final: str
    how: How
    size: int
    sha256: str | None = None
    verified: bool = False
    fetched: int = 0
    hedged: int = 0
    reused: int = 0
    proof_seconds: float | None = None
    sources: tuple[str, ...] = ()
    disproven: tuple[str, ...] = ()
    failing: tuple[str, ...] = ()
    error: HaulError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run did.

    Attributes:
        path: the folder (or, from `get`, the file) that holds the result.
        name: `owner/name`, or the URL without its query.
        revision: what was asked for, None for plain URLs.
        commit: what it was resolved to, None where the server cannot say.
        files: one result per file, in the order of the listing.
        seconds: duration of the run.
        connections: most connections that were open at once.
        by_source: bytes received over the network from each source, repeats included, as the user
            named them.
        notes: what a person may want to know: left-over parts, files gone upstream.
    """

    path: str
    name: str
    revision: str | None
    commit: str | None
    files: tuple[FileResult, ...]
    seconds: float
    connections: int = 0
    by_source: Mapping[str, int] = field(default_factory=dict, hash=False)
    notes: tuple[str, ...] = field(default=())

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def fetched(self) -> int:
        """Payload bytes received over the network."""
        return sum(file.fetched for file in self.files)

    @property
    def hedged(self) -> int:
        """Bytes of those that came twice because a connection was late."""
        return sum(file.hedged for file in self.files)

    @property
    def reused(self) -> int:
        """Bytes that lay on disk already, wherever."""
        return sum(file.reused for file in self.files)

    @property
    def copied(self) -> int:
        """Bytes of those that were copied from another place."""
        return sum(file.reused for file in self.files if file.how == "copied")

    @property
    def verified(self) -> bool:
        """Every file has the digest that the hub or the caller stated."""
        return all(file.verified for file in self.files)

    def __fspath__(self) -> str:
        return self.path

    @property
    def causes(self) -> tuple[HaulError, ...]:
        """Why files failed, without those that failed only because others did.

        A plain `HaulError` is such a consequence: held back, or the copy of a file that failed.
        """
        errors = tuple(file.error for file in self.files if file.error is not None)
        return tuple(error for error in errors if type(error) is not HaulError) or errors


class Incomplete(HaulError):
    """Some files arrived and some did not. Progress is kept; `report` says which is which.

    It is retryable if any of the failures is. Where nothing at all arrived it has the exit code of
    the first failure: 3 promises that the others are there.
    """

    exit_code = 3

    def __init__(self, message: str, *, report: Report, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.report = report
        self.retryable = any(error.retryable for error in report.causes)
        if report.causes and all(file.error is not None for file in report.files):
            self.exit_code = report.causes[0].exit_code


Finding = Literal["right", "unproven", "wrong", "missing", "repaired"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCheck:
    """One file that was compared with its hub.

    Attributes:
        path: path inside the repository, with `/`.
        final: where it stands, or should stand.
        finding: `right`: its bytes have the stated digest; `unproven`: the hub states none, and
            the size is right; `wrong`: other bytes, or nothing that can be read, stand there;
            `missing` (in Hugging Face's cache both may be true of the name in the snapshot alone);
            `repaired`: it was wrong or missing and is right now.
        size: bytes that the hub states; None if it does not.
        sha256: digest that the hub states in hex; None if it does not.
        git_sha1: the name of the content as a git blob, likewise. It judges where no SHA-256 does.
        reason: why it is wrong, in words; "" if there is nothing to say.
    """

    path: str
    final: str
    finding: Finding
    size: int | None
    sha256: str | None
    git_sha1: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What `verify()` found, and mended.

    Attributes:
        path: the folder that was checked.
        name, revision, commit: what it was compared with.
        files: one per file of the repository that was asked for, in the order of the listing.
        seconds: duration.
        fetched: payload bytes received over the network for repairs.
        repair_error: why some files could not be repaired, None if that is not so.
        notes: what a person may want to know: files that the hub does not list.
    """

    path: str
    name: str
    revision: str | None
    commit: str | None
    files: tuple[FileCheck, ...]
    seconds: float
    fetched: int = 0
    repair_error: HaulError | None = None
    notes: tuple[str, ...] = field(default=())

    def found(self, *findings: Finding) -> tuple[FileCheck, ...]:
        """The files of which one of these is true."""
        return tuple(file for file in self.files if file.finding in findings)

    @property
    def ok(self) -> bool:
        """Nothing is wrong and nothing is missing."""
        return not self.found("wrong", "missing")

    @property
    def error(self) -> VerifyFailed | None:
        """What is wrong, to be raised by whom it stops; None if nothing is."""
        return None if self.ok else VerifyFailed(self)

    def __fspath__(self) -> str:
        return self.path


class VerifyFailed(HaulError):
    """Files are wrong (exit code 8), or only missing (3); `report` says which."""

    exit_code = 8

    def __init__(self, report: VerifyReport) -> None:
        wrong, missing = report.found("wrong"), report.found("missing")
        counts = [f"{len(wrong)} wrong"] * bool(wrong) + [f"{len(missing)} missing"] * bool(missing)
        failed = report.repair_error
        names = [file.path for file in (wrong + missing)[:5]]
        more = ["..."] * (len(wrong) + len(missing) > len(names))
        super().__init__(
            f"{report.path}: {' and '.join(counts)} of {len(report.files)} files:"
            f" {', '.join(names + more)}",
            hint="--repair fetches them; give the --revision and --include of the download, too"
            if failed is None
            else failed.hint,
        )
        self.__cause__ = failed
        self.report = report
        self.retryable = failed is not None and failed.retryable
        if not wrong:
            self.exit_code = 3

"""The use case `verify`: a tree on this disk against the digests of its hub, and its repair.

Every file is read from the disk and hashed, whatever the memory of proven files and the page cache
say: what a disk changed by itself shows in no time stamp. A repair is a download of the files that
are wrong or missing: beside the old ones, which stay until the new ones are proven.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from modelhaul.core.plan import Action, FilePlan, Found, Plan
from modelhaul.core.repo import RemoteFile
from modelhaul.core.units import size_text
from modelhaul.errors import HaulError, Occupied, UsageError
from modelhaul.events import FileChecked, Verified
from modelhaul.report import FileCheck, FileResult, Finding, Incomplete, VerifyReport
from modelhaul.store.layout import Layout, LocalFolder
from modelhaul.store.whose import holding
from modelhaul.usecases.compare import Prepared, compare, tell_plan
from modelhaul.usecases.download import Wish, resolve
from modelhaul.usecases.job import Emitter, Resources
from modelhaul.usecases.run import bring


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderWish:
    """A check of a folder that says itself which repository it holds.

    Attributes:
        folder: what is checked.
        revision: instead of the one that the folder names.
        names, include, exclude, endpoint, token: as of `Wish`.
    """

    folder: Path
    revision: str | None = None
    names: Sequence[str] = ()
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    endpoint: str | None = None
    token: str | None = None


async def verify(
    resources: Resources, wish: Wish | FolderWish, emit: Emitter, *, repair: bool
) -> VerifyReport:
    """Compare a tree with its hub; with `repair`, bring what is wrong or missing.

    Raises:
        UsageError: the folder does not exist, or does not say which repository it holds.
        NotFound, Unauthorized, TransportError, QuotaError, ProtocolError: the hub.
        HaulError: as `modelhaul.run.bring`, for a repair, if nothing at all could be had.
    """
    started = time.monotonic()
    if isinstance(wish, FolderWish):
        wish = await resources.threads.write(_wish_for, wish)
    elif wish.local_dir is not None:
        await resources.threads.write(_check_folder, wish.local_dir, str(wish.ref))
    # By force: no memory counts, and a repair may replace what stands there.
    job = await resolve(resources, replace(wish, force=True), emit)
    seen = await compare(resources, job, emit, patient=True)
    plans = {plan.file.path: plan for plan in seen.plan}
    safe = [path for path, plan in plans.items() if not plan.unsafe]
    unnamed = await resources.threads.write(_unnamed, job.layout, safe)
    checks = [
        # What stands in the place of another file is what that one is.
        _check(seen, plan.file, plans[seen.shared.get(path, path)], unnamed.get(path))
        for path, plan in plans.items()
    ]
    for check in checks:
        emit(FileChecked(path=check.path, finding=check.finding, reason=check.reason))
    fetched = 0
    repair_error: HaulError | None = None
    if repair and any(check.finding in ("wrong", "missing") for check in checks):
        mending = _mending(seen, checks)
        tell_plan(mending.plan, emit)
        files: Sequence[FileResult] = ()
        try:
            brought = await bring(resources, mending, emit, partly=True)
            files = brought.files
        except Incomplete as error:
            files, repair_error = error.report.files, error
        except Occupied as error:
            repair_error = error  # wherever it should write: each file is as it was found
        fetched = sum(file.fetched for file in files)
        if files:
            checks = [_mended(check, file) for check, file in zip(checks, files, strict=True)]
    report = VerifyReport(
        path=str(job.layout.shown),
        name=job.name,
        revision=job.revision,
        commit=job.commit,
        files=tuple(checks),
        seconds=time.monotonic() - started,
        fetched=fetched,
        repair_error=repair_error,
        notes=tuple(emit.notes),
    )
    emit(_verified(report, by_git_name=sum(file.named_by_git for file in job.files)))
    return report


def _check_folder(folder: Path, name: str) -> None:
    """A folder that is not there is a slip, not a hundred missing files. Blocks."""
    if not folder.expanduser().is_dir():
        raise UsageError(
            f"{folder} is not a folder",
            hint=f"to download it there: modelhaul download {name} --local-dir {folder}",
        )


def _wish_for(wish: FolderWish) -> Wish:
    """The same for the repository that the folder says it holds. Blocks."""
    folder = LocalFolder.at(wish.folder)
    if not folder.root.is_dir():
        raise UsageError(
            f"{wish.folder} is not a folder",
            hint="a repository has the form owner/name; a folder has to exist",
        )
    held = holding(folder.root, wish.revision)
    if held is None:
        raise UsageError(
            f"{wish.folder} does not say which repository it holds",
            hint=f"name it: modelhaul verify owner/name --local-dir {wish.folder}",
        )
    return Wish(
        ref=held.ref,
        include=wish.include,
        exclude=wish.exclude,
        names=wish.names,
        endpoint=wish.endpoint,
        token=wish.token,
        # A folder of a cache is treated as one: other tools keep books about it.
        cache_dir=held.cache,
        local_dir=wish.folder if held.cache is None else None,
    )


def _unnamed(layout: Layout, paths: Iterable[str]) -> dict[str, tuple[Finding, str]]:
    """Files that tools would not find, though their places have the right bytes. Blocks."""
    found: dict[str, tuple[Finding, str]] = {}
    for path in paths:
        if layout.is_named(path):
            continue
        if os.path.lexists(layout.shown / path):
            found[path] = "wrong", "its bytes are here, but something else has its name"
        else:
            found[path] = "missing", "its bytes are here, but its name is not"
    return found


def _check(
    seen: Prepared, file: RemoteFile, plan: FilePlan, unnamed: tuple[Finding, str] | None
) -> FileCheck:
    """What is found of a file.

    Args:
        seen: the tree.
        file: as the hub describes it.
        plan: of the file in whose place it stands, as a rule its own.
        unnamed: why its name is no good, though its bytes may be.
    """
    finding, reason = _finding(seen, plan)
    if finding == "right" and unnamed is not None:
        finding, reason = unnamed
    # An unsafe name has no place here, and nobody may ask the file system about it.
    final = "" if plan.unsafe else str(seen.job.layout.final(file.path))
    return FileCheck(
        path=file.path,
        final=final,
        finding=finding,
        size=file.size,
        sha256=file.sha256,
        git_sha1=file.git_sha1,
        reason=reason,
    )


def _finding(seen: Prepared, plan: FilePlan) -> tuple[Finding, str]:
    file = plan.file
    if plan.unsafe:
        return "missing", f"its name must not be written: {plan.reason}"
    sight = seen.sights[file.path]
    if plan.action is Action.KEEP:
        return "right", ""
    if sight.found is Found.NOTHING:
        begun = plan.action is Action.FETCH and plan.reuse
        return (
            "missing",
            f"{size_text(plan.reuse)} of it are in an unfinished part" if begun else "",
        )
    if sight.found in (Found.FOLDER, Found.OTHER):
        return "wrong", f"{sight.found.value} stands there"
    if file.path in seen.unreadable:
        return "wrong", seen.unreadable[file.path]
    if sight.found is Found.LINK:
        return "wrong", "a symbolic link to something else stands there"
    size = None if sight.stamp is None else sight.stamp.size
    if size is not None and file.size is not None and size != file.size:
        return "wrong", f"it has {_bytes(size)}, and should have {_bytes(file.size)}"
    if file.content is None:
        return "unproven", "the hub states no digest"
    return "wrong", "its git name is another" if file.named_by_git else "its SHA-256 is another"


def _bytes(size: int) -> str:
    return f"{size} bytes" if size < 1000 else f"{size} bytes ({size_text(size)})"


def _mending(seen: Prepared, checks: Iterable[FileCheck]) -> Prepared:
    """The plan to bring what is bad, and nothing else: nobody can say that the unproven is."""
    unproven = {check.path for check in checks if check.finding == "unproven"}
    plans = [
        FilePlan(file=plan.file, action=Action.KEEP, reuse=plan.file.size or 0)
        if plan.file.path in unproven
        else plan
        for plan in seen.plan
    ]
    return replace(seen, plan=Plan(tuple(plans)))


def _mended(check: FileCheck, result: FileResult) -> FileCheck:
    """What it is after the repair."""
    if check.finding not in ("wrong", "missing"):
        return check
    if result.error is not None:
        return replace(check, reason=result.error.message)
    return replace(check, finding="repaired")


def _verified(report: VerifyReport, *, by_git_name: int) -> Verified:
    return Verified(
        path=report.path,
        files=len(report.files),
        size=sum(file.size or 0 for file in report.files),
        wrong=len(report.found("wrong")),
        missing=len(report.found("missing")),
        unproven=len(report.found("unproven")),
        repaired=len(report.found("repaired")),
        fetched=report.fetched,
        seconds=report.seconds,
        by_git_name=by_git_name,
    )

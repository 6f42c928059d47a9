"""The use case `get`: one file from plain URLs, all of them sources of the same bytes."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from modelhaul.core import names
from modelhaul.core.origin import shown
from modelhaul.core.repo import RemoteFile, Source, sha256_or_none
from modelhaul.errors import (
    AccessError,
    HaulError,
    IntegrityError,
    NotFound,
    ProtocolError,
    StatusError,
    TransportError,
    Unauthorized,
    UnsafeName,
    UsageError,
    single_error,
)
from modelhaul.events import Resolved, Waiting
from modelhaul.hubs.url import Address, Group, Probe, file_name, group, parse_address
from modelhaul.net.api import Patience
from modelhaul.report import Report
from modelhaul.store.holdings import Holdings
from modelhaul.store.layout import SingleFile
from modelhaul.usecases.compare import prepare
from modelhaul.usecases.job import Emitter, Job, Resources
from modelhaul.usecases.probe import probe
from modelhaul.usecases.run import execute

#: Seconds that the other addresses have to answer once one of them has.
_GRACE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlWish:
    """What `get` is asked for.

    Attributes:
        urls: sources of one file, the first one named first.
        path: file or existing folder to write to; None: the URL's name in the current folder.
        into: `path` is a folder, there or not.
        sha256: what the content must have; None if nobody knows.
        headers: for the origin of the first URL only: a key may be in them.
        force: believe no memory, and overwrite a file that is not ours.
    """

    urls: Sequence[str]
    path: Path | None = None
    into: bool = False
    sha256: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    force: bool = False


async def get(resources: Resources, wish: UrlWish, emit: Emitter) -> Report:
    """Bring one file to this machine.

    Raises:
        UsageError: no URL, a bad one, or a bad digest.
        UnsafeName: no path is given, and the URL's name must not be written.
        AccessError, TransportError, ProtocolError: no address could be read.
        HaulError: as `modelhaul.run.execute`.
    """
    addresses = _addresses(wish)
    sha256 = _digest(wish.sha256)
    layout = await resources.threads.write(_layout, wish, addresses[0])
    probes, unheard = await _probe_all(resources, addresses, emit)
    groups = group(layout.name, probes, sha256)
    first = groups[0].file
    emit(
        Resolved(
            name=shown(addresses[0].url), revision=None, commit=None, files=1, size=first.size or 0
        )
    )
    if len(groups) > 1:
        emit.note(
            f"{len(addresses)} addresses do not state the same file: those that do not agree with"
            f" {groups[0].sources[0]} are only used if it fails, from the beginning"
        )
    if unheard and first.identity is not None:
        # Each answer is checked for size and validator, so one that has not been heard of can
        # join; if it serves something else it is dropped before its first byte.
        joined = tuple(_source(address) for address in unheard)
        groups[0] = Group(first, groups[0].sources + joined)
        for source in joined:
            emit.note(f"{source} has not answered yet: it joins if it does")
        unheard = []
    return await _try_all(resources, wish, layout, groups, unheard, emit)


async def _try_all(
    resources: Resources,
    wish: UrlWish,
    layout: SingleFile,
    groups: list[Group],
    unheard: list[Address],
    emit: Emitter,
) -> Report:
    """The first group that can be had; each next one begins at byte 0."""
    while True:
        members = groups.pop(0)
        try:
            return await _bring(resources, wish, layout, members, emit)
        except (TransportError, ProtocolError, AccessError, IntegrityError) as error:
            if not groups and unheard:
                late, unheard = await _probe_all(resources, unheard, emit, patient=True)
                groups = group(layout.name, late, _digest(wish.sha256))
            if not groups:
                if isinstance(error, IntegrityError) and wish.sha256 is not None:
                    error.hint = "is that the SHA-256 of this file? nothing was left under its name"
                raise
            emit.note(f"{error.message}; trying {groups[0].sources[0]}")


async def _bring(
    resources: Resources, wish: UrlWish, layout: SingleFile, members: Group, emit: Emitter
) -> Report:
    def sources(_: RemoteFile) -> tuple[Source, ...]:
        return members.sources

    job = Job(
        name=shown(members.sources[0].url),
        revision=None,
        commit=None,
        files=(members.file,),
        whole=True,
        layout=layout,
        sources=sources,
        force=wish.force,
        trusted=True,
        holdings=None if wish.force or not resources.settings.reuse else Holdings(resources.index),
    )
    return await execute(resources, await prepare(resources, job, emit), emit)


def _addresses(wish: UrlWish) -> list[Address]:
    if not wish.urls:
        raise UsageError("no URL given")
    first = parse_address(wish.urls[0], wish.headers)
    rest = [parse_address(url, {}) for url in wish.urls[1:]]
    return [first] + [
        Address(other.url, other.origin, {**wish.headers, **other.credentials})
        if other.origin == first.origin
        else other
        for other in rest
    ]


def _digest(text: str | None) -> str | None:
    if text is None:
        return None
    digest = sha256_or_none(text.removeprefix("sha256:"))
    if digest is None:
        raise UsageError("--sha256 takes 64 hexadecimal digits")
    return digest


def _layout(wish: UrlWish, first: Address) -> SingleFile:
    path = wish.path
    if path is None:
        return SingleFile.at(Path(_safe_name(first)))
    if wish.into or path.expanduser().is_dir():
        return SingleFile.at(path / _safe_name(first))
    # The user's own name may be as strange as the disk allows, but for the one that we need.
    if path.name.casefold() == names.RESERVED_FOLDER:
        raise UsageError(f"{path}: {names.RESERVED_FOLDER} is the folder of our own state")
    return SingleFile.at(path)


def _safe_name(address: Address) -> str:
    """The name in a URL, which may be anybody's choice.

    Raises:
        UsageError: there is none; UnsafeName: it must not be written.
    """
    name = file_name(address.url)
    why = names.fault(name, windows=sys.platform == "win32")
    if why is not None:
        raise UnsafeName(
            f"refused to write {name!r}: {why}", hint="choose another name with -o PATH"
        )
    return name


# -- what the addresses say ----------------------------------------------------------------------


async def _probe_all(
    resources: Resources, addresses: Sequence[Address], emit: Emitter, *, patient: bool = False
) -> tuple[list[Probe], list[Address]]:
    """What the addresses say, in their order, and those that said nothing yet.

    Once one has answered the others have a second: a mirror that is down must not hold the rest
    up. Those that answer and cannot be used are dropped with a note.

    Raises:
        HaulError: none can be used; this is what was wrong with the first.
    """
    found: dict[int, Probe] = {}
    failed: dict[int, HaulError] = {}
    one_answered = anyio.Event()

    async def one(number: int, address: Address) -> None:
        try:
            found[number] = await _probe(resources, address, emit)
            one_answered.set()
        except HaulError as error:
            failed[number] = error

    async def hurry(scope: anyio.CancelScope) -> None:
        await one_answered.wait()
        await anyio.sleep(_GRACE)
        scope.cancel()

    try:
        async with anyio.create_task_group() as tasks:
            async with anyio.create_task_group() as probes:
                if not patient:
                    tasks.start_soon(hurry, probes.cancel_scope)
                for number, address in enumerate(addresses):
                    probes.start_soon(one, number, address)
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group_:
        raise single_error(group_) from group_
    if not found:
        raise failed[min(failed)]
    for error in failed.values():
        emit.note(f"not used: {error.message}")
    unheard = [
        address
        for number, address in enumerate(addresses)
        if number not in found and number not in failed
    ]
    return [found[number] for number in sorted(found)], unheard


def _source(address: Address) -> Source:
    return Source(address.url, address.origin, address.credentials)


async def _probe(resources: Resources, address: Address, emit: Emitter) -> Probe:
    def notify(reason: str, seconds: float) -> None:
        emit(Waiting(reason=reason, seconds=seconds))

    patience = Patience(notify=notify, chance=random.random)
    try:
        seen = await probe(resources.transport, _source(address), patience)
    except StatusError as error:
        if error.status in (404, 410):
            raise NotFound(error.message, hint="is the URL right?") from error
        if error.status in (401, 402, 403, 407, 451):
            raise Unauthorized(
                error.message, hint="a token goes in with --header 'Authorization: Bearer ...'"
            ) from error
        raise
    return Probe(address, seen.size, seen.validator)

"""The way in for programs: a client that owns connections and limits, and two functions.

    report = await modelhaul.download("Qwen/Qwen3-8B", local_dir="m")

`download()` and `get()` use one default client per event loop; it closes its connections whenever
it has nothing to do, so nobody has to close it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Unpack
from weakref import WeakKeyDictionary

import anyio

from modelhaul.core.pace import Throttle
from modelhaul.core.places import parse_place
from modelhaul.core.plan import Plan
from modelhaul.core.repo import HubName, Kind, is_repo, parse_ref
from modelhaul.engine.buffers import BufferPool
from modelhaul.engine.lanes import Lanes
from modelhaul.engine.threads import Threads, WorkerThreads
from modelhaul.errors import UsageError
from modelhaul.events import Listener
from modelhaul.net.transport import Transport
from modelhaul.report import Report, VerifyReport
from modelhaul.settings import SettingChanges, Settings
from modelhaul.store.index import ProvenIndex
from modelhaul.store.osfile import storage_errors
from modelhaul.usecases.download import Wish, plan_download
from modelhaul.usecases.download import download as _download
from modelhaul.usecases.get import UrlWish
from modelhaul.usecases.get import get as _get
from modelhaul.usecases.job import Emitter, Resources
from modelhaul.usecases.verify import FolderWish
from modelhaul.usecases.verify import verify as _verify

StrPath = str | os.PathLike[str]


#: What a disk has failed at if nobody nearer has said it: a mere look may fail anywhere.
_LOOKING = "looking at the disk"


class Client:
    """Downloads with shared connections, limits and memory.

    All downloads of a client together keep to its limits. It may be used from one event loop only
    (plain asyncio or uvloop), by any number of tasks.

        async with modelhaul.Client(limit_rate=50e6) as client:
            report = await client.download("Qwen/Qwen3-8B")

    Args:
        settings: everything that can be set; default: the environment.
        transport: the network; default: HTTP/1.1 over our own
            connections, by aiohttp with the setting `fast` off. Tests put a fake here.
        threads: where blocking calls run. Tests run them inline.
        changes: single settings by name, e.g. `connections=16`.

    Raises:
        UsageError: a setting makes no sense or does not exist; the message names it.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        transport: Transport | None = None,
        threads: Threads | None = None,
        **changes: Unpack[SettingChanges],
    ) -> None:
        self.settings = (settings or Settings.from_environment()).changed(**changes)
        rate = self.settings.limit_rate
        self._resources = Resources(
            settings=self.settings,
            transport=transport or _http(self.settings),
            lanes=Lanes(cap=self.settings.connections, host_cap=self.settings.host_connections),
            pool=BufferPool(self.settings.memory),
            threads=threads or WorkerThreads(),
            throttle=None if rate is None else Throttle(rate),
            index=ProvenIndex(self.settings.state_dir / "proven.sqlite"),
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections. The client can be used again."""
        await self._resources.transport.aclose()
        with anyio.CancelScope(shield=True):
            await self._resources.threads.write(self._resources.index.close)

    async def download(
        self,
        repo: str,
        *,
        hub: HubName | None = None,
        kind: Kind = "model",
        revision: str | None = None,
        files: Iterable[str] = (),
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        local_dir: StrPath | None = None,
        cache_dir: StrPath | None = None,
        endpoint: str | None = None,
        token: str | None = None,
        sources: Iterable[str] = (),
        force: bool = False,
        on_event: Listener | None = None,
    ) -> Report:
        """Bring the files of a repository to this machine and prove every one by its digest.

        Whatever was fetched before is continued; what is there already is kept.

        Args:
            repo: `owner/name`; `hf:owner/name` names the Hugging Face Hub.
            hub: of a name without such a prefix: `modelscope`, the default, or `huggingface`.
            kind: `model` or `dataset`; on Hugging Face also `space`.
            revision: branch, tag or commit; None means the hub's usual one, `master` or `main`.
            files: exact paths inside the repository.
            include: shell patterns over the whole path; adds to `files`. Neither: everything.
            exclude: shell patterns; they win.
            local_dir: a plain folder to write to; None means the hub's cache.
            cache_dir: another cache than the settings'.
            endpoint: another site than the settings'.
            token: of that hub; "" uses none, None the settings' or the saved login.
            sources: where else the bytes may come from, used all at once: a repository of either
                hub (`hf:owner/name`, `ms:owner/name@revision`), a mirror of the hub
                (`https://site`), a folder of files (`https://site/folder`), or `auto`: the
                repository of the same name on the other hub. A file comes from there only if its
                digest is the same, or none is stated there and the file's own judges.
            force: believe no earlier proof, and overwrite files that are not ours.
            on_event: called with each `modelhaul.events` value, in the loop; must not block.

        Returns:
            What was done; an `os.PathLike` of the folder.

        Raises:
            UsageError: a bad name, revision or setting; NothingMatched: a pattern without a file.
            NotFound, Unauthorized: the hub refuses.
            Incomplete: some files could not be had; `error.report` has the others.
            IntegrityError: wrong bytes, twice. Nothing stands under the final name.
            TransportError, QuotaError, ProtocolError: the network; progress is kept.
            StorageError: the disk; progress is kept. DiskFull, Occupied: before the first byte.

        Cancelled: stops reading, finishes running writes, records what arrived, and re-raises;
        the next call continues there.
        """
        wish = _wish(
            repo, hub, kind, revision, files, include, exclude, local_dir, cache_dir, endpoint,
            token, sources, force,
        )  # fmt: skip
        with storage_errors(_LOOKING):
            return await _download(self._resources, wish, Emitter(on_event))

    async def plan(
        self,
        repo: str,
        *,
        hub: HubName | None = None,
        kind: Kind = "model",
        revision: str | None = None,
        files: Iterable[str] = (),
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        local_dir: StrPath | None = None,
        cache_dir: StrPath | None = None,
        endpoint: str | None = None,
        token: str | None = None,
        sources: Iterable[str] = (),
        force: bool = False,
        on_event: Listener | None = None,
    ) -> Plan:
        """What `download()` with the same arguments would do; fetches no file.

        Files that would be refused are in it with `Action.REFUSE`, a reason, and whether that
        costs only the file (`unsafe`) or stops the run before the first byte.

        Raises:
            as `download()`, as far as it gets.
        """
        wish = _wish(
            repo, hub, kind, revision, files, include, exclude, local_dir, cache_dir, endpoint,
            token, sources, force,
        )  # fmt: skip
        with storage_errors(_LOOKING):
            return (await plan_download(self._resources, wish, Emitter(on_event))).plan

    async def verify(
        self,
        target: StrPath,
        *,
        hub: HubName | None = None,
        kind: Kind = "model",
        revision: str | None = None,
        files: Iterable[str] = (),
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        local_dir: StrPath | None = None,
        cache_dir: StrPath | None = None,
        endpoint: str | None = None,
        token: str | None = None,
        repair: bool = False,
        on_event: Listener | None = None,
    ) -> VerifyReport:
        """Read every file of a tree and compare it with the digest that the hub states.

        Nothing that was proven earlier is believed, nothing is changed without `repair`. That a
        file is wrong or missing is a finding, not an error: see `report.ok`, `report.error`.

        Args:
            target: `owner/name`: what `download()` of it wrote. A path (an `os.PathLike`, or a
                text of another form): a folder of a cache, which says itself what it holds.
            hub, kind, revision, files, include, exclude, local_dir, cache_dir, endpoint, token: as
                in `download()`. A folder names its own hub, kind and place.
            repair: fetch what is wrong or missing. The old file stays until the new one is proven.
            on_event: as in `download()`.

        Returns:
            A finding per file; an `os.PathLike` of the folder.

        Raises:
            UsageError: a bad name, or a folder that does not exist or does not say what it holds.
            HaulError: as `download()`: the hub, and with `repair` whatever ends that.
        """
        if isinstance(target, str) and is_repo(target, hub):
            wish: Wish | FolderWish = _wish(
                target, hub, kind, revision, files, include, exclude, local_dir, cache_dir,
                endpoint, token, (), False,
            )  # fmt: skip
        elif hub is not None:
            raise UsageError(
                f"{os.fspath(target)} is a folder: it says itself of which hub it is",
                hint="a repository has the form owner/name",
            )
        elif local_dir is not None or cache_dir is not None:
            raise UsageError(
                f"{os.fspath(target)} is a folder: it needs no other place",
                hint="a repository has the form owner/name",
            )
        else:
            wish = FolderWish(
                folder=Path(target),
                revision=revision,
                names=_strings("files", files),
                include=_strings("include", include),
                exclude=_strings("exclude", exclude),
                endpoint=endpoint,
                token=token,
            )
        with storage_errors(_LOOKING):
            return await _verify(self._resources, wish, Emitter(on_event), repair=repair)

    async def get(
        self,
        url: str,
        *mirrors: str,
        path: StrPath | None = None,
        sha256: str | None = None,
        headers: Mapping[str, str] | None = None,
        force: bool = False,
        on_event: Listener | None = None,
    ) -> Report:
        """Bring one file from one or several URLs to this machine.

        With `sha256` all URLs of equal size are used at once and the digest judges. Without it
        size and one unchanged strong validator are held, only URLs that agree in both are mixed,
        and `report.verified` is False; the computed digest is in `report.files[0].sha256`.

        Args:
            url: http or https.
            mirrors: more sources of the same file.
            path: file or folder to write to; what is not there is a folder if it ends with a
                separator. In a folder, and with None in the current one, the URL names the file.
            sha256: what the content must have, in hex.
            headers: extra headers for the origin of `url`; never sent to another.
            force: believe no earlier proof, and overwrite a file that is not ours.
            on_event: as in `download()`.

        Returns:
            What was done; an `os.PathLike` of the file.

        Raises:
            as `download()`.
        """
        wish = UrlWish(
            urls=_strings("URLs", (url, *mirrors)),
            path=None if path is None else Path(path),
            # Told before the text becomes a path, which drops the separator.
            into=path is not None and os.path.basename(os.fspath(path)) in ("", ".", ".."),
            sha256=sha256,
            headers=dict(headers or {}),
            force=force,
        )
        with storage_errors(_LOOKING):
            return await _get(self._resources, wish, Emitter(on_event))


def _wish(
    repo: str,
    hub: HubName | None,
    kind: Kind,
    revision: str | None,
    files: Iterable[str],
    include: Iterable[str],
    exclude: Iterable[str],
    local_dir: StrPath | None,
    cache_dir: StrPath | None,
    endpoint: str | None,
    token: str | None,
    sources: Iterable[str],
    force: bool,
) -> Wish:
    ref = parse_ref(repo, hub=hub, kind=kind, revision=revision)
    return Wish(
        ref=ref,
        names=_strings("files", files),
        include=_strings("include", include),
        exclude=_strings("exclude", exclude),
        local_dir=None if local_dir is None else Path(local_dir),
        cache_dir=None if cache_dir is None else Path(cache_dir),
        endpoint=endpoint,
        token=token,
        places=tuple(parse_place(text, ref) for text in _strings("sources", sources)),
        force=force,
    )


def _strings(option: str, values: object) -> tuple[str, ...]:
    """What a caller gave for an option that takes several strings.

    Raises:
        UsageError: it is, or holds, something else; the message names the option.
    """
    # A single pattern is what people mean by a bare string, not a pattern per letter.
    if isinstance(values, str):
        return (values,)
    # Bytes would be a number per letter.
    if not isinstance(values, Iterable) or isinstance(values, bytes):
        raise UsageError(f"{option}: not strings: {values!r}", hint="give a list of strings")
    strings = []
    for value in values:
        if not isinstance(value, str):
            raise UsageError(f"{option}: not a string: {value!r}", hint="give a list of strings")
        strings.append(value)
    return tuple(strings)


def _http(settings: Settings) -> Transport:
    # Imported late: `--help` needs neither, and aiohttp costs more than all the rest.
    if not settings.fast:
        from modelhaul.net.http import HttpTransport

        return HttpTransport(settings)
    from modelhaul.net.fast import FastTransport

    return FastTransport(settings)


# -- the default client of a loop ----------------------------------------------------------------


class _Shared:
    """The default client of one loop, and how many calls use it now."""

    def __init__(self) -> None:
        self.client = Client()
        self.users = 0


_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, _Shared] = WeakKeyDictionary()


@asynccontextmanager
async def _default() -> AsyncIterator[Client]:
    """The loop's own client; its connections are closed when the last call of it ends."""
    loop = asyncio.get_running_loop()
    shared = _shared.get(loop)
    if shared is None:
        shared = _shared[loop] = _Shared()
    shared.users += 1
    try:
        yield shared.client
    finally:
        shared.users -= 1
        if shared.users == 0:
            await shared.client.aclose()


async def download(
    repo: str,
    *,
    hub: HubName | None = None,
    kind: Kind = "model",
    revision: str | None = None,
    files: Iterable[str] = (),
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    local_dir: StrPath | None = None,
    cache_dir: StrPath | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    sources: Iterable[str] = (),
    force: bool = False,
    on_event: Listener | None = None,
) -> Report:
    """`Client.download()` by the default client of this event loop; see there.

    report = await modelhaul.download("Qwen/Qwen3-8B", include=["*.json"], local_dir="m")
    print(os.fspath(report), report.fetched, report.verified)
    """
    async with _default() as client:
        return await client.download(
            repo,
            hub=hub,
            kind=kind,
            revision=revision,
            files=files,
            include=include,
            exclude=exclude,
            local_dir=local_dir,
            cache_dir=cache_dir,
            endpoint=endpoint,
            token=token,
            sources=sources,
            force=force,
            on_event=on_event,
        )


async def verify(
    target: StrPath,
    *,
    hub: HubName | None = None,
    kind: Kind = "model",
    revision: str | None = None,
    files: Iterable[str] = (),
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    local_dir: StrPath | None = None,
    cache_dir: StrPath | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    repair: bool = False,
    on_event: Listener | None = None,
) -> VerifyReport:
    """`Client.verify()` by the default client of this event loop; see there.

    report = await modelhaul.verify("Qwen/Qwen3-8B", local_dir="m")
    print(report.ok, [file.path for file in report.found("wrong", "missing")])
    """
    async with _default() as client:
        return await client.verify(
            target,
            hub=hub,
            kind=kind,
            revision=revision,
            files=files,
            include=include,
            exclude=exclude,
            local_dir=local_dir,
            cache_dir=cache_dir,
            endpoint=endpoint,
            token=token,
            repair=repair,
            on_event=on_event,
        )


async def get(
    url: str,
    *mirrors: str,
    path: StrPath | None = None,
    sha256: str | None = None,
    headers: Mapping[str, str] | None = None,
    force: bool = False,
    on_event: Listener | None = None,
) -> Report:
    """`Client.get()` by the default client of this event loop; see there.

    report = await modelhaul.get("https://host/w.safetensors", path="w", sha256="9f2c...")
    """
    async with _default() as client:
        return await client.get(
            url,
            *mirrors,
            path=path,
            sha256=sha256,
            headers=headers,
            force=force,
            on_event=on_event,
        )

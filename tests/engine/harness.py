"""An engine over a network in memory and a real folder, in virtual time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modelhaul import events
from modelhaul.core.origin import origin_of
from modelhaul.core.pace import Throttle
from modelhaul.core.plan import Action, FilePlan
from modelhaul.core.repo import RemoteFile, Source
from modelhaul.engine.buffers import BufferPool
from modelhaul.engine.context import Options
from modelhaul.engine.driver import Engine
from modelhaul.engine.lanes import Lanes
from modelhaul.engine.task import Order, Placement
from modelhaul.engine.threads import Threads
from modelhaul.net.transport import Transport
from modelhaul.report import FileResult
from modelhaul.store.index import ProvenIndex
from tests.support.inline import InlineThreads
from tests.support.payload import payload as payload

MIB = 1 << 20
CHUNK = 256 * 1024
ORIGIN = "https://hub.test"


def remote(
    path: str, data: bytes, *, digest: str | None = "", etag: str | None = None
) -> RemoteFile:
    """A listing entry for `data`; digest "" means the right one."""
    sha256 = hashlib.sha256(data).hexdigest() if digest == "" else digest
    return RemoteFile(path=path, size=len(data), sha256=sha256, validator=etag)


def git_sha1(data: bytes) -> str:
    """What git calls a file with these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def blob(path: str, data: bytes, *, name: str = "") -> RemoteFile:
    """A listing entry for `data` that states its git name only; "" means the right one."""
    return RemoteFile(path=path, size=len(data), git_sha1=name or git_sha1(data))


def source(url: str, *, fallback: bool = False, **credentials: str) -> Source:
    """A source at a URL."""
    return Source(url, origin_of(url), credentials, fallback=fallback)


@dataclass
class Rig:
    """One target folder, and engines that fill it one after the other."""

    target: Path
    network: Transport
    options: Options = field(
        default_factory=lambda: Options(chunk=CHUNK, small=32 * 1024, patience=600.0)
    )
    connections: int = 8
    memory: int = 16 * MIB
    limit_rate: float | None = None
    threads: Threads = field(default_factory=InlineThreads)
    locks: bool = True
    present: Callable[[Order], bool] = lambda order: False
    seen: list[events.Event] = field(default_factory=list)
    engine: Engine | None = None

    def order(self, file: RemoteFile, *sources: Source, **changes: object) -> Order:
        """Bring `file` from `sources` into the target."""
        final = self.target / file.path
        fields: dict[str, object] = {
            "plan": FilePlan(file=file, action=Action.FETCH),
            "placement": Placement(
                final=final,
                root=self.target,
                relative=file.path,
                state=self.target / ".modelhaul",
                replaces=None,
            ),
            "sources": sources or (source(f"{ORIGIN}/{file.path}"),),
            "label": f"test: {file.path}",
        }
        return Order(**{**fields, **changes})  # type: ignore[arg-type]

    async def bring(self, *orders: Order) -> Sequence[FileResult]:
        """Run one engine over the orders."""
        index = ProvenIndex(self.target.parent / "state" / "proven.sqlite")
        rate = self.limit_rate

        async def recheck(order: Order) -> bool:
            return self.present(order)

        self.engine = Engine(
            transport=self.network,
            lanes=Lanes(cap=self.connections, host_cap=self.connections),
            pool=BufferPool(self.memory),
            threads=self.threads,
            throttle=None if rate is None else Throttle(rate),
            index=index,
            options=self.options,
            emit=self.seen.append,
            recheck=recheck,
            locks=self.locks,
            token="test",
            chance=lambda: 0.5,
        )
        try:
            return await self.engine.run(orders)
        finally:
            index.close()

    def events_of(self, kind: type[events.Event]) -> list[events.Event]:
        """The events of one kind, in order."""
        return [event for event in self.seen if isinstance(event, kind)]

    def left(self) -> list[str]:
        """Names in the state folder."""
        state = self.target / ".modelhaul"
        return sorted(path.name for path in state.iterdir()) if state.is_dir() else []

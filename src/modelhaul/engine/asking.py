"""One request under way: which address it goes to, and for which origin it counts."""

from __future__ import annotations

import anyio
import anyio.lowlevel

from modelhaul.core.scheduler import Lease
from modelhaul.core.span import Span
from modelhaul.engine.lanes import Lane, Lanes
from modelhaul.engine.locations import Location, Target
from modelhaul.engine.task import LeaseReceiver, Task
from modelhaul.engine.whole import UNBOUNDED
from modelhaul.errors import ProtocolError
from modelhaul.net.api import MAX_HOPS
from modelhaul.net.transport import Answer, Redirect, Request, Transport


class Asking:
    """A lease on its way to a server.

    Attributes:
        lane: the origin that the connection counts for now.
        location: the source's address, shared with the other requests of the file.
        scope: cancelled to take the request back.
        target: where the last hop went.
        postponed: it was taken back by itself, for the origin has asked for a pause meanwhile.
    """

    def __init__(
        self, task: Task, lease: Lease, location: Location, lanes: Lanes, lane: Lane
    ) -> None:
        self.task = task
        self.lease = lease
        self.location = location
        self.lane = lane
        self.scope = anyio.CancelScope()
        self.target: Target | None = None
        self.postponed = False
        self._lanes = lanes
        self._settled = False
        self._open = True
        lanes.enter(lane)

    @property
    def signed(self) -> bool:
        """Whether it went to an address that a redirect named."""
        return self.target is not None and self.target.signed

    async def run(self, transport: Transport, receiver: LeaseReceiver) -> Answer:
        """Follow redirects to an answer with bytes, and take its bytes.

        Raises:
            TransportError, ProtocolError: as `Transport.fetch`; also for too many redirects.
        """
        hedge = self.lease.rival is not None
        target, finder = self.location.beside() if hedge else await self.location.current()
        try:
            if finder and not hedge:
                # The one before may have found out that nobody is to ask now.
                await self._check_pause(self.lease.source.host.name)
            for _ in range(MAX_HOPS + 1):
                if finder and not hedge:
                    await self._check_pause(target.origin)
                self._go_to(target)
                asked = anyio.current_time()
                head = _Head(receiver, self if finder else None)
                answer = await transport.fetch(self._request(target), head)
                if not isinstance(answer, Redirect):
                    return answer
                # An origin that only redirects is heard of here and nowhere else.
                self.lane.host.learn_round_trip(anyio.current_time() - asked)
                target = self.location.hop(answer.url)
        finally:
            if finder and not hedge and not self._settled:
                self.location.give_up()
        raise ProtocolError(
            f"{self.task.order.file.path}: {self.location.source} redirects more than"
            f" {MAX_HOPS} times"
        )

    def settle(self) -> None:
        """The address works: the other requests of the file may use it."""
        assert self.target is not None
        self._settled = True
        self.location.settle(self.target)

    def free(self) -> None:
        """The connection is free, if it was not already."""
        if self._open:
            self._open = False
            self._lanes.leave(self.lane)

    async def _check_pause(self, origin: str) -> None:
        """End here if an origin on the way asked to be left alone since the lease was given out.

        Its lane is the source's from here on, so nobody tries again before the pause is over.
        """
        lane = self._lanes.lane(origin)
        if lane.health.delay(anyio.current_time()) > 0:
            self.lease.source.host = lane.host
            self.postponed = True
            self.scope.cancel()
            await anyio.lowlevel.checkpoint()

    def _go_to(self, target: Target) -> None:
        """Count the connection for the origin it really goes to."""
        self.target = target
        lane = self._lanes.lane(target.origin)
        if lane is not self.lane:
            self._lanes.leave(self.lane)
            self._lanes.enter(lane)
            self.lane = lane
        self.lease.source.host = lane.host
        self.lease.origin = target.origin

    def _request(self, target: Target) -> Request:
        file, lease = self.task.order.file, self.lease
        stop = lease.stop if file.size is not None else UNBOUNDED
        return Request(
            url=target.url,
            headers=target.headers,
            span=Span(lease.position, stop),
            whole=lease.body,
            size=file.size,
            validator=lease.job.version if file.content is not None else file.validator,
        )


class _Head:
    """Settles the address as soon as the head of an answer is right; else it is the receiver.

    Implements `Receiver`. Bound once, not passed on: these are called for every piece of a body.
    """

    def __init__(self, receiver: LeaseReceiver, finder: Asking | None) -> None:
        self._receiver = receiver
        self._finder = finder
        self.wanted = receiver.wanted
        self.wait_buffer = receiver.wait_buffer
        self.buffer_nowait = receiver.buffer_nowait
        self.when_buffer = receiver.when_buffer
        self.commit = receiver.commit
        self.passed = receiver.passed

    def started(self, answer: Answer) -> None:
        if self._finder is not None:
            self._finder.settle()
        self._receiver.started(answer)

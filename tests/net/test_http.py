"""The transport against real sockets: what servers send, do not send, and should never get."""

from __future__ import annotations

import contextlib
import gzip
import os
import socket
import sys
import textwrap
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from modelhaul.core.span import Span
from modelhaul.errors import (
    CertificateError,
    ConnectFailed,
    ConnectionLost,
    HaulError,
    ProtocolError,
    ProxyRefused,
    RangeIgnored,
    StatusError,
    TimedOut,
)
from modelhaul.net.fast import FastTransport
from modelhaul.net.http import HttpTransport
from modelhaul.net.transport import Answer, Redirect, Request, Response
from modelhaul.settings import Settings
from tests.net.bucket import Bucket
from tests.net.conftest import Certificate, Run
from tests.net.proxies import http_proxy, socks5_proxy
from tests.net.rawserver import Exchange, RawServer, answer, chunks, raw_server

DATA = bytes(range(256)) * 20_000  # 5 MB, and every offset tells
PART = "206 Partial Content"


Kind = type[HttpTransport] | type[FastTransport]
_kind: Kind = HttpTransport


@pytest.fixture(params=[HttpTransport, FastTransport], autouse=True)
def kind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test runs on both paths: nobody above may notice which one it is."""
    global _kind  # noqa: PLW0603
    _kind = request.param
    yield
    _kind = HttpTransport


@contextlib.asynccontextmanager
async def transport(**changes: Any) -> AsyncIterator[HttpTransport | FastTransport]:
    """A transport that is closed afterwards."""
    made = _kind(Settings(**changes))
    try:
        yield made
    finally:
        await made.aclose()


def sends(data: bytes, *, close: bool = False) -> Callable[[Exchange], Awaitable[None]]:
    """A script: the same bytes for every request."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(data)
        if close:
            await exchange.close()

    return script


def request(server: RawServer, start: int, stop: int, **more: Any) -> Request:
    return Request(url=server.url(), span=Span(start, stop), **{"size": len(DATA), **more})


def content_range(start: int, stop: int) -> str:
    return f"bytes {start}-{stop - 1}/{len(DATA)}"


# -- bodies ------------------------------------------------------------------------------------

_LOW, _HIGH = 1_000_003, 3_000_017
_BODY = DATA[_LOW:_HIGH]


@pytest.mark.parametrize("lend", [4099, 1 << 20])
@pytest.mark.parametrize(
    ("whole", "reply", "close"),
    [
        pytest.param(
            False,
            answer(_BODY, status=PART, Content_Range=content_range(_LOW, _HIGH)),
            False,
            id="range",
        ),
        pytest.param(
            False,
            answer(
                chunks(_BODY[:7], _BODY[7:100_000], _BODY[100_000:]),
                status=PART,
                length=False,
                Content_Range=content_range(_LOW, _HIGH),
                Transfer_Encoding="chunked",
            ),
            False,
            id="range-in-chunks",
        ),
        pytest.param(
            False,
            answer(_BODY, status=PART, length=False, Content_Range=content_range(_LOW, _HIGH)),
            True,
            id="range-until-close",
        ),
        pytest.param(
            False,
            answer(DATA[_LOW:], status=PART, Content_Range=content_range(_LOW, len(DATA))),
            True,
            id="range-that-goes-on",
        ),
        pytest.param(
            False,
            answer(_BODY, status="200 OK", Content_Range=content_range(_LOW, _HIGH)),
            False,
            id="200-with-a-range",
        ),
        pytest.param(True, answer(DATA), True, id="whole"),
        pytest.param(
            True,
            answer(chunks(DATA[:9], DATA[9:]), length=False, Transfer_Encoding="chunked"),
            True,
            id="whole-in-chunks",
        ),
        pytest.param(True, answer(DATA, length=False), True, id="whole-until-close"),
    ],
)
def test_the_right_bytes_land_in_the_receivers_buffers(
    run: Run, whole: bool, reply: bytes, close: bool, lend: int
) -> None:
    """However a body is framed, the receiver gets its span and not one byte else."""

    async def main() -> None:
        bucket = Bucket(_HIGH - _LOW, lend=lend)
        async with raw_server(sends(reply, close=close)) as server, transport() as net:
            await net.fetch(request(server, _LOW, _HIGH, whole=whole), bucket)

        assert bucket.data == _BODY
        assert bucket.starts == 1

    run(main)


def test_an_empty_body_needs_no_buffer(run: Run) -> None:
    """A file of nothing is fetched whole; no buffer is asked for."""

    async def main() -> None:
        bucket = Bucket(0)
        async with raw_server(sends(answer())) as server, transport() as net:
            found = await net.fetch(request(server, 0, 0, size=0, whole=True), bucket)

        assert isinstance(found, Answer)
        assert (found.size, bucket.data) == (0, b"")

    run(main)


def test_interim_answers_are_skipped(run: Run) -> None:
    """100 and 103 come before the answer and are none."""
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"

    async def main() -> None:
        bucket = Bucket(10)
        async with raw_server(sends(early + answer(b"0123456789"))) as server, transport() as net:
            await net.fetch(request(server, 0, 10, size=10), bucket)

        assert bucket.data == b"0123456789"

    run(main)


def test_what_the_request_says(run: Run) -> None:
    """A range in HTTP's closed form, identity coding, our name; no range for a whole file."""

    async def main() -> None:
        headers = {"Authorization": "Bearer T"}
        async with raw_server(sends(answer(b"0123456789"))) as server, transport() as net:
            with pytest.raises(RangeIgnored):
                await net.fetch(request(server, 2, 5, headers=headers), Bucket(3))
            await net.fetch(request(server, 0, 10, size=10, whole=True), Bucket(10))

        part, whole = server.requests
        assert part.method == "GET"
        assert part.headers("Range") == ["bytes=2-4"]
        assert part.headers("Accept-Encoding") == ["identity"]
        assert part.headers("Authorization") == ["Bearer T"]
        assert part.header("User-Agent").startswith("modelhaul/")
        assert whole.headers("Range") == []
        assert whole.headers("Authorization") == []

    run(main)


@pytest.mark.parametrize(
    "path",
    [
        "/a/b?Expires=1&Signature=aB%2Bc%2Fd%3D",
        "/%e6%A8%A1/%7Eme/~you?x=%2b+%20",
        "/a//b/./c/../d;p=1?q=//x?y=?z",
        "/x?a=b&a=c&&=&d",
        "/x?auth_key=1700-0-0-!$'()*,:@|^`{}\"<>\\",
        "/%zz%?100%",
        "/x?",
    ],
)
def test_urls_arrive_byte_for_byte(run: Run, path: str) -> None:
    """A signature covers every character of a URL: none is quoted, unquoted or tidied up."""

    async def main() -> None:
        async with raw_server(sends(answer(b"0123456789"))) as server, transport() as net:
            target = Request(url=server.url(path), span=Span(0, 10), size=10)
            await net.fetch(target, Bucket(10))
            await net.call(server.url(path), headers={}, limit=100)

        # aiohttp drops an empty query, which no signature has been seen to cover.
        expected = path if _kind is FastTransport else path.removesuffix("?")
        assert [seen.target for seen in server.requests] == [expected] * 2

    run(main)


# -- connections -------------------------------------------------------------------------------


def test_connections_are_kept_between_requests(run: Run) -> None:
    """A body that was read to its end gives its connection to the next request, error or not."""

    async def script(exchange: Exchange) -> None:
        coded = {"length": False, "Transfer_Encoding": "chunked"}
        replies = [
            answer(b"0123456789"),
            answer(chunks(b"01234", b"56789"), **coded),
            answer(status="404 Not Found"),
            answer(status="302 Found", Location="/other"),
        ]
        await exchange.send(replies[exchange.number % len(replies)])

    async def main() -> None:
        async with raw_server(script) as server, transport() as net:
            for _ in range(8):
                with contextlib.suppress(StatusError):
                    await net.fetch(request(server, 0, 10, size=10), Bucket(10))

            assert len(server.requests) == 8
            assert server.connections == 1

    run(main)


def test_a_connection_that_the_server_closed_meanwhile_is_no_error(run: Run) -> None:
    """Kept connections go stale; the next request takes a new one."""

    async def main() -> None:
        async with raw_server(sends(answer(b"0123456789"), close=True)) as server:
            async with transport() as net:
                for _ in range(3):
                    await net.fetch(request(server, 0, 10, size=10), Bucket(10))
                    await server.wait_closed()

            assert server.connections == 3

    run(main)


def test_a_receiver_that_has_enough_ends_the_request(run: Run) -> None:
    """The rest of an endless body is not drained: the connection is closed."""

    async def endless(exchange: Exchange) -> None:
        await exchange.send(answer(length=False, status=PART, Content_Range="bytes 0-999999999/*"))
        while True:
            await exchange.send(DATA)

    async def main() -> None:
        bucket = Bucket(100_000)
        async with raw_server(endless) as server, transport() as net:
            await net.fetch(request(server, 0, 100_000, size=None), bucket)
            await server.wait_closed()

        assert bucket.data == DATA[:100_000]

    run(main)


def test_a_span_may_shrink_while_it_is_fetched(run: Run) -> None:
    """A lease that was cut short ends at its new stop, and the connection is closed."""

    async def main() -> None:
        bucket = Bucket(1_000_000, lend=1000)

        async def shrink() -> None:
            if len(bucket.data) == 5000:
                bucket.want = 7000

        bucket._before = shrink
        async with raw_server(sends(answer(DATA))) as server, transport() as net:
            await net.fetch(request(server, 0, len(DATA)), bucket)
            await server.wait_closed()

        assert bucket.data == DATA[:7000]

    run(main)


def test_a_span_may_vanish_while_a_buffer_is_awaited(run: Run) -> None:
    """An empty buffer means that nobody wants the bytes any more."""

    async def main() -> None:
        bucket = Bucket(1_000_000, lend=1000)

        async def vanish() -> None:
            if len(bucket.data) == 5000:
                bucket.want = 0

        bucket._before = vanish
        async with raw_server(sends(answer(DATA))) as server, transport() as net:
            await net.fetch(request(server, 0, len(DATA)), bucket)
            await server.wait_closed()

        assert bucket.data == DATA[:5000]

    run(main)


def test_a_slow_receiver_is_no_silent_server(run: Run) -> None:
    """While the disk or the user's limit holds us back, the idle timeout does not run."""

    async def main() -> None:
        bucket = Bucket(len(DATA))

        async def slow() -> None:
            if not bucket.data:
                await anyio.sleep(0.7)

        bucket._before = slow
        async with raw_server(sends(answer(DATA))) as server, transport(idle_timeout=0.3) as net:
            await net.fetch(request(server, 0, len(DATA)), bucket)

        assert bucket.data == DATA

    run(main)


def test_closing_keeps_the_transport_usable(run: Run) -> None:
    """`aclose()` closes every connection; the next request opens a new one."""

    async def main() -> None:
        async with raw_server(sends(answer(b"0123456789"))) as server, transport() as net:
            await net.fetch(request(server, 0, 10, size=10), Bucket(10))
            await net.aclose()
            await server.wait_closed()
            await net.fetch(request(server, 0, 10, size=10), Bucket(10))

            assert server.connections == 2

    run(main)


def test_a_connection_that_nobody_uses_is_closed(run: Run) -> None:
    """After its time, without a further request; a program may keep a client for days."""

    async def main() -> None:
        net = _kind(Settings(), keep_alive=0.1)
        async with raw_server(sends(answer(b"0123456789"))) as server:
            await net.fetch(request(server, 0, 10, size=10), Bucket(10))
            await net.fetch(request(server, 0, 10, size=10), Bucket(10))
            assert (server.connections, server.open) == (1, 1)
            with anyio.fail_after(10):
                await server.wait_closed()
            await net.aclose()

    run(main)


def test_after_a_renewal_requests_go_over_new_connections(run: Run) -> None:
    """What is open is not used again, what is under way goes on and is not kept either."""

    async def main() -> None:
        async with raw_server(sends(answer(b"0123456789"))) as server, transport() as net:

            class Renewing(Bucket):
                def commit(self, count: int) -> None:
                    super().commit(count)
                    net.renew()

            made = []
            for bucket in (Bucket(10), Renewing(10), Bucket(10), Bucket(10)):
                await net.fetch(request(server, 0, 10, size=10), bucket)
                assert bucket.data == b"0123456789"
                made.append(server.connections)
            net.renew()
            await net.fetch(request(server, 0, 10, size=10), Bucket(10))
            made.append(server.connections)

            assert made == [1, 1, 2, 2, 3]

    run(main)


def test_connections_that_were_given_up_do_not_stay_open(run: Run) -> None:
    """Every digest that is wrong is a renewal: a long run would collect them until its end."""

    async def main() -> None:
        async with raw_server(sends(answer(b"0123456789"))) as server, transport() as net:
            for _ in range(5):
                await net.fetch(request(server, 0, 10, size=10), Bucket(10))
                net.renew()
            await net.fetch(request(server, 0, 10, size=10), Bucket(10))

            with anyio.fail_after(10):
                while server.open > 1:
                    await server.changed.wait()

            assert (server.connections, server.open) == (6, 1)

    run(main)


def test_cookies_are_not_kept(run: Run) -> None:
    """A server's cookie never comes back to it, or to anybody."""
    reply = answer(b"0123456789", Set_Cookie="track=1; Path=/")

    async def main() -> None:
        async with raw_server(sends(reply)) as server, http_proxy() as proxy:
            # Through a proxy, for a host with a name: jars keep no cookies of bare addresses.
            url = f"http://hub.test:{server.port}/x"
            async with transport(proxies={"all": f"http://127.0.0.1:{proxy.port}"}) as net:
                for _ in range(2):
                    await net.fetch(Request(url=url, span=Span(0, 10), size=10), Bucket(10))
                await net.call(url, headers={}, limit=100)

        assert [seen.header("Cookie") for seen in server.requests] == [None] * 3

    run(main)


# -- what goes wrong ---------------------------------------------------------------------------


async def _fails(
    script: Callable[[Exchange], Awaitable[None]],
    kind: type[HaulError],
    bucket: Bucket | None = None,
    **changes: Any,
) -> HaulError:
    """Fetch ten bytes from a server that misbehaves; gives the error."""
    bucket = bucket or Bucket(10)
    async with raw_server(script) as server:
        async with transport(**changes) as net:
            with pytest.raises(kind) as caught:
                await net.fetch(request(server, 0, 10, size=10), bucket)
        await server.wait_closed()
    assert type(caught.value) is kind
    return caught.value


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(answer(b"0123456789")[:-4], id="length"),
        pytest.param(
            answer(chunks(b"012345", end=False), length=False, Transfer_Encoding="chunked"),
            id="chunks",
        ),
        pytest.param(
            answer(b"012345", length=False, status=PART, Content_Range="bytes 0-9/10"),
            id="range-until-close",
        ),
    ],
)
def test_a_cut_body_is_a_lost_connection(run: Run, reply: bytes, end: str) -> None:
    """What arrived before the cut is in the receiver's hands."""

    async def main() -> None:
        bucket = Bucket(10)

        async def script(exchange: Exchange) -> None:
            await exchange.send(reply)
            await bucket.wait_bytes(6)
            await (exchange.close() if end == "close" else exchange.reset())

        error = await _fails(script, ConnectionLost, bucket)

        assert error.retryable
        assert bucket.data == b"012345"

    run(main)


def test_a_cut_head_is_a_lost_connection(run: Run) -> None:
    """A connection that ends before the head is complete answered nothing."""

    async def main() -> None:
        await _fails(sends(b"HTTP/1.1 200 OK\r\nContent-", close=True), ConnectionLost)

    run(main)


def test_a_connection_closed_without_an_answer_is_lost(run: Run) -> None:
    """Not one byte came back."""

    async def script(exchange: Exchange) -> None:
        await exchange.close()

    async def main() -> None:
        await _fails(script, ConnectionLost)

    run(main)


def test_silence_in_a_body_ends_the_request(run: Run) -> None:
    """A connection that stays open and says nothing is given up after the idle timeout."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(answer(b"0123456789")[:-4])
        await exchange.hang()

    async def main() -> None:
        bucket = Bucket(10)

        await _fails(script, TimedOut, bucket, idle_timeout=0.3)

        assert bucket.data == b"012345"

    run(main)


def test_an_answer_that_never_begins_ends_the_request(run: Run) -> None:
    """A server that takes the request and is silent is given up after the head timeout."""

    async def script(exchange: Exchange) -> None:
        await exchange.hang()

    async def main() -> None:
        await _fails(script, TimedOut, head_timeout=0.1)

    run(main)


def test_a_head_in_drops_ends_the_request(run: Run) -> None:
    """A byte now and then does not keep a head alive: its time runs from the request on."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            await exchange.send(b"a")
            await anyio.sleep(0.02)

    async def main() -> None:
        await _fails(script, TimedOut, head_timeout=0.2)

    run(main)


def test_a_refused_connection_is_a_failed_one(run: Run) -> None:
    """Nobody listens there."""

    async def main() -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{bound.getsockname()[1]}/x"
            async with transport() as net:
                with pytest.raises(ConnectFailed, match=f"no connection to {url}") as caught:
                    await net.fetch(Request(url=url, span=Span(0, 1)), Bucket(1))

        assert caught.value.retryable

    run(main)


@pytest.mark.fault("a name that does not resolve", "a typed error", number=66)
def test_an_unknown_host_is_a_failed_connection(run: Run) -> None:
    """No address, no connection; the hint says where to look."""

    async def main() -> None:
        async with transport() as net:
            with pytest.raises(ConnectFailed, match="no address known") as caught:
                await net.fetch(Request(url="http://nowhere.invalid/", span=Span(0, 1)), Bucket(1))

        assert caught.value.hint == "check the name and the network"

    run(main)


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", id="another-protocol"),
        pytest.param(bytes(range(64)), id="binary"),
        pytest.param(b"HTTP/1.1 2x0 OK\r\n\r\n", id="status-line"),
        pytest.param(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", id="header-line"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n0", id="negative-length"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nContent-Length: 5\r\n\r\n0123456789",
            id="two-lengths",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n"
            + chunks(b"0123456789"),
            id="length-and-chunks",
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n", id="huge-header"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 10_000 + b"\r\n", id="many-headers"),
        pytest.param(answer(b"0123456789", Content_Encoding="gzip"), id="compressed"),
        pytest.param(answer(b"01234567"), id="other-size"),
    ],
)
def test_what_is_no_answer_to_the_request_is_refused(run: Run, reply: bytes) -> None:
    """Neither broken HTTP nor a head that answers something else: no byte of it is used."""

    async def main() -> None:
        bucket = Bucket(10)

        await _fails(sends(reply), ProtocolError, bucket)

        assert (bucket.data, bucket.starts) == (b"", 0)

    run(main)


def test_error_pages_never_become_data(run: Run) -> None:
    """The body of an error status is thrown away with the connection."""

    async def main() -> None:
        bucket = Bucket(10)
        reply = answer(b"0123456789", status="429 Slow Down", Retry_After="7")
        async with raw_server(sends(reply)) as server, transport() as net:
            with pytest.raises(StatusError) as caught:
                await net.fetch(request(server, 0, 10, size=10), bucket)

        assert (caught.value.status, caught.value.retry_after) == (429, 7.0)
        assert bucket.data == b""

    run(main)


def test_a_body_longer_than_the_file_is_refused(run: Run) -> None:
    """Chunks behind the last byte mean that this is not our file."""

    async def main() -> None:
        bucket = Bucket(10)

        async def script(exchange: Exchange) -> None:
            head = answer(length=False, Transfer_Encoding="chunked")
            await exchange.send(head + chunks(b"0123456789", end=False))
            await bucket.wait_bytes(10)
            await exchange.send(chunks(b"more"))

        error = await _fails(script, ProtocolError, bucket)

        assert "sends more than it said" in str(error)
        assert bucket.data == b"0123456789"

    run(main)


def test_bytes_behind_a_body_are_not_the_next_answer(run: Run) -> None:
    """What a server sends unasked on the heels of a body dies with its connection."""

    async def script(exchange: Exchange) -> None:
        forged = answer(b"FORGEDBYTE") if exchange.number == 0 else b""
        await exchange.send(answer(b"0123456789") + forged)

    async def main() -> None:
        buckets = [Bucket(10), Bucket(10)]
        async with raw_server(script) as server, transport() as net:
            for bucket in buckets:
                await net.fetch(request(server, 0, 10, size=10), bucket)

            assert [bucket.data for bucket in buckets] == [b"0123456789"] * 2
            assert server.connections == 2

    run(main)


_SECRETS = {"Authorization": "Bearer TOPSECRET", "Cookie": "m_session_id=TOPSECRET"}


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(b"", id="closed"),
        pytest.param(b"nonsense\r\n\r\n", id="garbage"),
        pytest.param(b"HTTP/1.1 TOPSECRET\r\n\r\n", id="echo"),
        pytest.param(answer(b"0123456789")[:-4], id="cut"),
        pytest.param(answer(status="401 Unauthorized"), id="unauthorized"),
        pytest.param(answer(status="302 Found", Location="gopher://x/"), id="redirect"),
        pytest.param(answer(b"0123456789", Content_Encoding="br"), id="coding"),
    ],
)
def test_no_error_shows_a_credential(run: Run, reply: bytes) -> None:
    """Errors are printed and logged, with their causes: no header and no signature is in them."""

    async def main() -> None:
        async with raw_server(sends(reply, close=True)) as server, transport() as net:
            url = server.url("/file?Signature=TOPSECRET")
            asked = Request(url=url, span=Span(0, 10), size=10, headers=_SECRETS)
            with pytest.raises(HaulError) as caught:
                await net.fetch(asked, Bucket(10))

        trace = "".join(traceback.format_exception(caught.value))
        shown = f"{caught.value} {caught.value!r} {caught.value.hint} {trace}"
        assert "TOPSECRET" not in shown
        assert "TOPSECRET" not in repr(request(server, 0, 10, headers=_SECRETS))

    run(main)


def test_a_credential_that_breaks_the_header_is_not_sent_and_not_shown(run: Run) -> None:
    """A newline in a token would begin another header."""

    async def main() -> None:
        headers = {"Authorization": "Bearer TOPSECRET\r\nX-Evil: 1"}
        async with raw_server(sends(answer(b"0123456789"))) as server, transport() as net:
            with pytest.raises(HaulError) as caught:
                await net.fetch(request(server, 0, 10, size=10, headers=headers), Bucket(10))

            assert server.requests == []
        assert "TOPSECRET" not in str(caught.value)

    run(main)


# -- redirects ---------------------------------------------------------------------------------


def test_redirects_are_returned_and_not_followed(run: Run) -> None:
    """Each hop is the caller's decision, for bytes and for calls."""

    async def main() -> None:
        bucket = Bucket(10)
        reply = answer(b"moved", status="302 Found", Location="/store?sig=%2B+x")
        async with raw_server(sends(reply)) as server, transport() as net:
            fetched = await net.fetch(request(server, 0, 10, size=10), bucket)
            called = await net.call(server.url(), headers={}, limit=100)

            assert fetched == called == Redirect(server.url("/store?sig=%2B+x"))
            assert len(server.requests) == 2
        assert (bucket.data, bucket.starts) == (b"", 0)

    run(main)


def test_a_long_signature_in_a_redirect_arrives_whole(run: Run) -> None:
    """Signed addresses of several kilobytes are common; HTTP libraries stop at eight."""
    path = "/x?policy=" + "aB3%2F" * 2500

    async def main() -> None:
        reply = answer(status="302 Found", Location=path)
        async with raw_server(sends(reply)) as server, transport() as net:
            found = await net.fetch(request(server, 0, 10), Bucket(10))

            assert found == Redirect(server.url(path))

    run(main)


# -- calls -------------------------------------------------------------------------------------


def test_calls_give_whatever_was_answered(run: Run) -> None:
    """Status, headers by lower-case name, body: judging them is the caller's."""

    async def main() -> None:
        reply = answer(b'{"Code": 404}', status="404 Not Found", X_Request_ID="7")
        async with raw_server(sends(reply)) as server, transport() as net:
            found = await net.call(server.url(), headers={"Cookie": "a=b"}, limit=100)

        assert found == Response(
            status=404,
            headers={"content-length": "13", "x-request-id": "7"},
            body=b'{"Code": 404}',
        )
        assert server.requests[0].headers("Cookie") == ["a=b"]

    run(main)


def test_a_list_in_several_lines_arrives_whole(run: Run) -> None:
    """A proxy adds a Link of its own: that of the hub, behind it, must not be lost."""

    async def main() -> None:
        links = b'Link: </a.css>; rel=preload\r\nLink: <https://h/x?p=2>; rel="next"\r\n'
        reply = answer(b"[]").replace(b"\r\n", b"\r\n" + links, 1)
        async with raw_server(sends(reply)) as server, transport() as net:
            found = await net.call(server.url(), headers={}, limit=100)

        assert isinstance(found, Response)
        assert found.headers["link"] == '</a.css>; rel=preload, <https://h/x?p=2>; rel="next"'

    run(main)


def test_a_used_up_allowance_is_seen_in_any_line(run: Run) -> None:
    """Which of its allowances a hub names first says nothing."""

    async def main() -> None:
        limits = b'RateLimit: "api";r=9;t=1\r\nRateLimit: "resolvers";r=0;t=55\r\n'
        reply = answer(b"", status="429 Too Many Requests").replace(b"\r\n", b"\r\n" + limits, 1)
        async with raw_server(sends(reply)) as server, transport() as net:
            with pytest.raises(StatusError) as caught:
                await net.fetch(request(server, 0, 10, size=10), Bucket(10))

        assert caught.value.retry_after == 55.0

    run(main)


def test_calls_take_compressed_answers(run: Run) -> None:
    """Listings shrink to a tenth: gzip is asked for and undone."""

    async def main() -> None:
        body = gzip.compress(b"[0, 1]" * 1000)
        script = sends(answer(body, Content_Encoding="gzip"))
        async with raw_server(script) as server, transport() as net:
            found = await net.call(server.url(), headers={}, limit=10_000)

        assert isinstance(found, Response)
        assert found.body == b"[0, 1]" * 1000
        assert server.requests[0].headers("Accept-Encoding") == ["gzip"]

    run(main)


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        pytest.param(b"a" * 1001, "identity", id="plain-and-too-long"),
        pytest.param(gzip.compress(b"a" * 1001), "gzip", id="bomb"),
        pytest.param(gzip.compress(b"hello")[:-3], "gzip", id="cut"),
        pytest.param(b"\x1f\x8b" + bytes(20), "gzip", id="damaged"),
        pytest.param(b"hello", "gzip", id="not-compressed"),
        pytest.param(b"hello", "br", id="another-coding"),
    ],
)
def test_a_call_never_gives_a_body_that_is_too_long_or_broken(
    run: Run, body: bytes, coding: str
) -> None:
    """The limit holds for what is sent and for what it unpacks to."""

    async def main() -> None:
        script = sends(answer(body, Content_Encoding=coding))
        async with raw_server(script) as server, transport() as net:
            with pytest.raises(ProtocolError):
                await net.call(server.url(), headers={}, limit=1000)

    run(main)


def test_an_endless_call_is_cut_at_the_limit(run: Run) -> None:
    """A server that never stops fills no memory."""

    async def endless(exchange: Exchange) -> None:
        await exchange.send(answer(length=False))
        while True:
            await exchange.send(DATA)

    async def main() -> None:
        async with raw_server(endless) as server, transport() as net:
            with pytest.raises(ProtocolError, match="more than 1000 bytes"):
                await net.call(server.url(), headers={}, limit=1000)
            await server.wait_closed()

    run(main)


def test_a_silent_call_ends(run: Run) -> None:
    """A listing that stops in the middle is given up after the idle timeout."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(answer(b'{"Code": 200}')[:-5])
        await exchange.hang()

    async def main() -> None:
        async with raw_server(script) as server, transport(idle_timeout=0.1) as net:
            with pytest.raises(TimedOut):
                await net.call(server.url(), headers={}, limit=1000)
            await server.wait_closed()

    run(main)


def test_a_cut_call_is_a_lost_connection(run: Run) -> None:
    """Half a listing is no listing."""

    async def main() -> None:
        reply = answer(b'{"Code": 200}')[:-5]
        async with raw_server(sends(reply, close=True)) as server, transport() as net:
            with pytest.raises(ConnectionLost):
                await net.call(server.url(), headers={}, limit=1000)

    run(main)


# -- TLS ---------------------------------------------------------------------------------------


def test_an_untrusted_certificate_is_final(run: Run, certificate: Certificate) -> None:
    """Never worked around, never tried again; the hint says how to trust an own authority."""

    async def main() -> None:
        script = sends(answer(b"0123456789"))
        async with raw_server(script, tls=certificate.server) as server, transport() as net:
            with pytest.raises(CertificateError, match="not trusted: self-signed") as caught:
                await net.fetch(request(server, 0, 10, size=10), Bucket(10))

            assert server.requests == []
        assert not caught.value.retryable
        assert "SSL_CERT_FILE" in str(caught.value.hint)

    run(main)


def test_a_certificate_named_in_the_settings_is_trusted(run: Run, certificate: Certificate) -> None:
    """`ca_file` is what the site's own authority needs; connections are kept under TLS too."""

    async def main() -> None:
        script = sends(answer(b"0123456789"))
        async with (
            raw_server(script, tls=certificate.server) as server,
            transport(ca_file=str(certificate.file)) as net,
        ):
            for _ in range(2):
                bucket = Bucket(10)
                await net.fetch(request(server, 0, 10, size=10), bucket)
                assert bucket.data == b"0123456789"

            assert server.connections == 1

    run(main)


@pytest.mark.fault("a certificate for another host", "refused, never worked around", number=68)
def test_a_certificate_for_another_host_is_refused(
    run: Run, foreign_certificate: Certificate
) -> None:
    """Trusting an authority does not mean trusting it for every name."""

    async def main() -> None:
        script = sends(answer(b"0123456789"))
        async with (
            raw_server(script, tls=foreign_certificate.server) as server,
            transport(ca_file=str(foreign_certificate.file)) as net,
        ):
            with pytest.raises(CertificateError, match="not trusted"):
                await net.fetch(request(server, 0, 10, size=10), Bucket(10))

    run(main)


def test_certificates_that_cannot_be_read_are_named(run: Run, tmp_path: Path) -> None:
    """A typing error in SSL_CERT_FILE must not look like a network problem."""

    async def main() -> None:
        async with transport(ca_file=str(tmp_path / "none.pem")) as net:
            with pytest.raises(CertificateError, match=r"none\.pem cannot be read"):
                await net.fetch(Request(url="https://127.0.0.1:1/", span=Span(0, 1)), Bucket(1))

    run(main)


@pytest.mark.fault("the handshake of TLS fails", "a connection error, tried again", number=65)
def test_plain_http_on_a_tls_port_is_a_failed_connection(
    run: Run, certificate: Certificate
) -> None:
    """A server that does not speak TLS closes or sends nonsense: no handshake, no bytes."""

    async def main() -> None:
        async with raw_server(sends(answer()), tls=certificate.server) as server:
            url = server.url().replace("https:", "http:")
            async with transport(head_timeout=5) as net:
                with pytest.raises((ConnectionLost, ProtocolError)):
                    await net.fetch(Request(url=url, span=Span(0, 1)), Bucket(1))

    run(main)


def test_tls_on_a_port_of_plain_http_says_so(run: Run) -> None:
    """The usual mistake with a server of one's own: https for http."""

    async def refuse(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    async def main() -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        url = f"https://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/"
        async with listener, anyio.create_task_group() as group, transport() as net:
            group.start_soon(listener.serve, refuse)
            with pytest.raises(ConnectFailed, match="speaks no TLS") as caught:
                await net.fetch(Request(url=url, span=Span(0, 1)), Bucket(1))
            group.cancel_scope.cancel()
        assert "http://" in str(caught.value.hint)

    run(main)


# -- proxies -----------------------------------------------------------------------------------


def test_http_goes_through_the_proxy_in_absolute_form(run: Run) -> None:
    """The proxy sees the whole URL, and the proxy's password stays with the proxy."""

    async def main() -> None:
        bucket = Bucket(10)
        async with raw_server(sends(answer(b"0123456789"))) as server, http_proxy() as proxy:
            proxies = {"http": f"http://me:PROXYWORD@127.0.0.1:{proxy.port}"}
            async with transport(proxies=proxies) as net:
                url = f"http://hub.test:{server.port}/x?sig=%2B+"
                await net.fetch(Request(url=url, span=Span(0, 10), size=10), bucket)

        assert bucket.data == b"0123456789"
        assert proxy.asked[0].startswith(f"GET {url} HTTP/1.1\r\n")
        assert "Proxy-Authorization: Basic bWU6UFJPWFlXT1JE" in proxy.asked[0]

    run(main)


def test_https_goes_through_a_tunnel(run: Run, certificate: Certificate) -> None:
    """CONNECT names host and port only: no path, no header of ours reaches the proxy."""

    async def main() -> None:
        bucket = Bucket(10)
        script = sends(answer(b"0123456789"))
        async with raw_server(script, tls=certificate.server) as server, http_proxy() as proxy:
            async with transport(
                proxies={"all": f"http://127.0.0.1:{proxy.port}"},
                ca_file=str(certificate.file),
            ) as net:
                await net.fetch(request(server, 0, 10, size=10, headers=_SECRETS), bucket)

            assert server.requests[0].headers("Proxy-Authorization") == []
        assert bucket.data == b"0123456789"
        assert len(proxy.asked) == 1
        assert proxy.asked[0].startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1\r\n")
        assert "TOPSECRET" not in proxy.asked[0]

    run(main)


@pytest.mark.parametrize("no_proxy", ["127.0.0.1", "*", "example.com, 127.0.0.1"])
def test_no_proxy_goes_straight(run: Run, no_proxy: str) -> None:
    """Hosts in NO_PROXY are not mentioned to the proxy."""

    async def main() -> None:
        async with raw_server(sends(answer(b"0123456789"))) as server, http_proxy() as proxy:
            proxies = {"all": f"http://127.0.0.1:{proxy.port}"}
            async with transport(proxies=proxies, no_proxy=no_proxy) as net:
                await net.fetch(request(server, 0, 10, size=10), Bucket(10))

            assert len(server.requests) == 1
        assert proxy.asked == []

    run(main)


def test_a_proxy_that_is_down_is_a_failed_connection(run: Run) -> None:
    """Worth another try, and its password is not shown."""

    async def main() -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            port = bound.getsockname()[1]
            async with transport(proxies={"all": f"http://me:PROXYWORD@127.0.0.1:{port}"}) as net:
                with pytest.raises(ConnectFailed) as caught:
                    await net.fetch(Request(url="http://hub.test/", span=Span(0, 1)), Bucket(1))

        assert "PROXYWORD" not in f"{caught.value} {net._settings!r}"

    run(main)


@pytest.mark.fault("the proxy answers 407", "final, one request", number=61)
def test_a_proxy_that_refuses_the_tunnel_is_not_asked_again(run: Run) -> None:
    """The proxy's own words are in the message; trying again does not help."""

    async def main() -> None:
        async with raw_server(sends(answer(status="403 Forbidden By Policy"))) as server:
            proxies = {"all": f"http://127.0.0.1:{server.port}"}
            async with transport(proxies=proxies) as net:
                with pytest.raises(ProxyRefused, match="403 Forbidden By Policy") as caught:
                    await net.fetch(Request(url="https://hub.test/", span=Span(0, 1)), Bucket(1))

        assert not caught.value.retryable

    run(main)


@pytest.mark.parametrize(
    ("scheme", "host", "asked"),
    [
        ("socks5", "127.0.0.1", "127.0.0.1"),
        ("socks5h", "hub.test", "hub.test"),
        ("socks", "hub.test", "hub.test"),
    ],
)
def test_socks5_carries_requests(run: Run, scheme: str, host: str, asked: str) -> None:
    """With socks5h the proxy looks the name up: it never leaks to the local resolver."""

    async def main() -> None:
        bucket = Bucket(10)
        async with raw_server(sends(answer(b"0123456789"))) as server, socks5_proxy() as proxy:
            async with transport(proxies={"all": f"{scheme}://127.0.0.1:{proxy.port}"}) as net:
                url = f"http://{host}:{server.port}/x"
                for _ in range(2):
                    bucket = Bucket(10)
                    await net.fetch(Request(url=url, span=Span(0, 10), size=10), bucket)

            assert server.requests[0].target == "/x"
        assert bucket.data == b"0123456789"
        assert proxy.asked == [f"{asked}:{server.port}"]

    run(main)


def test_socks5_with_a_password(run: Run) -> None:
    """User and password go to the proxy, unquoted."""

    async def main() -> None:
        bucket = Bucket(10)
        async with (
            raw_server(sends(answer(b"0123456789"))) as server,
            socks5_proxy(login=("me", "p@ss")) as proxy,
            transport(proxies={"http": f"socks5://me:p%40ss@127.0.0.1:{proxy.port}"}) as net,
        ):
            await net.fetch(request(server, 0, 10, size=10), bucket)

        assert bucket.data == b"0123456789"

    run(main)


_NETRC_SCRIPT = """
    import sys, anyio
    from modelhaul.net.http import HttpTransport
    from modelhaul.settings import Settings

    async def main():
        transport = HttpTransport(Settings.from_environment())
        await transport.call(sys.argv[1], headers={"Authorization": "Bearer T"}, limit=100)
        await transport.call(sys.argv[1], headers={}, limit=100)
        await transport.aclose()

    anyio.run(main)
"""


def test_netrc_is_not_read(tmp_path: Path) -> None:
    """`~/.netrc` neither replaces an explicit token nor adds credentials that nobody named."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login u password p\n")
    (tmp_path / ".netrc").chmod(0o600)

    async def main() -> None:
        async with raw_server(sends(answer(b"hello"))) as server:
            await anyio.run_process(
                [sys.executable, "-c", textwrap.dedent(_NETRC_SCRIPT), server.url()],
                env={"HOME": str(tmp_path), "NETRC": str(tmp_path / ".netrc")},
            )

        assert [seen.headers("Authorization") for seen in server.requests] == [["Bearer T"], []]

    anyio.run(main)


# -- cancelling --------------------------------------------------------------------------------


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")
@pytest.mark.parametrize("warm", [False, True], ids=["new-connection", "kept-connection"])
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_cancelling_at_any_moment_leaves_no_socket(
    run: Run, secure: bool, warm: bool, certificate: Certificate
) -> None:
    """Whatever a fetch is doing, cancelled it closes its connection, and the transport goes on."""

    async def script(exchange: Exchange) -> None:
        if exchange.target == "/good":
            await exchange.send(answer(b"0123456789"))
        else:
            await exchange.send(answer(length=False, status=PART, Content_Range="bytes 0-9/10"))
            await exchange.send(b"01234")
            await exchange.hang()

    async def main() -> None:
        reached = set()
        tls = certificate.server if secure else None
        async with (
            raw_server(script, tls=tls) as server,
            transport(ca_file=str(certificate.file)) as net,
        ):
            good = Request(url=server.url("/good"), span=Span(0, 10), size=10)
            await net.fetch(good, Bucket(10))
            before = _descriptors()
            for steps in range(60):
                if not warm:
                    await net.aclose()
                bucket = Bucket(10)
                async with anyio.create_task_group() as group:
                    group.start_soon(net.fetch, request(server, 0, 10, size=10), bucket)
                    for _ in range(steps):
                        await anyio.lowlevel.checkpoint()
                    group.cancel_scope.cancel()
                reached.add(len(bucket.data))
                await net.fetch(good, Bucket(10))
                while server.open > 1:
                    await server.changed.wait()
                assert _descriptors() <= before

        assert reached == {0, 5}, "the steps go from before the head into the body"

    run(main)

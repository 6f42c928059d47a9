"""Small files and files of unknown size: one request each, no journal, durable in batches."""

from __future__ import annotations

import hashlib
from pathlib import Path

import anyio
import pytest

from modelhaul import events
from modelhaul.core.repo import RemoteFile
from modelhaul.core.span import Span
from modelhaul.errors import IntegrityError, ProtocolError, UnsafeName
from modelhaul.net.transport import Answer, Receiver, Redirect, Request
from modelhaul.report import FileResult
from tests.engine.harness import MIB, ORIGIN, Rig, payload, remote
from tests.support.inline import InlineThreads
from tests.support.network import Asked, FakeNetwork, Fault, Served
from tests.support.virtual import virtual


def bring(rig: Rig, *files: RemoteFile) -> list[FileResult]:
    return list(virtual(lambda: rig.bring(*(rig.order(file) for file in files))))


def test_a_small_file_takes_one_request_and_leaves_no_journal(target: Path) -> None:
    """Up to the limit: one GET without a range."""
    data = payload(20_000)
    network = FakeNetwork({f"{ORIGIN}/s": Served(data)})
    rig = Rig(target, network)

    (result,) = bring(rig, remote("s", data))

    (asked,) = network.asked
    assert asked.whole
    assert (target / "s").read_bytes() == data
    assert result.verified
    assert rig.left() == []


def test_an_empty_file_takes_no_request(target: Path) -> None:
    """Nothing to fetch; its digest is checked all the same."""
    network = FakeNetwork({})
    rig = Rig(target, network)

    (result,) = bring(rig, remote("empty", b""))

    assert (target / "empty").read_bytes() == b""
    assert network.asked == []
    assert result.sha256 == hashlib.sha256(b"").hexdigest()


def test_an_empty_file_with_the_digest_of_something_else_is_refused(target: Path) -> None:
    """A listing that says 0 bytes and another digest contradicts itself."""
    rig = Rig(target, FakeNetwork({}))

    (result,) = bring(rig, RemoteFile("empty", 0, sha256="1" * 64))

    assert isinstance(result.error, IntegrityError)
    assert not (target / "empty").exists()


def test_many_small_files_are_synced_in_few_batches(target: Path) -> None:
    """Every part is synced before any is renamed, and each folder once per batch."""
    files = [remote(f"d{n % 3}/f{n}", payload(1000, n)) for n in range(300)]
    network = FakeNetwork(
        {f"{ORIGIN}/{file.path}": Served(payload(1000, n)) for n, file in enumerate(files)}
    )
    threads = InlineThreads()
    rig = Rig(target, network, threads=threads)

    results = bring(rig, *files)

    assert all(result.error is None for result in results)
    assert all(
        (target / file.path).read_bytes() == payload(1000, n) for n, file in enumerate(files)
    )
    assert rig.left() == []
    # one sync per file, and one call per batch for all renames and folders
    assert threads.calls.count("sync") <= 300 + 4


def test_small_files_arrive_over_many_connections(target: Path) -> None:
    """They are round trips: many at once."""
    files = [remote(f"f{n}", payload(1000, n)) for n in range(64)]
    network = FakeNetwork(
        {f"{ORIGIN}/{file.path}": Served(payload(1000, n)) for n, file in enumerate(files)}
    )
    rig = Rig(target, network)

    bring(rig, *files)

    assert network.most_active == 8


def test_a_small_file_that_is_cut_begins_again(target: Path) -> None:
    """No range is asked of small files: the whole body comes once more."""
    data = payload(20_000)
    network = FakeNetwork(
        {f"{ORIGIN}/s": Served(data)},
        lambda asked: Fault(cut=7000) if asked.number == 0 else None,
    )
    rig = Rig(target, network)

    (result,) = bring(rig, remote("s", data))

    assert result.error is None
    assert (target / "s").read_bytes() == data
    assert all(asked.whole for asked in network.asked)


def test_a_small_file_flipped_in_transit_is_fetched_once_more(target: Path) -> None:
    """Wrong digest: at most one more fetch."""
    data = payload(20_000)
    network = FakeNetwork(
        {f"{ORIGIN}/s": Served(data)},
        lambda asked: Fault(flip=(5,)) if asked.number == 0 else None,
    )
    rig = Rig(target, network)

    (result,) = bring(rig, remote("s", data))

    assert result.error is None
    assert (target / "s").read_bytes() == data
    assert len(network.asked) == 2


def test_a_small_file_wrong_twice_leaves_nothing(target: Path) -> None:
    """Source and listing disagree: an error, and neither name nor part."""
    data = payload(20_000)
    network = FakeNetwork({f"{ORIGIN}/s": Served(data)})
    rig = Rig(target, network)

    (result,) = bring(rig, remote("s", data, digest="0" * 64))

    assert isinstance(result.error, IntegrityError)
    assert len(network.asked) == 2
    assert not (target / "s").exists()
    assert rig.left() == []


def test_a_page_instead_of_a_small_file_is_refused(target: Path) -> None:
    """Another length than the listing's is never written, digest or not."""
    network = FakeNetwork({f"{ORIGIN}/s": Served(b"<html>login</html>")})
    rig = Rig(target, network)

    (result,) = bring(rig, RemoteFile("s", 20_000))

    assert isinstance(result.error, ProtocolError)
    assert not (target / "s").exists()


def test_small_files_do_not_hold_up_a_large_one(target: Path) -> None:
    """Both kinds share the connections: half of them at most for the small ones."""
    big = payload(8 * MIB)
    served = {f"{ORIGIN}/big": Served(big, rate=2e6)}
    files = [remote(f"f{n}", payload(500, n)) for n in range(200)]
    for n, file in enumerate(files):
        served[f"{ORIGIN}/{file.path}"] = Served(payload(500, n), delay=0.5)
    network = FakeNetwork(served)
    rig = Rig(target, network)

    bring(rig, *files, remote("big", big))

    first_big = min(n for n, asked in enumerate(network.asked) if asked.url.endswith("/big"))
    assert first_big <= 8
    assert (target / "big").read_bytes() == big


def test_a_folder_that_is_a_link_is_refused_per_file(target: Path) -> None:
    """A symbolic link below the target leads who knows where: that file fails, others go on."""
    data = payload(100)
    (target / "link").symlink_to(target.parent)
    network = FakeNetwork({f"{ORIGIN}/link/s": Served(data), f"{ORIGIN}/ok": Served(data[1:])})
    rig = Rig(target, network)

    refused, fine = bring(rig, remote("link/s", data), remote("ok", data[1:]))

    assert isinstance(refused.error, UnsafeName)
    assert not (target.parent / "s").exists()
    assert fine.error is None


class Unsized(FakeNetwork):
    """Sends a body of which only the end tells the length."""

    def __init__(self, data: bytes, *, framed: bool) -> None:
        super().__init__({f"{ORIGIN}/u": Served(data)})
        self.framed = framed

    async def fetch(self, request: Request, receiver: Receiver) -> Answer | Redirect:
        data = self.files[request.url].data
        self.asked.append(Asked(0, 0.0, request.url, request.span, request.whole, {}))
        answer = Answer(
            start=0, stop=None, size=None, validator=None, ranged=False, framed=self.framed
        )
        receiver.started(answer)
        view = memoryview(data)
        while view:
            await anyio.sleep(0.01)
            buffer = await receiver.wait_buffer()
            count = min(len(buffer), len(view), 50_000)
            buffer[:count] = view[:count]
            receiver.commit(count)
            view = view[count:]
        return answer


def test_a_file_of_unknown_size_is_streamed_and_hashed(target: Path) -> None:
    """No length, but chunks that say where the end is: the digest is computed on the way."""
    data = payload(3 * MIB)
    rig = Rig(target, Unsized(data, framed=True))

    (result,) = bring(rig, RemoteFile("u", None))

    assert (target / "u").read_bytes() == data
    assert result.sha256 == hashlib.sha256(data).hexdigest()
    assert not result.verified
    assert result.size == len(data)


def test_a_body_that_ends_with_the_connection_proves_nothing(target: Path) -> None:
    """Neither length nor chunks nor digest: nobody can tell a cut body from a whole one."""
    rig = Rig(target, Unsized(payload(MIB), framed=False))

    (result,) = bring(rig, RemoteFile("u", None))

    assert isinstance(result.error, ProtocolError)
    assert not (target / "u").exists()


def test_a_digest_settles_what_a_missing_length_leaves_open(target: Path) -> None:
    """With a digest even a body that ends with the connection is proven."""
    data = payload(MIB)
    rig = Rig(target, Unsized(data, framed=False))

    (result,) = bring(rig, RemoteFile("u", None, sha256=hashlib.sha256(data).hexdigest()))

    assert result.verified
    assert (target / "u").read_bytes() == data


@pytest.mark.parametrize("stop_after", [0.001, 0.03, 0.3, 0.9])
def test_a_stop_among_small_files_leaves_whole_files_or_nothing(
    target: Path, stop_after: float
) -> None:
    """Cancelled at any moment: what stands under a final name is right, no part stays behind."""
    files = [remote(f"f{n}", payload(9000, n)) for n in range(40)]
    network = FakeNetwork(
        {
            f"{ORIGIN}/{file.path}": Served(payload(9000, n), rate=2e5)
            for n, file in enumerate(files)
        }
    )
    rig = Rig(target, network)

    async def main() -> None:
        with anyio.move_on_after(stop_after):
            await rig.bring(*(rig.order(file) for file in files))

    virtual(main)

    for n, file in enumerate(files):
        if (target / file.path).exists():
            assert (target / file.path).read_bytes() == payload(9000, n)
    assert rig.left() == []
    assert isinstance(rig.seen[0] if rig.seen else None, events.Event | None)


def test_the_span_of_a_whole_request_is_the_file(target: Path) -> None:
    """What is asked of the transport is all of it, so a longer body is noticed."""
    data = payload(12_345)
    network = FakeNetwork({f"{ORIGIN}/s": Served(data)})
    rig = Rig(target, network)

    bring(rig, remote("s", data))

    assert network.asked[0].span == Span(0, len(data))

"""Files that a hub names as git does: proven by that name, with their SHA-256 computed beside."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from modelhaul.core.plan import Action, FilePlan
from modelhaul.core.repo import RemoteFile
from modelhaul.errors import IntegrityError
from modelhaul.report import FileResult
from modelhaul.store.index import Known, ProvenIndex
from modelhaul.store.osfile import Stamp
from tests.engine.harness import MIB, ORIGIN, Rig, blob, git_sha1, payload
from tests.support.network import Asked, FakeNetwork, Fault, Served
from tests.support.virtual import virtual

SMALL, LARGE = 20_000, 3 * MIB + 17


def bring(rig: Rig, *files: RemoteFile) -> list[FileResult]:
    return list(virtual(lambda: rig.bring(*(rig.order(file) for file in files))))


def known(target: Path, path: str) -> Known | None:
    """What the memory says of a file."""
    index = ProvenIndex(target.parent / "state" / "proven.sqlite")
    try:
        return index.lookup(target / path, Stamp.of((target / path).lstat()))
    finally:
        index.close()


def test_a_git_name_is_what_git_itself_computes() -> None:
    """`printf hello | git hash-object --stdin`, or the tests would prove what they believe."""
    assert git_sha1(b"hello") == "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"
    assert git_sha1(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


@pytest.mark.parametrize("size", [0, 1, SMALL, LARGE])
def test_the_right_bytes_are_proven_by_their_git_name(target: Path, size: int) -> None:
    """Empty, small and large: verified, and the report has the SHA-256 as well."""
    data = payload(size)
    rig = Rig(target, FakeNetwork({f"{ORIGIN}/f": Served(data)}))

    (result,) = bring(rig, blob("f", data))

    digest = hashlib.sha256(data).hexdigest()
    assert (target / "f").read_bytes() == data
    assert (result.error, result.verified, result.sha256) == (None, True, digest)
    assert known(target, "f") == Known(digest, None, ours=True, git_sha1=git_sha1(data))
    assert rig.left() == []


@pytest.mark.parametrize("size", [0, SMALL, LARGE])
def test_other_bytes_than_the_git_name_says_are_refused(target: Path, size: int) -> None:
    """Wrong twice: an error that names the digest, nothing under the final name, nothing left."""
    data = payload(size)
    network = FakeNetwork({f"{ORIGIN}/f": Served(data)})
    rig = Rig(target, network)

    (result,) = bring(rig, blob("f", data, name="0" * 40))

    assert isinstance(result.error, IntegrityError)
    assert f"git blob SHA-1 is {git_sha1(data)}, should be {'0' * 40}" in result.error.message
    assert not result.verified
    assert not (target / "f").exists()
    assert rig.left() == []
    assert network.sent == 2 * size


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_bytes_flipped_in_transit_are_noticed(target: Path, size: int) -> None:
    """One wrong bit of the first answers: fetched once more, then right."""
    data = payload(size)

    def flip(asked: Asked) -> Fault | None:
        hit = asked.whole or asked.span.start <= 5 < asked.span.stop
        return Fault(flip=(5,)) if hit and asked.number < 8 else None

    network = FakeNetwork(
        {f"{ORIGIN}/f": Served(data)},
        flip if size == LARGE else lambda asked: Fault(flip=(5,)) if asked.number == 0 else None,
    )
    rig = Rig(target, network)

    (result,) = bring(rig, blob("f", data))

    assert result.error is None
    assert (target / "f").read_bytes() == data
    assert size < network.sent <= 2 * size


def test_a_large_file_is_continued_by_its_git_name(target: Path) -> None:
    """The name is its identity: what an interrupted run left counts in the next one."""
    data = payload(4 * MIB)
    network = FakeNetwork({f"{ORIGIN}/f": Served(data, rate=1e6)})
    rig = Rig(target, network, connections=1)

    async def stopped() -> None:
        with anyio.move_on_after(2.5):
            await rig.bring(rig.order(blob("f", data)))

    virtual(stopped)
    (result,) = bring(rig, blob("f", data))

    assert result.error is None
    assert result.reused > MIB
    assert network.sent == len(data)
    assert (target / "f").read_bytes() == data


def test_no_validator_is_held_where_the_git_name_judges(target: Path) -> None:
    """Edges tag the same bytes differently; with a digest that is no reason to refuse them."""
    data = payload(LARGE)
    network = FakeNetwork(
        {f"{ORIGIN}/f": Served(data)},
        lambda asked: Fault(headers={"etag": f'"{asked.number}"'}),
    )
    rig = Rig(target, network)

    (result,) = bring(rig, replace(blob("f", data), validator='"0"'))

    assert result.error is None
    assert result.verified


@pytest.mark.parametrize("true", [True, False])
def test_a_copy_is_proven_by_its_git_name(target: Path, true: bool) -> None:
    """Content that is on this disk: hashed on the way, refused if it has changed."""
    data = payload(SMALL)
    (target / "there").write_bytes(data if true else data[::-1])
    file = blob("copy", data)
    rig = Rig(target, FakeNetwork({}))
    order = rig.order(
        file,
        plan=FilePlan(file=file, action=Action.COPY, reuse=SMALL),
        sources=(),
        copy_from=target / "there",
    )

    (result,) = virtual(lambda: rig.bring(order))

    assert (result.error is None) == true
    assert (target / "copy").exists() == true
    if true:
        digest = hashlib.sha256(data).hexdigest()
        assert (result.verified, result.sha256) == (True, digest)
        assert known(target, "copy") == Known(digest, None, ours=True, git_sha1=git_sha1(data))

"""`engine.hasher`: out of memory where it can be, else read back; always the right digest."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhaul.core.repo import RemoteFile
from modelhaul.core.span import Span, SpanSet
from modelhaul.engine.buffers import Block, BufferPool
from modelhaul.engine.hasher import Hasher
from modelhaul.engine.lanes import Lanes
from modelhaul.store.sink import PartFile
from tests.engine.harness import payload
from tests.support.inline import InlineThreads
from tests.support.virtual import virtual

KIB = 1 << 10
SIZE = 64 * KIB


class Part(PartFile):
    """A real part that counts what is read back."""

    read = 0

    def read_into(self, view: memoryview, offset: int) -> int:
        count = super().read_into(view, offset)
        self.read += count
        return count


@dataclass
class Bench:
    """A hasher, its part, and a pool. Implements what a hasher needs of a `Context`."""

    path: Path
    data: bytes
    memory: int = 64 * SIZE
    threads: InlineThreads = field(default_factory=InlineThreads)

    def __post_init__(self) -> None:
        self.pool = BufferPool(self.memory)
        self.lanes = Lanes(cap=1, host_cap=1)
        self.have = SpanSet()
        self.part = Part.create(self.path, len(self.data))
        self.hasher = Hasher(
            self,  # type: ignore[arg-type]
            RemoteFile("f", len(self.data)),
            frontier=self.have.frontier,
            advanced=lambda: None,
        )

    def write(self, offset: int, length: int) -> Block | None:
        """What the writer does with a block; gives the block if the hasher did not keep it."""
        block = self.pool.take_nowait(SIZE)
        piece = self.data[offset : offset + length]
        self.part.write_at(piece, offset)
        if block is not None:
            block.view[:length] = piece
            if self.hasher.keep(offset, block, length):
                block = None
            else:
                self.pool.give(block)
        self.have.add(Span(offset, offset + length))
        self.hasher.wake()
        return block

    async def settle(self) -> None:
        """Let the hasher do all it can."""
        async with anyio.create_task_group() as group:
            group.start_soon(self.hasher.run, self.part)
            await anyio.sleep(60.0)
            group.cancel_scope.cancel()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def offsets(count: int) -> Iterable[int]:
    return range(0, count * SIZE, SIZE)


@pytest.fixture
def bench(tmp_path: Path) -> Iterable[Bench]:
    """Eight blocks of data."""
    made = Bench(tmp_path / "part", payload(8 * SIZE))
    yield made
    made.hasher.close()
    made.part.close()
    assert made.pool.lent == 0


@pytest.mark.parametrize("order", [offsets(8), reversed(offsets(8))], ids=["forward", "back"])
def test_what_is_still_in_memory_is_not_read_back(bench: Bench, order: Iterable[int]) -> None:
    """In any order, as long as the gaps close."""
    for offset in order:
        bench.write(offset, SIZE)

    virtual(bench.settle)

    assert bench.hasher.position == 8 * SIZE
    assert bench.hasher.digests().sha256 == digest(bench.data)
    assert bench.part.read == 0
    assert bench.pool.lent == 0


def test_what_an_earlier_run_left_is_read_back(bench: Bench) -> None:
    """The prefix is on the disk only; what follows it is in memory."""
    bench.part.write_at(bench.data[: 3 * SIZE], 0)
    bench.have.add(Span(0, 3 * SIZE))
    for offset in list(offsets(8))[3:]:
        bench.write(offset, SIZE)

    virtual(bench.settle)

    assert bench.hasher.digests().sha256 == digest(bench.data)
    assert bench.part.read == 3 * SIZE


def test_behind_a_gap_the_nearest_blocks_are_kept(tmp_path: Path) -> None:
    """Two thirds of six blocks are four; those farther away give way, and are read back."""
    bench = Bench(tmp_path / "part", payload(8 * SIZE), memory=6 * SIZE)
    for offset in reversed(list(offsets(8))[1:]):
        bench.write(offset, SIZE)
    assert bench.pool.lent == 4 * SIZE

    bench.write(0, SIZE)
    virtual(bench.settle)

    assert bench.hasher.digests().sha256 == digest(bench.data)
    assert bench.part.read == 3 * SIZE
    assert bench.pool.lent == 0


def test_a_gap_never_holds_more_than_its_share(tmp_path: Path) -> None:
    """A third of the memory stays for those who fill the gap."""
    bench = Bench(tmp_path / "part", payload(8 * SIZE), memory=6 * SIZE)

    refused = [bench.write(offset, SIZE) for offset in list(offsets(8))[1:]]

    assert refused[:4] == [None] * 4
    assert None not in refused[4:]
    assert bench.pool.lent == 4 * SIZE


def test_beginning_again_forgets_what_was_kept(bench: Bench) -> None:
    """After a repair the bytes are others: those in memory are the wrong ones."""
    bench.write(0, SIZE)
    bench.write(2 * SIZE, SIZE)

    bench.hasher.restart()

    assert bench.pool.lent == 0
    assert bench.pool.put_aside(bench.memory * 2 // 3)
    assert (bench.hasher.position, bench.hasher.digests().sha256) == (0, digest(b""))


def test_a_stop_during_the_hashing_holds_the_memory_until_the_call_returns(tmp_path: Path) -> None:
    """A thread still reads the blocks: nobody else may get them."""
    bench = Bench(tmp_path / "part", payload(SIZE), threads=InlineThreads(hash=1.0))
    bench.write(0, SIZE)
    lent = []

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(bench.hasher.run, bench.part)
            await anyio.sleep(0.5)
            group.cancel_scope.cancel()
            lent.append(bench.pool.lent)
        bench.hasher.close()
        lent.append(bench.pool.lent)

    virtual(main)

    assert lent == [SIZE, 0]


@given(
    lengths=st.lists(st.integers(1, SIZE), min_size=1, max_size=12),
    random=st.randoms(use_true_random=False),
    memory=st.integers(1, 14),
    rests=st.sets(st.integers(0, 11)),
)
def test_the_digest_is_right_whatever_was_kept(
    lengths: list[int], random: object, memory: int, rests: set[int]
) -> None:
    """Pieces of any length in any order, any memory, hashed at any moments in between."""
    data = payload(sum(lengths))
    pieces = [(sum(lengths[:at]), length) for at, length in enumerate(lengths)]
    random.shuffle(pieces)  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder, "part"), data, memory=memory * SIZE)

        async def main() -> None:
            for number, piece in enumerate(pieces):
                bench.write(*piece)
                if number in rests:
                    await bench.settle()
            await bench.settle()

        virtual(main)
        bench.part.close()

    assert bench.hasher.position == len(data)
    assert bench.hasher.digests().sha256 == digest(data)
    assert bench.pool.lent == 0
    assert bench.pool.put_aside(memory * SIZE * 2 // 3)

"""The crash order of the whole program, as the operating system sees it.

What `docs/internals/journal.md` promises is about system calls, so those are what is looked at: a
real download under strace, from a hub in this process.
"""

from __future__ import annotations

import hashlib
import random

import pytest

from modelhaul.store.claim import part_name
from tests.store.helpers import trace
from tests.support.hub import hub_with

pytestmark = pytest.mark.command

MODEL = random.Random(1).randbytes(3 << 20)
SMALL = {f"small{n}.json": random.Random(n).randbytes(2000) for n in range(3)}
STEM = part_name(f"sha256:{hashlib.sha256(MODEL).hexdigest()}", len(MODEL))
PART, JOURNAL = f"{STEM}.part", f"{STEM}.journal"

CALLS = "pwrite64,fdatasync,fsync,rename,renameat,renameat2,unlink,unlinkat"

DOWNLOAD = """
import asyncio
import modelhaul
from modelhaul.engine import large
large.BARRIER_SECONDS = 0.1

async def main(target):
    async with modelhaul.Client(
        endpoint={hub!r}, state_dir=target.with_name("state"), limit_rate=3e6
    ) as client:
        await client.download("acme/tiny", local_dir=target)

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory, needs_strace: None) -> list[str]:
    """What a download does to its files, in order."""
    folder = tmp_path_factory.mktemp("order")
    with hub_with({"acme/tiny": {"model.bin": MODEL, **SMALL}}, folder) as hub:
        traced = trace(DOWNLOAD.format(hub=hub.url), folder / "target", calls=CALLS)
    assert traced.exit_code == 0
    assert (folder / "target" / "model.bin").read_bytes() == MODEL
    return traced.steps


def last(steps: list[str], step: str) -> int:
    """Where a step was taken for the last time."""
    return len(steps) - 1 - steps[::-1].index(step)


@pytest.mark.fault(
    "the power fails between the steps of publishing a file",
    "bytes durable, name set, name durable, and only then the journal goes: in this order of"
    " system calls",
    number=93,
)
def test_the_order_is_sync_rename_folder_journal(steps: list[str]) -> None:
    """Of a large file, and it is made in the order part, journal, folder, first byte."""
    renamed = steps.index(f"rename {PART} model.bin")
    around = [step for step in steps if step.endswith((PART, JOURNAL, "model.bin", "target"))]
    end = around.index(f"rename {PART} model.bin")

    assert steps.index(f"fdatasync {PART}") < steps.index(f"fdatasync {JOURNAL}")
    assert steps.index(f"fdatasync {JOURNAL}") < steps.index("fsync .modelhaul", 1)
    assert last(steps, f"pwrite64 {PART}") < last(steps, f"fdatasync {PART}") < renamed
    assert around[end - 1] == f"fdatasync {PART}"
    assert around[end + 1 :] == ["fsync target", f"unlink {JOURNAL}"]


def test_a_barrier_syncs_the_part_then_writes_and_syncs_the_journal(steps: list[str]) -> None:
    """Between making and publishing: what a record vouches for is on the disk before it."""
    ours = [step for step in steps if PART in step or JOURNAL in step]
    made = ours.index(f"fdatasync {JOURNAL}")
    published = ours.index(f"rename {PART} model.bin")
    barriers = [at for at in range(made + 1, published) if ours[at] == f"fdatasync {JOURNAL}"]

    assert barriers
    for before, at in zip([made, *barriers], barriers, strict=False):
        between = ours[before + 1 : at]
        assert between[last(between, f"fdatasync {PART}") :].count(f"pwrite64 {JOURNAL}") >= 1


def test_small_files_are_all_synced_before_the_first_is_renamed(steps: list[str]) -> None:
    """And their folder afterwards, once for all of them."""
    renamed = [at for at, step in enumerate(steps) if step.split()[-1] in SMALL]
    parts = [steps[at].split()[1] for at in renamed]

    assert [steps[at].split()[0] for at in renamed] == ["rename"] * len(SMALL)
    assert all(steps.index(f"fdatasync {part}") < renamed[0] for part in parts)
    assert "fsync target" in steps[renamed[-1] :]

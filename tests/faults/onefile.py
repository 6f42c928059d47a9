"""A site with one large file, and what is to be found where its download was stopped."""

from __future__ import annotations

from pathlib import Path

from modelhaul.core.span import Span, SpanSet
from modelhaul.store.claim import read_runs
from tests.engine.harness import payload
from tests.faults.runs import slowed
from tests.support.network import FakeNetwork
from tests.support.site import site

MIB = 1 << 20
SIZE = 12 * MIB
DATA = payload(SIZE)
NAME = "model.safetensors"
WHOLE = SpanSet([Span(0, SIZE)])


def large() -> FakeNetwork:
    """A site with one file, which takes six seconds over two connections."""
    return slowed(site({NAME: DATA}), 1e6)


def without(spans: SpanSet) -> SpanSet:
    """All other bytes of the file."""
    return spans.gaps(Span(0, SIZE))


def recorded(folder: Path) -> SpanSet:
    """Bytes that the journal in the target speaks of."""
    (journal,) = (folder / "m" / ".modelhaul").glob("*.journal")
    return SpanSet(run.span for run in read_runs(journal)[1])


#: Promises of several rows of the table.
STOPS = "the run ends and says why; the next one fetches only what is missing"
DOUBT = "never synced again; nothing since the last good sync is believed, it is fetched again"

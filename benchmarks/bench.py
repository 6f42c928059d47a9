"""One case: rows in turn, so many times, each run checked; and what a row is made of."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.origin import make_certificate
from benchmarks.peers import Command, environment
from benchmarks.places import Place
from benchmarks.processes import helper, measure, tail
from benchmarks.stock import Blob, Stock, what_is_wrong
from benchmarks.verdicts import ENOUGH_IF_LONG, FAILED, LONG, Target

#: Bytes/s that a connection to the capped port gets.
CAP = 9 << 20
_TIMEOUT = 900.0

Sample = dict[str, float]


class WrongRun(Exception):
    """A run that does not count: it failed, or its bytes are wrong."""


class Skipped(Exception):
    """A case that cannot run here; the message says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """One tool in one case: `run` gets an empty folder and returns figures.

    Attributes:
        kind: `modelhaul`, `peer`, `floor`, or `note` for a row that nothing is compared with.
        skipped: why it is not run; None if it is.
        runs: more runs than the others, for what takes next to no time.
    """

    name: str
    run: Callable[[Path], Sample]
    kind: str = "peer"
    skipped: str | None = None
    runs: int | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """Rows that are compared with each other.

    Attributes:
        prepare: starts what the rows need and gives them, with facts worth reporting.
        on_disk: the target is the repository's disk instead of memory.
    """

    scenario: str
    part: str
    title: str
    prepare: Callable[[Bench], AbstractContextManager[tuple[list[Row], dict[str, str]]]]
    targets: Sequence[Target]
    on_disk: bool = False

    @property
    def name(self) -> str:
        return f"{self.scenario}/{self.part}" if self.part else self.scenario


@dataclass(slots=True)
class Bench:
    """What all cases share.

    Attributes:
        memory: a folder on a tmpfs; the origin's files are below it, too.
        disk: a folder on a real disk.
        runs: how often each row is run.
        scale: factor for all sizes, 1 for figures that count.
    """

    memory: Path
    disk: Path
    runs: int
    scale: float
    stock: Stock = field(init=False)

    def __post_init__(self) -> None:
        origin = self.memory / "origin"
        origin.mkdir(parents=True)
        self.stock = Stock(origin)

    @property
    def log(self) -> Path:
        return self.memory / "helpers.log"

    def size(self, full: int) -> int:
        """A size in this run: never so small that it would take another way through a client."""
        return max(2 << 20, int(full * self.scale)) if self.scale != 1 else full

    def count(self, full: int) -> int:
        return max(4, int(full * self.scale)) if self.scale != 1 else full


@dataclass(frozen=True, slots=True)
class Site:
    """An origin and perhaps a hub, running."""

    place: Place
    ports: Mapping[str, int]
    certificate: Path
    hub: str = ""

    def url(self, blob: Blob, port: str = "http") -> str:
        scheme = "https" if port.endswith("https") else "http"
        return f"{scheme}://{self.place.host}:{self.ports[port]}/blob/{blob.sha256}"


@contextmanager
def site(
    bench: Bench,
    place: Place,
    catalogue: Mapping[str, Any] | None = None,
    *,
    store: str = "http",
    cap: int = CAP,
) -> Iterator[Site]:
    """Start the origin, and a hub that leads to its port `store` if there is a catalogue.

    The ports `capped` and `capped_https` give each connection `cap` bytes/s.
    """
    folder = bench.stock.folder
    certificate = make_certificate(folder, place.host)
    origin = helper("origin", folder, place.host, cap, prefix=place.server, log=bench.log)
    with origin as started:
        ports = json.loads(started.line)
        if catalogue is None:
            yield Site(place, ports, certificate)
            return
        path = folder / "catalogue.json"
        path.write_text(json.dumps(catalogue))
        address = f"http://{place.host}:{ports[store]}"
        hub = helper("hub", path, place.host, address, prefix=place.server, log=bench.log)
        with hub as answering:
            yield Site(place, ports, certificate, answering.line)


def command_row(
    name: str,
    make: Callable[[Path], Command | AbstractContextManager[Command]],
    expected: dict[str, str] | None,
    *,
    place: Place,
    kind: str = "peer",
    skipped: str | None = None,
) -> Row:
    """A row that is a command: `make` gets the folder to write to.

    Args:
        name: what it is called in tables.
        make: the command, or a context in which it can run.
        expected: digests of the files that must lie in the folder afterwards.
        place: where the client is.
        kind, skipped: as in `Row`.
    """

    def run(folder: Path) -> Sample:
        home, out = folder / "home", folder / "out"
        home.mkdir()
        out.mkdir()
        made = make(out)
        with nullcontext(made) if isinstance(made, Command) else made as command:
            sample = run_command(command, place, home, folder / "log")
        wrong = what_is_wrong(out, expected or {})
        if wrong is not None:
            raise WrongRun(wrong)
        return sample

    return Row(name, run, kind, skipped)


def run_command(command: Command, place: Place, home: Path, log: Path) -> Sample:
    """Measure a command on the client's side.

    Raises:
        WrongRun: it did not exit with 0.
    """
    words = (*place.client, *command.words)
    variables = {**environment(home), **command.environment}
    usage = measure(words, environment=variables, log=log, timeout=_TIMEOUT)
    if usage.code != 0:
        said = f"{tail(Path(f'{log}.err'))}\n{tail(log)}".strip()
        raise WrongRun(f"exit code {usage.code}: {said}")
    sample = {"wall": usage.wall, "cpu": usage.cpu, "peak": usage.peak}
    if "--json" in command.words:
        sample |= _from_events(log)
    return sample


def _from_events(log: Path) -> Sample:
    """What our own events tell: last byte to verified (the slowest file), most connections."""
    found: Sample = {}
    for line in log.read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "file_done" and event["proof_seconds"] is not None:
            found["proof"] = max(found.get("proof", 0.0), event["proof_seconds"])
        if event["event"] == "finished":
            found["connections"] = float(event["connections"])
    return found


def run_case(case: Case, bench: Bench, say: Callable[[str], None]) -> dict[str, Any]:
    """Run all rows of a case in turn; returns its record.

    A row that fails is said so in the record and not run again; the others go on.
    """
    load = os.getloadavg()[0]
    record: dict[str, Any] = {"title": case.title, "facts": {}, "rows": {}}
    try:
        with case.prepare(bench) as (rows, facts):
            record["facts"] = {**facts, "load before": f"{load:.2f}"}
            for row in rows:
                entry = {"kind": row.kind, "runs": [], "skipped": row.skipped}
                record["rows"][row.name] = entry
                if row.skipped is not None:
                    say(f"{case.name}: {row.name}: skipped: {row.skipped}")
            for number in range(max(row.runs or bench.runs for row in rows)):
                # Another one begins each time: no tool always runs behind the same other.
                turn = number % len(rows)
                for row in [*rows[turn:], *rows[:turn]]:
                    _once(case, row, record["rows"][row.name], bench, say)
    except Skipped as reason:
        record["skipped"] = str(reason)
        say(f"{case.name}: skipped: {reason}")
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        # What it needs is not there, or does not start: the other cases may do better.
        record["skipped"] = f"{FAILED}: {error}"
        say(f"{case.name}: {record['skipped']}")
    return record


def _once(
    case: Case, row: Row, entry: dict[str, Any], bench: Bench, say: Callable[[str], None]
) -> None:
    runs = entry["runs"]
    if entry["skipped"] is not None or len(runs) >= (row.runs or bench.runs):
        return
    if len(runs) >= ENOUGH_IF_LONG and statistics.median(run["wall"] for run in runs) > LONG:
        return
    folder = (bench.disk if case.on_disk else bench.memory) / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if case.on_disk:
        os.sync()  # what the run before left behind is not for this one to write
        time.sleep(0.5)
    try:
        sample = row.run(folder)
    except WrongRun as error:
        entry["skipped"] = f"{FAILED} in run {len(runs) + 1}: {error}"
        say(f"{case.name}: {row.name}: {entry['skipped']}")
    else:
        runs.append({name: round(value, 4) for name, value in sample.items()})
        figures = "  ".join(f"{name} {value:.3f}" for name, value in sample.items())
        say(f"{case.name}: {row.name} #{len(runs)}: {figures}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)

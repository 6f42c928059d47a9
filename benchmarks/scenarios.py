"""The scenarios of the suite: which rows, over which line, and what has to be reached."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks import peers
from benchmarks.bench import (
    Bench,
    Case,
    Row,
    Sample,
    Site,
    Skipped,
    WrongRun,
    command_row,
    run_command,
    site,
)
from benchmarks.peers import Command
from benchmarks.places import LOOPBACK, Place, why_not_wide, wide_area
from benchmarks.processes import ROOT, helper
from benchmarks.stock import GIB, Blob, file_system, what_is_wrong
from benchmarks.verdicts import AtLeast, AtMost, LikeHealthy, NoSlower, Ratio, Target

Prepared = tuple[list[Row], dict[str, str]]
Prepare = Callable[[Bench], AbstractContextManager[Prepared]]

REPO = "bench/model"
OURS = "modelhaul"
ARIA2_8 = "aria2c -x8 --checksum"
ARIA2_FALLOC = "aria2c -x8 --checksum, falloc"
ARIA2_16 = "aria2c -x16, not verified"
HF_TRANSFER = "hf_transfer, then hashlib"
CURL = "curl, not verified"
MODELSCOPE = "modelscope download"
HF = "hf download, xet off, not verified"
ARIA2_ALL = "aria2c, 48 connections, not verified"
COPY = "floor: splice"
HASH = "floor: SHA-256 in memory"


def _need_nginx() -> None:
    reason = peers.missing("nginx")
    if reason is not None:
        raise Skipped(reason)


@contextmanager
def _wide(bench: Bench) -> Iterator[Place]:
    reason = why_not_wide()
    if reason is not None:
        raise Skipped(f"the wide-area line {reason}")
    with wide_area(bench.log) as place:
        yield place


def _line(place: Site) -> dict[str, str]:
    return {"round trip": f"{place.place.round_trip_ms(place.ports['http']):.1f} ms"}


def _target(bench: Bench, *, on_disk: bool) -> dict[str, str]:
    return {"target": file_system(bench.disk if on_disk else bench.memory)}


# -- one file over loopback -----------------------------------------------------------------------


def lan_http(*, on_disk: bool) -> Prepare:
    """One file over 8 connections; on a tmpfs the floor is measured, too."""

    @contextmanager
    def prepare(bench: Bench) -> Iterator[Prepared]:
        _need_nginx()
        blob = bench.stock.blob(bench.size(2 * GIB))
        with site(bench, LOOPBACK) as there:
            url = there.url(blob)
            rows = [
                _file_row(
                    OURS,
                    lambda file: peers.modelhaul_get(
                        url, file=file, sha256=blob.sha256, connections=8
                    ),
                    blob,
                ),
                _file_row(
                    ARIA2_8,
                    lambda file: peers.aria2c(url, file=file, connections=8, sha256=blob.sha256),
                    blob,
                    needs="aria2c",
                ),
                _curl_row(blob, lambda file: peers.curl(url, file)),
            ]
            if on_disk:
                rows.append(
                    _file_row(
                        ARIA2_FALLOC,
                        lambda file: peers.aria2c(
                            url,
                            file=file,
                            connections=8,
                            sha256=blob.sha256,
                            allocation="falloc",
                        ),
                        blob,
                        needs="aria2c",
                    )
                )
            else:
                rows += [
                    _file_row(COPY, lambda file: _floor_copy(there, blob, file), blob),
                    command_row(
                        HASH, lambda out: _floor_hash(blob), None, place=LOOPBACK, kind="floor"
                    ),
                ]
            yield rows, _target(bench, on_disk=on_disk)

    return prepare


SIZES = {f"{OURS}, {mib} MiB": mib << 20 for mib in (64, 512, 8192)}


@contextmanager
def lan_sizes(bench: Bench) -> Iterator[Prepared]:
    """Files of other sizes: the time from the last byte to the verdict must not grow with them."""
    _need_nginx()
    blobs = {name: bench.stock.blob(bench.size(size), sparse=True) for name, size in SIZES.items()}
    with site(bench, LOOPBACK) as there:

        def row(name: str, blob: Blob) -> Row:
            url = there.url(blob)
            return _file_row(
                name,
                lambda file: peers.modelhaul_get(url, file=file, sha256=blob.sha256, connections=8),
                blob,
            )

        yield [row(name, blob) for name, blob in blobs.items()], _target(bench, on_disk=False)


def lan_https(*, on_disk: bool) -> Prepare:
    """The same over TLS."""

    @contextmanager
    def prepare(bench: Bench) -> Iterator[Prepared]:
        _need_nginx()
        blob = bench.stock.blob(bench.size(2 * GIB))
        with site(bench, LOOPBACK) as there:
            url, trust = there.url(blob, "https"), there.certificate
            rows = [
                _file_row(
                    OURS,
                    lambda file: peers.modelhaul_get(
                        url, file=file, sha256=blob.sha256, connections=8, trust=trust
                    ),
                    blob,
                ),
                _file_row(
                    HF_TRANSFER,
                    lambda file: peers.hf_transfer(
                        url, file, blob.sha256, connections=8, trust=trust
                    ),
                    blob,
                    needs="hf_transfer",
                ),
                _curl_row(blob, lambda file: peers.curl(url, file, trust=trust)),
            ]
            yield rows, _target(bench, on_disk=on_disk)

    return prepare


def _file_row(
    name: str,
    make: Callable[[Path], Command | AbstractContextManager[Command]],
    blob: Blob,
    *,
    place: Place = LOOPBACK,
    needs: str | None = None,
) -> Row:
    """A row that fetches one file, to a name that tells nothing."""
    kind = _kind(name)
    return command_row(
        name,
        lambda out: make(out / "weights.bin"),
        {"weights.bin": blob.sha256},
        place=place,
        kind=kind,
        skipped=peers.missing(needs) if needs is not None else None,
    )


def _curl_row(blob: Blob, make: Callable[[Path], Command]) -> Row:
    """One connection, nothing verified: to know where one is, and no peer of the table."""
    skipped = peers.missing("curl")
    expected = {"weights.bin": blob.sha256}
    return command_row(
        CURL,
        lambda out: make(out / "weights.bin"),
        expected,
        place=LOOPBACK,
        kind="note",
        skipped=skipped,
    )


def _kind(name: str) -> str:
    if name.startswith(OURS):
        return "modelhaul"
    return "floor" if name.startswith("floor") else "peer"


def _floor_copy(there: Site, blob: Blob, file: Path) -> Command:
    address = (there.place.host, there.ports["http"], f"/blob/{blob.sha256}")
    return _floor("copy", *address, blob.size, file, 8)


def _floor_hash(blob: Blob) -> Command:
    return _floor("hash", blob.size)


def _floor(*arguments: object) -> Command:
    script = Path(__file__).with_name("floor.py")
    return Command((sys.executable, str(script), *map(str, arguments)))


# -- a repository ---------------------------------------------------------------------------------


def repo(*, on_disk: bool = False) -> Prepare:
    """Three files of 1 GiB over loopback."""

    @contextmanager
    def prepare(bench: Bench) -> Iterator[Prepared]:
        _need_nginx()
        files = _shards(bench)
        with site(bench, LOOPBACK, _catalogue(files)) as there:
            yield _repo_rows(there, files), _target(bench, on_disk=on_disk)

    return prepare


def wan_repo(*, capped: bool) -> Prepare:
    """The same over the long line; capped, each connection gets 9 MiB/s."""
    store = "capped" if capped else "http"

    @contextmanager
    def prepare(bench: Bench) -> Iterator[Prepared]:
        _need_nginx()
        files = _shards(bench)
        with (
            _wide(bench) as place,
            site(bench, place, _catalogue(files), store=store) as there,
        ):
            rows = _repo_rows(there, files)
            if not capped:
                rows.append(_aria2_all(there, files))
            yield rows, _line(there)

    return prepare


def wan_small(count: int, size: int) -> Prepare:
    """Many small files over the long line."""

    @contextmanager
    def prepare(bench: Bench) -> Iterator[Prepared]:
        _need_nginx()
        names = [f"part-{number:04}.json" for number in range(bench.count(count))]
        files = {name: bench.stock.blob(size, number) for number, name in enumerate(names)}
        with _wide(bench) as place, site(bench, place, _catalogue(files)) as there:
            yield _repo_rows(there, files), _line(there)

    return prepare


def _shards(bench: Bench) -> dict[str, Blob]:
    size = bench.size(GIB)
    names = [f"model-{number}-of-3.safetensors" for number in (1, 2, 3)]
    return {name: bench.stock.blob(size, number) for number, name in enumerate(names)}


def _catalogue(files: dict[str, Blob]) -> dict[str, list[tuple[str, int, str, str]]]:
    rows = [(name, blob.size, blob.sha256, str(blob.place)) for name, blob in files.items()]
    return {REPO: rows}


def _repo_rows(there: Site, files: dict[str, Blob]) -> list[Row]:
    expected = {name: blob.sha256 for name, blob in files.items()}

    def row(name: str, make: Callable[[Path], Command], needs: str | None) -> Row:
        skipped = peers.missing(needs) if needs is not None else None
        kind = _kind(name)
        return command_row(name, make, expected, place=there.place, kind=kind, skipped=skipped)

    return [
        row(OURS, lambda out: peers.modelhaul_download(REPO, there.hub, out), None),
        row(MODELSCOPE, lambda out: peers.modelscope(REPO, there.hub, out), "modelscope"),
        row(HF, lambda out: peers.hf(REPO, there.hub, out), "hf"),
    ]


def _aria2_all(there: Site, files: dict[str, Blob]) -> Row:
    """What line and machine give at most: 48 connections, nothing verified, no hub to ask."""
    urls = [there.url(blob) for blob in files.values()]
    return command_row(
        ARIA2_ALL,
        lambda out: peers.aria2c(*urls, file=out / "any", connections=16, at_once=3),
        {blob.sha256: blob.sha256 for blob in files.values()},
        place=there.place,
        kind="note",
        skipped=peers.missing("aria2c"),
    )


# -- one file over the long line ------------------------------------------------------------------


def wan_file(*, capped: bool) -> Prepare:
    """One file of 1 GiB."""
    port = "capped" if capped else "http"

    @contextmanager
    def prepare(bench: Bench) -> Iterator[Prepared]:
        _need_nginx()
        blob = bench.stock.blob(bench.size(GIB))
        with _wide(bench) as place, site(bench, place) as there:
            url = there.url(blob, port)
            rows = [
                _file_row(
                    OURS,
                    lambda file: peers.modelhaul_get(url, file=file, sha256=blob.sha256),
                    blob,
                    place=place,
                ),
                _file_row(
                    ARIA2_16,
                    lambda file: peers.aria2c(url, file=file, connections=16),
                    blob,
                    place=place,
                    needs="aria2c",
                ),
            ]
            yield rows, _line(there)

    return prepare


# -- a connection that falls silent ---------------------------------------------------------------

FROZEN, HEALTHY = f"{OURS}, one of 8 frozen", f"{OURS}, healthy"


def frozen(*, wide: bool) -> Prepare:
    """One of 8 connections goes silent when half of the file has passed."""

    @contextmanager
    def prepare(bench: Bench) -> Iterator[Prepared]:
        _need_nginx()
        blob = bench.stock.blob(bench.size(GIB if wide else 2 * GIB))
        if not wide:
            with site(bench, LOOPBACK) as there:
                yield _frozen_rows(bench, there, blob), {}
            return
        with _wide(bench) as place, site(bench, place) as there:
            yield _frozen_rows(bench, there, blob), _line(there)

    return prepare


def _frozen_rows(bench: Bench, there: Site, blob: Blob) -> list[Row]:
    def through(after: int) -> Callable[[Path], AbstractContextManager[Command]]:
        @contextmanager
        def make(file: Path) -> Iterator[Command]:
            arguments = (there.place.host, 0, there.ports["http"], "freeze", after)
            proxy = helper("proxy", *arguments, prefix=there.place.server, log=bench.log)
            with proxy as started:
                url = f"http://{there.place.host}:{started.line}/blob/{blob.sha256}"
                yield peers.modelhaul_get(url, file=file, sha256=blob.sha256, connections=8)
                if after and "frozen" not in started.end():
                    raise WrongRun("no connection was frozen")

        return make

    return [
        _file_row(HEALTHY, through(0), blob, place=there.place),
        _file_row(FROZEN, through(blob.size // 2), blob, place=there.place),
    ]


# -- two sources ----------------------------------------------------------------------------------

BOTH, FIRST_ALONE, SECOND_ALONE = (
    f"{OURS}, both",
    f"{OURS}, 30 MB/s alone",
    f"{OURS}, 50 MB/s alone",
)


@contextmanager
def two_sources(bench: Bench) -> Iterator[Prepared]:
    """One file from two places, each of which gives all connections together so much."""
    _need_nginx()
    blob = bench.stock.blob(bench.size(2 * GIB))
    with site(bench, LOOPBACK) as there, ExitStack() as stack:
        urls = []
        for rate in (30_000_000, 50_000_000):
            arguments = (there.place.host, 0, there.ports["http"], "rate", rate)
            proxy = stack.enter_context(helper("proxy", *arguments, log=bench.log))
            urls.append(f"http://{there.place.host}:{proxy.line}/blob/{blob.sha256}")

        def row(name: str, *sources: str) -> Row:
            made = command_row(
                name,
                lambda out: peers.modelhaul_get(
                    *sources, file=out / "weights.bin", sha256=blob.sha256
                ),
                {"weights.bin": blob.sha256},
                place=LOOPBACK,
                kind=OURS,
            )

            def run(folder: Path) -> Sample:
                sample = made.run(folder)
                return sample | {"rate": blob.size / sample["wall"] / 1e6}

            return replace(made, run=run)

        yield [row(BOTH, *urls), row(FIRST_ALONE, urls[0]), row(SECOND_ALONE, urls[1])], {}


# -- a disk that blocks ---------------------------------------------------------------------------

BLOCKED = f"{OURS}, each write held for 1 s"


@contextmanager
def blocked_disk(bench: Bench) -> Iterator[Prepared]:
    """One file to a disk that holds each write and each sync for a second."""
    _need_nginx()
    blob = bench.stock.blob(bench.size(32 << 20))
    with site(bench, LOOPBACK) as there:

        def run(folder: Path) -> Sample:
            out, log = folder / "out", folder / "log"
            out.mkdir()
            words = (sys.executable, "-m", "benchmarks.blocked", there.url(blob), blob.sha256)
            command = Command((*words, str(out / "weights.bin"), "1"), {"PYTHONPATH": str(ROOT)})
            sample = run_command(command, LOOPBACK, folder, log)
            wrong = what_is_wrong(out, {"weights.bin": blob.sha256})
            if wrong is not None:
                raise WrongRun(wrong)
            told = json.loads(log.read_text())
            if told["ahead"] > 0:
                raise WrongRun(f"progress was {told['ahead']} bytes ahead of the disk")
            return sample | {"late": told["late"], "blocked": told["blocked"]}

        yield [Row(BLOCKED, run, OURS)], {}


# -- start, plan, memory --------------------------------------------------------------------------

HELP, FIRST = f"{OURS} --help", f"{OURS} download"


@contextmanager
def start_up(bench: Bench) -> Iterator[Prepared]:
    """CPU of `--help`, and how long it takes from the process's start to its first request."""

    def help_(folder: Path) -> Sample:
        command = Command((str(peers.MODELHAUL), "--help"))
        return run_command(command, LOOPBACK, folder, folder / "log")

    yield [Row(HELP, help_, OURS, runs=11), Row(FIRST, _first_request, OURS, runs=11)], {}


def _first_request(folder: Path) -> Sample:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        words = peers.modelhaul_download(REPO, url, folder / "out").words
        null = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
        began = time.monotonic()
        pid = os.posix_spawn(words[0], words, peers.environment(folder), file_actions=null)
        try:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(30)
                asked = connection.recv(4)
                seconds = time.monotonic() - began
        finally:
            os.kill(pid, signal.SIGKILL)
            _, _, used = os.wait4(pid, 0)
    if asked[:3] != b"GET":
        raise WrongRun(f"the first request begins with {asked!r}")
    cpu = used.ru_utime + used.ru_stime
    return {
        "wall": seconds, "cpu": cpu, "peak": used.ru_maxrss / 1024, "first request": seconds
    }  # fmt: skip


PLAN = f"{OURS} download --dry-run"


@contextmanager
def plan(bench: Bench) -> Iterator[Prepared]:
    """A dry run over 100,000 files that a hub lists, folder by folder."""
    count = bench.count(100_000)
    bench.stock.folder.mkdir(exist_ok=True)
    catalogue = bench.stock.folder / "plan.json"
    catalogue.write_text(json.dumps({REPO: count}))
    with helper("hub", catalogue, "127.0.0.1", "http://127.0.0.1:9", log=bench.log) as hub:

        def run(folder: Path) -> Sample:
            command = peers.modelhaul_download(
                REPO, hub.line, folder / "out", "--dry-run", as_json=False
            )
            sample = run_command(command, LOOPBACK, folder, folder / "log")
            with (folder / "log").open() as log:
                listed = sum(line.startswith("fetch") for line in log)
            if listed != count:
                raise WrongRun(f"{listed} of {count} files are planned")
            return sample

        yield [Row(PLAN, run, OURS)], {"files": f"{count:,}"}


SMALL_ROW, LARGE_ROW = f"{OURS}, 1 GiB", f"{OURS}, 8 x 1 GiB"
ONE_ROW = f"{OURS}, one file of 8 GiB over TLS"


@contextmanager
def memory(bench: Bench) -> Iterator[Prepared]:
    """Peak memory at 64 connections; each gets 4 MiB/s, so that all of them are really used."""
    _need_nginx()
    # Zeros behind the first piece: the origin's side costs no memory then.
    blobs = [bench.stock.blob(bench.size(GIB), number, sparse=True) for number in range(8)]
    files = {f"model-{number}-of-8.safetensors": blob for number, blob in enumerate(blobs, 1)}
    first = dict(list(files.items())[:1])
    large = bench.stock.blob(bench.size(8 * GIB), sparse=True)
    catalogue = {**_catalogue(files), "bench/one": _catalogue(first)[REPO]}
    with site(bench, LOOPBACK, catalogue, store="capped", cap=4 << 20) as there:

        def row(name: str, repository: str, expected: dict[str, Blob]) -> Row:
            return command_row(
                name,
                lambda out: peers.modelhaul_download(
                    repository, there.hub, out, "--connections", "64"
                ),
                {path: blob.sha256 for path, blob in expected.items()},
                place=LOOPBACK,
                kind=OURS,
            )

        url = there.url(large, "capped_https")
        rows = [
            row(SMALL_ROW, "bench/one", first),
            row(LARGE_ROW, REPO, files),
            _file_row(
                ONE_ROW,
                lambda file: peers.modelhaul_get(
                    url, file=file, sha256=large.sha256, connections=64, trust=there.certificate
                ),
                large,
            ),
        ]
        yield rows, {"cap": "4 MiB/s per connection"}


# -- the table ------------------------------------------------------------------------------------


def _case(
    name: str,
    title: str,
    prepare: Prepare,
    *targets: Target,
    on_disk: bool = False,
) -> Case:
    scenario, _, part = name.partition("/")
    return Case(scenario, part, title, prepare, targets, on_disk)


CASES: tuple[Case, ...] = (
    _case(
        "lan-http/tmpfs",
        "one 2 GiB file, loopback, 8 connections",
        lan_http(on_disk=False),
        Ratio((ARIA2_8,), "wall", 0.5),
        Ratio((ARIA2_8,), "cpu", 0.72, 0.65),
        Ratio((COPY, HASH), "cpu", 1.3),
        AtMost(OURS, "proof", 0.15),
    ),
    _case(
        "lan-http/disk",
        "one 2 GiB file, loopback, 8 connections, to a disk",
        lan_http(on_disk=True),
        NoSlower(),
        AtMost(OURS, "proof", 0.15),
        on_disk=True,
    ),
    _case(
        "lan-http/sizes",
        "one file of 64 MiB to 8 GiB, loopback, 8 connections",
        lan_sizes,
        *(AtMost(name, "proof", 0.15) for name in SIZES),
    ),
    _case(
        "lan-https/tmpfs",
        "one 2 GiB file over TLS, loopback, 8 connections",
        lan_https(on_disk=False),
        Ratio((HF_TRANSFER,), "wall", 0.7),
        Ratio((HF_TRANSFER,), "cpu", 0.9, 0.8),
    ),
    _case(
        "lan-https/disk",
        "one 2 GiB file over TLS, loopback, 8 connections, to a disk",
        lan_https(on_disk=True),
        NoSlower(),
        on_disk=True,
    ),
    _case(
        "repo/tmpfs",
        "3 x 1 GiB, loopback",
        repo(),
        Ratio((MODELSCOPE,), "wall", 0.7),
        Ratio((MODELSCOPE,), "cpu", 0.75),
        Ratio((HF,), "wall", 0.6),
    ),
    _case(
        "repo/disk",
        "3 x 1 GiB, loopback, to a disk",
        repo(on_disk=True),
        NoSlower(),
        on_disk=True,
    ),
    _case(
        "wan/repo",
        "3 x 1 GiB, 50 ms",
        wan_repo(capped=False),
        Ratio((MODELSCOPE,), "wall", 0.27),
        Ratio((HF,), "wall", 0.27),
    ),
    _case(
        "wan/file", "one 1 GiB file, 50 ms", wan_file(capped=False), Ratio((ARIA2_16,), "wall", 1.0)
    ),
    _case(
        "wan-capped/repo",
        "3 x 1 GiB, 50 ms, 9 MiB/s per connection",
        wan_repo(capped=True),
        Ratio((MODELSCOPE,), "wall", 0.08),
    ),
    _case(
        "wan-capped/file",
        "one 1 GiB file, 50 ms, 9 MiB/s per connection",
        wan_file(capped=True),
        Ratio((ARIA2_16,), "wall", 0.5),
    ),
    _case(
        "wan-small",
        "400 files of 20 kB, 50 ms",
        wan_small(400, 20_000),
        Ratio((MODELSCOPE,), "wall", 0.2),
        Ratio((HF,), "wall", 0.2),
    ),
    _case(
        "frozen/lan",
        "one 2 GiB file, loopback, one of 8 connections goes silent at half",
        frozen(wide=False),
        LikeHealthy(FROZEN, HEALTHY),
    ),
    _case(
        "frozen/wan",
        "one 1 GiB file, 50 ms, one of 8 connections goes silent at half",
        frozen(wide=True),
        LikeHealthy(FROZEN, HEALTHY),
    ),
    _case(
        "two-sources",
        "one 2 GiB file from two places of 30 and 50 MB/s",
        two_sources,
        AtLeast(BOTH, "rate", 75),
    ),
    _case(
        "blocked-disk",
        "one 32 MiB file, loopback, to a disk that blocks",
        blocked_disk,
        AtMost(BLOCKED, "late", 0.05),
        AtLeast(BLOCKED, "blocked", 8),
    ),
    _case(
        "start-up",
        "start-up",
        start_up,
        AtMost(HELP, "cpu", 0.15),
        AtMost(FIRST, "first request", 0.4),
    ),
    _case(
        "plan",
        "plan of 100,000 files",
        plan,
        AtMost(PLAN, "cpu", 3.0),
        AtMost(PLAN, "peak", 250),
    ),
    _case(
        "memory",
        "64 connections, 1 and 8 GiB",
        memory,
        AtMost(LARGE_ROW, "peak", 150),
        AtMost(ONE_ROW, "peak", 150),
        Ratio((SMALL_ROW,), "peak", 1.1, row=LARGE_ROW),
        AtLeast(LARGE_ROW, "connections", 64),
        AtLeast(ONE_ROW, "connections", 64),
    ),
)


def choose(names: list[str]) -> list[Case]:
    """Cases by name, scenario or `scenario/part`; all of them for none.

    Raises:
        KeyError: there is none of a name.
    """
    if not names:
        return list(CASES)
    for name in names:
        if not any(name in (case.scenario, case.name) for case in CASES):
            raise KeyError(name)
    return [case for case in CASES if case.scenario in names or case.name in names]

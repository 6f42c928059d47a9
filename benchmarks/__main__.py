"""The benchmark suite: `python -m benchmarks [NAME...]`; `--list` names the scenarios.

Raw figures are merged into results.json, case by case, so that scenarios can be run one at a
time; RESULTS.md and results.svg are made from it. What breaks the rules (smaller sizes, fewer
runs) goes to `.bench/trial/` instead of this folder and never becomes a result by accident.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.bench import Bench, run_case
from benchmarks.picture import results_picture
from benchmarks.processes import ROOT
from benchmarks.report import results_page
from benchmarks.scenarios import CASES, choose
from benchmarks.stock import file_system
from benchmarks.verdicts import Record, has_failed, is_trial

_RUNS = 5


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="scenario or scenario/part")
    parser.add_argument("--list", action="store_true", help="name the scenarios")
    parser.add_argument("--runs", type=int, default=_RUNS, help="of each row (default: 5)")
    parser.add_argument("--size-scale", type=float, default=1.0, help="to try things out small")
    parser.add_argument("--memory", type=Path, default=Path("/dev/shm"), help="a tmpfs")
    parser.add_argument("--disk", type=Path, default=ROOT / ".bench", help="a real disk")
    parser.add_argument("--out", type=Path, help="where results go")
    parser.add_argument("--report", action="store_true", help="only make the page from the figures")
    options = parser.parse_args()
    if options.list:
        for case in CASES:
            print(f"{case.name:16} {case.title}")
        return 0
    trial = options.size_scale != 1 or options.runs < _RUNS
    out = options.out or (ROOT / ".bench" / "trial" if trial else ROOT / "benchmarks")
    if options.report:
        write(out, {})
        return 0
    try:
        cases = choose(options.names)
    except KeyError as error:
        parser.error(f"no such scenario: {error.args[0]} (see --list)")
    return run(cases, options, out)


def run(cases: list[Any], options: argparse.Namespace, out: Path) -> int:
    """Measure, and write after each case: a run of an hour may be interrupted."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    _compile()
    failed = False
    options.disk.mkdir(parents=True, exist_ok=True)
    memory = Path(tempfile.mkdtemp(prefix="modelhaul-bench-", dir=options.memory))
    disk = Path(tempfile.mkdtemp(prefix="run-", dir=options.disk))
    memory.chmod(0o755)
    if file_system(memory) != "tmpfs":
        print(f"note: {options.memory} is no tmpfs", file=sys.stderr)
    bench = Bench(memory, disk, options.runs, options.size_scale)
    try:
        for number, case in enumerate(cases):
            record = run_case(case, bench, lambda text: print(text, flush=True))
            record |= circumstances(options)
            write(out, {case.name: record})
            failed = failed or has_failed(record)
            for target in case.targets:
                verdict = target.judge(record)
                word = "trial" if is_trial(record) else verdict.word
                print(f"  {word}: {verdict.what}: {verdict.value} ({verdict.limit})")
            following = cases[number + 1].scenario if number + 1 < len(cases) else None
            if following in ("memory", None):
                bench.stock.clear()  # the last needs the room
    finally:
        shutil.rmtree(memory, ignore_errors=True)
        shutil.rmtree(disk, ignore_errors=True)
    print(f"results: {os.path.relpath(out / 'RESULTS.md')}")
    return 1 if failed else 0


def circumstances(options: argparse.Namespace) -> dict[str, Any]:
    """What belongs to a figure besides the figure."""
    words = [*options.names, *(f"--runs {options.runs}" for _ in [0] if options.runs != _RUNS)]
    if options.size_scale != 1:
        words.append(f"--size-scale {options.size_scale:g}")
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": " ".join(["python -m benchmarks", *words]),
        "scale": options.size_scale,
        "machine": machine(),
        "versions": peers.versions(),
    }


def machine() -> dict[str, str]:
    """What it runs on, without what would name it."""
    processor = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {
        "cores": str(os.cpu_count()),
        "processor": processor,
        "memory": f"{memory:.0f} GiB",
        "kernel": platform.release().partition("-")[0],
    }


def write(out: Path, new: dict[str, Record]) -> None:
    """Merge records into results.json and make page and picture from all of them."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "results.json"
    records = json.loads(path.read_text()) if path.exists() else {}
    records.update(new)
    path.write_text(json.dumps(records, indent=1) + "\n")
    (out / "RESULTS.md").write_text(results_page(records, CASES))
    (out / "results.svg").write_text(results_picture(records, CASES))


def _compile() -> None:
    """Byte code for all, or whoever runs first pays for it (and some shells forbid to keep it)."""
    for python in (sys.executable, str(peers.PEERS / "python")):
        if not Path(python).exists():
            continue
        where = "import sysconfig; print(sysconfig.get_path('purelib'))"
        done = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True)
        # The source folder is only compiled for the first, but that does not hurt the other.
        folders = [done.stdout.strip(), str(ROOT / "src")]
        subprocess.run([python, "-m", "compileall", "-q", "-j", "0", *folders], capture_output=True)


def _stop(number: int, frame: object) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())

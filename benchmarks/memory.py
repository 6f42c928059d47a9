"""Peak memory of a download: `make memory`.

Or `python -m benchmarks.memory [--gib 4] [--connections 32]`. The server limits each connection, so
that all of them are really used; the peak is what the kernel counted for the process (ru_maxrss of
`wait4`), and the connections are those that the server's log shows at one moment (one that was
given up counts until the server notices).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = [sys.executable, "-m", "modelhaul"]
MIB = 1 << 20
LIMIT = 150  # MiB


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=int, default=4)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rate", default="8MB", help="per connection")
    parser.add_argument("--folder", type=Path, help="where to work (default: the temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as work:
        return measure(Path(work), options.gib, options.connections, options.rate)


def measure(work: Path, gib: int, connections: int, rate: str) -> int:
    repo = work / "hub" / "bench" / "large"
    repo.mkdir(parents=True)
    for number in range(gib):
        with (repo / f"shard-{number}.safetensors").open("wb") as file:
            for _ in range(64):
                file.write(os.urandom(16 * MIB))
    environment = {**os.environ, "MODELHAUL_STATE": str(work / "state")}
    log = work / "log.jsonl"
    serve = [*COMMAND, "serve", str(work / "hub"), "--port", "0", "--limit-rate", rate]
    server = subprocess.Popen(
        [*serve, "--cdn", "--request-log", str(log)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        download = [*COMMAND, "download", "bench/large", "--endpoint", url, "--quiet"]
        download += ["--local-dir", str(work / "out"), "--connections", str(connections)]
        began = time.monotonic()
        pid = os.posix_spawn(sys.executable, download, environment)
        _, status, usage = os.wait4(pid, 0)
        seconds = time.monotonic() - began
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(10)
    peak = usage.ru_maxrss / 1024
    print()
    print(f"  size           {gib} GiB in {gib} files")
    print(f"  connections    {most_at_once(log)} at once (allowed: {connections})")
    print(f"  wall           {seconds:.1f} s")
    print(f"  CPU            {usage.ru_utime + usage.ru_stime:.1f} s")
    print(f"  peak memory    {peak:.0f} MiB (at most {LIMIT})")
    return 0 if os.waitstatus_to_exitcode(status) == 0 and peak <= LIMIT else 1


def most_at_once(log: Path) -> int:
    """Most answers under way at one moment, by the server's log."""
    steps = []
    for line in log.read_text().splitlines():
        entry = json.loads(line)
        steps += [(entry["time"] - entry["seconds"], 1), (entry["time"], -1)]
    open_, most = 0, 0
    for _, step in sorted(steps):
        open_ += step
        most = max(most, open_)
    return most


if __name__ == "__main__":
    sys.exit(main())

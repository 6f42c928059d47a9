"""`make demo`: a real model over loopback, killed half-way, resumed, proven.

Makes a safetensors model of several shards, serves it with the embedded hub (which redirects large
files to signed URLs and slows every connection down, so that there is something to see), downloads
it with the real command, kills that with SIGKILL about half-way, runs it again, opens the result
with the safetensors library, and prints what the server counted.

What may be sent twice, and why: `tests/support/sent_twice.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from modelhaul.server.body import read_log
from tests.support.sent_twice import (
    MIB,
    Entry,
    Kill,
    allowance,
    before_kill,
    cut_short,
    sent,
)

HERE = Path(__file__).resolve().parent.parent
REPO = "demo/llama-like"
SHARDS = 4
# Slow enough that a second of traffic is a quarter of the model: else the bound says nothing.
RATE_PER_CONNECTION = 4_000_000  # bytes/s
COMMAND = [sys.executable, "-m", "modelhaul"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=1024, help="size of the model (default: 1024)")
    parser.add_argument("--keep", action="store_true", help="leave .demo/ behind")
    options = parser.parse_args()
    work = HERE / ".demo"
    shutil.rmtree(work, ignore_errors=True)
    model = work / "hub" / REPO
    say(f"making a model of about {options.mib} MiB in {SHARDS} shards")
    tensors = make_model(model, options.mib)
    size = sum(path.stat().st_size for path in model.iterdir())
    log = work / "requests.jsonl"
    try:
        with serving(work / "hub", log, work) as (endpoint, server):
            return show(endpoint, server, work / "out", log, work, size, tensors)
    finally:
        if not options.keep:
            shutil.rmtree(work, ignore_errors=True)


def make_model(folder: Path, mib: int) -> dict[str, str]:
    """Write shards, index, config and tokenizer files; returns which shard has which tensor."""
    folder.mkdir(parents=True)
    chance = np.random.default_rng(20261122)
    rows = max(1, mib * MIB // SHARDS // 4 // (2 * 1024))
    where: dict[str, str] = {}
    total = 0
    for number in range(1, SHARDS + 1):
        name = f"model-{number:05}-of-{SHARDS:05}.safetensors"
        shard = {}
        for layer in range(4):
            tensor = f"model.layers.{4 * number + layer - 4}.mlp.weight"
            shard[tensor] = chance.integers(0, 1 << 16, (rows, 1024), dtype=np.uint16).view(
                np.float16
            )
            where[tensor] = name
            total += shard[tensor].nbytes
        save_file(shard, folder / name, metadata={"format": "np"})
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    config = {"model_type": "llama", "hidden_size": 1024, "num_hidden_layers": 4 * SHARDS}
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary = {f"token{number}": number for number in range(40_000)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 4096}))
    (folder / "README.md").write_text("# A model of random numbers\n")
    return where


@contextmanager
def serving(hub: Path, log: Path, work: Path) -> Iterator[tuple[str, int]]:
    """The embedded hub, as a process of its own; gives its address and its process id."""
    command = [*COMMAND, "serve", str(hub), "--port", "0", "--cdn"]
    command += ["--limit-rate", str(RATE_PER_CONNECTION), "--request-log", str(log)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(work))
    try:
        assert server.stdout is not None
        yield server.stdout.readline().strip(), server.pid
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(10)


def environment(work: Path) -> dict[str, str]:
    """Like a fresh machine: no login, no memory, no proxy in between."""
    clean = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    for name in ("MODELSCOPE_API_TOKEN", "MODELSCOPE_DOMAIN", "MODELSCOPE_ENDPOINT"):
        clean.pop(name, None)
    clean["MODELHAUL_STATE"] = str(work / "state")
    clean["MODELSCOPE_HOME"] = str(work / "home")
    return clean


def show(
    endpoint: str,
    server: int,
    out: Path,
    log: Path,
    work: Path,
    size: int,
    tensors: dict[str, str],
) -> int:
    download = [*COMMAND, "download", REPO, "--endpoint", endpoint, "--local-dir", str(out)]
    say(f"$ modelhaul download {REPO} --local-dir out")
    kill = kill_half_way(download, out, work, size, server)
    time.sleep(1.0)  # the server notices dead connections when it writes the next time
    before = read_log(log)
    say(f"killed with SIGKILL; {cut_short(before)} connections were open")
    subprocess.run([*COMMAND, "parts", str(out)], env=environment(work), check=True)

    say("the same command again")
    done = resume(download, work)
    after = read_log(log)[len(before) :]
    check_bytes(out, work / "hub" / REPO)
    check_tensors(out, tensors)

    again = sent(before) + sent(after) - size
    bound = allowance(before, kill)
    allowed = sum(bound.values())
    proof = max(event["proof_seconds"] or 0.0 for event in done)
    print()
    print(f"  bytes of the model                {size:>14,}")
    print(f"  bytes sent before the kill        {sent(before):>14,}")
    print(f"  bytes sent after it               {sent(after):>14,}")
    print(f"  bytes sent twice                  {again:>14,}")
    print(f"  allowed                           {allowed:>14,}")
    for what, amount in bound.items():
        print(f"    {what:<32}{amount:>14,}")
    print(f"  most answers at once (server)     {most_at_once(before + after):>14}")
    print(f"  from last byte to verified        {proof:>13.3f}s  (the slowest file)")
    print()
    for event in sorted(done, key=lambda event: str(event["path"])):
        print(f"  {event['sha256']}  {event['path']}")
    print()
    if again > allowed:
        say("more bytes were sent twice than allowed")
        return 1
    say("every byte proven, and the safetensors library opens the result")
    return 0


def kill_half_way(command: list[str], out: Path, work: Path, size: int, server: int) -> Kill:
    """Run the download and kill it when half of it is on disk."""
    process = subprocess.Popen(command, env=environment(work), stdout=subprocess.DEVNULL)
    while process.poll() is None:
        if on_disk(out) >= size // 2:
            break
        time.sleep(0.02)
    else:
        raise SystemExit("the download ended before it could be killed")
    kill = before_kill(process.pid, server)
    process.kill()
    process.wait()
    # Who is killed cannot show the cursor again, nor end the line.
    print("\x1b[?25h" if sys.stderr.isatty() else "", file=sys.stderr)
    return kill


def on_disk(folder: Path) -> int:
    """Bytes that are really there, sparse parts counted by their blocks."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512 if path.is_file() else 0
        except FileNotFoundError:
            continue  # renamed between the two calls
    return total


def resume(command: list[str], work: Path) -> list[dict[str, object]]:
    """Run the download to its end, by its JSON events; returns those of finished files."""
    process = subprocess.Popen(
        [*command, "--json"], env=environment(work), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    done = []
    here = 0
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "planned":
            say(f"{event['reuse']:,} bytes are here, {event['fetch']:,} to fetch")
            here = event["reuse"]
        elif event["event"] == "progress":
            amounts = event["statistics"]
            # A part counts from when its file is opened; until all are, less seems to be here.
            if amounts["fetched"] and amounts["done"] >= here:
                rate = f", {amounts['rate'] / 1e6:.0f} MB/s" if amounts["rate"] else ""
                say(f"{amounts['done']:,} of {amounts['total']:,}{rate}")
        elif event["event"] == "file_done":
            done.append(event)
    if process.wait() != 0:
        raise SystemExit(f"the download failed with exit code {process.returncode}")
    return done


def check_bytes(out: Path, original: Path) -> None:
    names = sorted(path.name for path in original.iterdir())
    if sorted(path.name for path in out.iterdir()) != names:
        raise SystemExit("the target does not hold exactly the repository's files")
    for name in names:
        if (out / name).read_bytes() != (original / name).read_bytes():
            raise SystemExit(f"{name} differs")


def check_tensors(out: Path, tensors: dict[str, str]) -> None:
    for name, shard in tensors.items():
        with safe_open(out / shard, framework="np") as file:
            file.get_tensor(name)
    say(f"{len(tensors)} tensors opened")


def most_at_once(found: list[Entry]) -> int:
    """Most answers under way at one moment, by the server's log."""
    steps = [(entry["time"] - entry["seconds"], 1) for entry in found]
    steps += [(entry["time"], -1) for entry in found]
    open_, most = 0, 0
    for _, step in sorted(steps):
        open_ += step
        most = max(most, open_)
    return most


def say(text: str) -> None:
    print(f"demo: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

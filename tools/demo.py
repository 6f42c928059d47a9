"""`make demo`: a real model over loopback, killed half-way, resumed, proven.

Makes a safetensors model of several shards, serves it with the embedded hub (which redirects large
files to signed URLs and slows every connection down, so that there is something to see), downloads
it with the real command, kills that with SIGKILL about half-way, runs it again, opens the result
with the safetensors library, and prints what the server counted.

What may be sent twice: 1 MiB per open connection (less than that is in no journal), what came in
the last second (a barrier is due every second), and what the server had sent but the download had
never got to see, since it lay in kernels. The server counts what it hands over, so both ends of a
connection have such bytes, and its process the piece that it was handing over.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

HERE = Path(__file__).resolve().parent.parent
REPO = "demo/llama-like"
SHARDS = 4
# Slow enough that a second of traffic is a quarter of the model: else the bound says nothing.
RATE_PER_CONNECTION = 4_000_000  # bytes/s
MIB = 1 << 20
#: What the server has counted as sent and not yet given to its kernel, per connection: the piece
#: under way and aiohttp's buffer (`modelhaul.server.body`).
HELD_BY_SERVER = (256 + 64) << 10
LISTENING = "0A"  # state in /proc/net/tcp
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
    before = entries(log)
    cut = [entry for entry in before if entry["sent"] < entry["stop"] - entry["start"]]
    say(f"killed with SIGKILL; {len(cut)} connections were open")
    subprocess.run([*COMMAND, "parts", str(out)], env=environment(work), check=True)

    say("the same command again")
    done = resume(download, work)
    after = entries(log)[len(before) :]
    check_bytes(out, work / "hub" / REPO)
    check_tensors(out, tensors)

    sent = sum(entry["sent"] for entry in before) + sum(entry["sent"] for entry in after)
    again = sent - size
    bound = {
        f"1 MiB x {len(cut)} connections": len(cut) * MIB,
        "what was sent in the last second": sent_within(before, kill.time - 1.0, kill.time),
        "receive queues of the download": kill.received,
        "send queues of the server": kill.unsent,
        "inside the server's process": len(cut) * HELD_BY_SERVER,
    }
    allowed = sum(bound.values())
    proof = max(event["proof_seconds"] or 0.0 for event in done)
    print()
    print(f"  bytes of the model                {size:>14,}")
    print(f"  bytes sent before the kill        {sum(e['sent'] for e in before):>14,}")
    print(f"  bytes sent after it               {sum(e['sent'] for e in after):>14,}")
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


@dataclass(frozen=True)
class Kill:
    """When the download was killed, and the bytes that lay in kernels just before."""

    time: float
    received: int
    unsent: int


def kill_half_way(command: list[str], out: Path, work: Path, size: int, server: int) -> Kill:
    """Run the download and kill it when half of it is on disk."""
    process = subprocess.Popen(command, env=environment(work), stdout=subprocess.DEVNULL)
    while process.poll() is None:
        if on_disk(out) >= size // 2:
            break
        time.sleep(0.02)
    else:
        raise SystemExit("the download ended before it could be killed")
    received, _ = queues(process.pid)
    _, unsent = queues(server)
    kill = Kill(time.time(), received, unsent)
    process.kill()
    process.wait()
    # Who is killed cannot show the cursor again, nor end the line.
    print("\x1b[?25h" if sys.stderr.isatty() else "", file=sys.stderr)
    return kill


def queues(process: int) -> tuple[int, int]:
    """Bytes in the receive and in the send queues of a process's TCP connections.

    From /proc, since not every machine has `ss`; on systems without it nothing is allowed for them,
    which makes the check stricter.
    """
    inodes = set()
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                inodes.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
    received = unsent = 0
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[9] in inodes and fields[3] != LISTENING:
                    sending, _, receiving = fields[4].partition(":")
                    received += int(receiving, 16)
                    unsent += int(sending, 16)
    return received, unsent


def sent_within(found: list[dict[str, float]], start: float, stop: float) -> int:
    """Bytes that the server sent between two moments, each answer taken as even."""
    total = 0.0
    for entry in found:
        began = entry["time"] - entry["seconds"]
        # An answer that was cut sent nothing after the kill: its end is when that was noticed.
        ended = min(entry["time"], stop)
        if ended > began:
            inside = max(0.0, ended - max(began, start))
            total += entry["sent"] * inside / (ended - began)
    return int(total)


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


def entries(log: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def most_at_once(found: list[dict[str, float]]) -> int:
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

"""A user's machine with a hub to talk to, and the installed command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.hub import TestHub, hub_in_thread, put
from tests.support.payload import payload as content

#: The command as it was installed, and the official one beside it.
BIN = Path(sys.executable).parent


@dataclass
class World:
    """A user's machine: nothing on it but a hub to talk to.

    Attributes:
        hub: the hub that is configured as endpoint.
        home, work: the user's home and current folder.
        extra: more environment variables.
    """

    hub: TestHub
    home: Path
    work: Path
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """All variables that a command sees."""
        # Set where another tree than the installed one is tested, as in a git worktree.
        tested = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
        return {
            **tested,
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "MODELSCOPE_ENDPOINT": self.hub.url,
            "NO_COLOR": "1",
            "PYTHONWARNINGS": "error",
            **self.extra,
        }

    @property
    def cache(self) -> Path:
        """ModelScope's cache, where nobody moved it."""
        return self.home / ".cache" / "modelscope"

    def command(self, *arguments: str | Path) -> list[str]:
        """The command line of a `modelhaul` call."""
        return [str(BIN / "modelhaul"), *map(str, arguments)]

    def run(self, *arguments: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run `modelhaul` to its end."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            cwd=self.work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start `modelhaul`; the caller waits for it or ends it."""
        return subprocess.Popen(
            self.command(*arguments),
            env=self.environment,
            cwd=self.work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def put(self, repo: str, files: dict[str, bytes]) -> Path:
        """Put a repository on the hub."""
        return put(self.hub.root, repo, files)


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones included."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def last_line(text: str) -> str:
    """The last line of an output."""
    return text.splitlines()[-1] if text.splitlines() else ""


MODEL = {
    "config.json": b'{"model_type": "tiny"}\n',
    "README.md": b"# tiny\n",
    "empty.txt": b"",
    "model-00001-of-00002.safetensors": content(9_000_001, 1),
    "model-00002-of-00002.safetensors": content(8 << 20, 2),
    "sub dir/\u6a21\u578b+a&b.txt": content(1234, 3),
    "tokenizer.json": content(700_000, 4),
}


@contextmanager
def machine(folder: Path, **options: Any) -> Iterator[World]:
    """A fresh machine below `folder`, and a hub that holds nothing yet; see `hub_in_thread`."""
    root, home, work = folder / "hub", folder / "home", folder / "work"
    for made in (root, home, work):
        made.mkdir()
    with hub_in_thread(root, folder / "requests.jsonl", **options) as hub:
        yield World(hub, home, work)

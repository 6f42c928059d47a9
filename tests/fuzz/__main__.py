"""Coverage-guided fuzzing of one target: `python -m tests.fuzz TARGET [FOLDER] [-runs=N ...]`.

Needs atheris, which `make fuzz` installs into an environment of its own. Options are libFuzzer's;
an input that fails is written to a file `crash-...`, and given as only argument it runs alone.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

# Before anything else imports it: only what is imported in here tells the fuzzer where it was.
with atheris.instrument_imports(
    include=["modelhaul", "tests.fuzz", "h11", "email", "fnmatch", "pickletools"]
):
    from tests.fuzz.seeds import seeds
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Fuzz the target that the command line names."""
    name, options = "".join(sys.argv[1:2]), sys.argv[2:]
    if name == "--list":
        sys.stdout.write(f"{' '.join(TARGETS)}\n")
        return
    if name not in TARGETS:
        sys.exit(f"usage: python -m tests.fuzz TARGET [FOLDER] [-runs=N ...]\n{' '.join(TARGETS)}")
    with tempfile.TemporaryDirectory(prefix="fuzz-corpus-") as folder:
        for number, data in enumerate(seeds()[name]):
            Path(folder, f"seed-{number}").write_bytes(data)
        corpus = [] if any(not option.startswith("-") for option in options) else [folder]
        atheris.Setup([sys.argv[0], *options, *corpus], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()

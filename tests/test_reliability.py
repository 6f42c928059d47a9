"""docs/reliability.md: its table is what the marks of the tests say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_table_of_faults_is_what_the_tests_say() -> None:
    """A test that was added, renamed or dropped shows in the document, or this says so."""
    checked = subprocess.run(
        [sys.executable, ROOT / "tools" / "reliability.py", "--check"],
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr

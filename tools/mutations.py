"""Does a test notice when a check is gone? Removes checks one by one and runs the test of each.

Every mutation is a replacement of text in a copy of `src`, with the fault test that must fail then.
A text that is not found, or a test that fails or is missing without the mutation, is an error of
this list. Exit code 1 if a mutation survives.

    python tools/mutations.py              all
    python tools/mutations.py range name   those whose name holds one of the words
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: Seconds for one test; without a check it may hang, and that is a failure too.
LIMIT = 60

STORE = "tests/faults/test_store_faults.py::"
URL = "tests/faults/test_url_faults.py::"
LISTING = "tests/faults/test_listing_faults.py::"
LINKS = "tests/engine/test_links.py::"
REFUSED = "test_a_clear_error_and_nothing_under_the_final_name"


@dataclass(frozen=True, slots=True)
class Mutation:
    """One check that is removed.

    Attributes:
        name: which.
        file: below `src/modelhaul`.
        old, new: the text, which stands there once, and what stands there instead.
        test: what must fail then.
    """

    name: str
    file: str
    old: str
    new: str
    test: str


MUTATIONS = [
    Mutation(
        "a range begins where it was asked for",
        "net/rules.py",
        "    if start != wanted.start:\n",
        "    if False:\n",
        f"{URL}test_a_url_without_a_digest_gives_its_bytes[a range begins too high]",
    ),
    Mutation(
        "the total is the size of the listing",
        "net/rules.py",
        "if request.size is not None and total is not None and total != request.size:",
        "if False:",
        f"{STORE}{REFUSED}[the total is always another]",
    ),
    Mutation(
        "the validator is that of the first answer",
        "net/rules.py",
        "if request.validator is not None and not holds(request.validator, headers):",
        "if False:",
        f"{URL}test_a_file_that_changes_during_the_run_is_not_spliced",
    ),
    Mutation(
        "a body is not compressed",
        "net/rules.py",
        'if coding not in ("", "identity"):',
        "if False:",
        f"{STORE}{REFUSED}[compressed for ever]",
    ),
    Mutation(
        "a whole body has the size of the listing",
        "net/rules.py",
        "if size is not None and length is not None and length != size:",
        "if False:",
        f"{STORE}test_a_small_file_ends_in_a_clear_error[a login page for ever]",
    ),
    Mutation(
        "credentials are for the source's own origin",
        "engine/locations.py",
        "dict(self.source.credentials) if origin == self.source.origin else {}",
        "dict(self.source.credentials)",
        f"{URL}test_credentials_stay_at_their_origin[a header of the user]",
    ),
    Mutation(
        "a token is for the hub's own origin",
        "net/api.py",
        "credentials if origin_of(at) == origin else {}",
        "credentials",
        f"{LISTING}test_a_token_does_not_follow_a_listing_elsewhere",
    ),
    Mutation(
        "no step from https to http",
        "core/origin.py",
        'if before.scheme == "https" and after.scheme == "http":',
        "if False:",
        "tests/core/test_origin.py::test_a_step_down_to_plain_http_is_refused",
    ),
    Mutation(
        "at most ten redirects",
        "engine/asking.py",
        "for _ in range(MAX_HOPS + 1):",
        "for _ in range(MAX_HOPS + 2):",
        f"{STORE}{REFUSED}[redirected eleven times in a row]",
    ),
    Mutation(
        "a pause of years is left to the user",
        "core/judge.py",
        "if wait > LONGEST_PAUSE:",
        "if False:",
        f"{STORE}{REFUSED}[a pause of ten years]",
    ),
    Mutation(
        "a large file has its digest",
        "engine/large.py",
        "if self._hasher.digests().admits(self.order.file):",
        "if True:",
        f"{STORE}{REFUSED}[another version for ever]",
    ),
    Mutation(
        "a small file has its digest",
        "engine/whole.py",
        "if not digests.admits(file):",
        "if False:",
        f"{STORE}test_a_small_file_ends_in_a_clear_error[one byte is flipped for ever]",
    ),
    Mutation(
        "the end of a connection is no end of a file",
        "engine/whole.py",
        "if not answer.framed and self._file.order.file.content is None:",
        "if False:",
        f"{URL}test_a_url_that_cannot_be_trusted_is_refused[no length, the end is the end]",
    ),
    Mutation(
        "an older run's bytes are of the same validator",
        "core/repo.py",
        'f"validator:{self.validator}"',
        '"validator"',
        f"{URL}test_bytes_of_two_versions_are_never_mixed[replaced by a file of the same length]",
    ),
    Mutation(
        "pages are as many entries as the server says",
        "hubs/modelscope.py",
        "if stated is not None and len(paths) < stated:",
        "if False:",
        f"{LISTING}test_pages_of_a_listing[again and again, and a total that is never reached]",
    ),
    Mutation(
        "a path is listed once",
        "hubs/modelscope.py",
        "if known is not entry and (known.size, known.sha256) != (entry.size, entry.sha256):",
        "if False:",
        f"{LISTING}test_a_listing_that_cannot_be_believed[a path twice, differently]",
    ),
    Mutation(
        "a run that nobody vouched for has its CRC",
        "store/claim.py",
        "same = crc_of(part, run.span, buffer) == run.crc",
        "same = True",
        "tests/store/test_claim.py::test_runs_that_nobody_vouched_for_are_checked",
    ),
    Mutation(
        "a failed sync is not repeated",
        "store/sink.py",
        "        if self.failed:\n",
        "        if False:\n",
        "tests/store/test_sink.py::test_a_failed_barrier_is_never_repeated",
    ),
    Mutation(
        "nothing is published over what appeared meanwhile",
        "store/sink.py",
        "            check_unchanged(final, replaces)\n",
        "",
        "tests/engine/test_large_files.py"
        "::test_something_that_appeared_at_the_final_name_is_not_overwritten",
    ),
    Mutation(
        "a git name judges",
        "core/digests.py",
        "return None if found is None or stated is None else found == stated",
        "return True if file.named_by_git else found == stated",
        "tests/faults/test_repair.py::test_a_git_name_tells_whose_bytes_are_wrong",
    ),
    Mutation(
        "an answer of another version is no fault where a git name judges",
        "engine/failures.py",
        "asking.task.order.file.content is not None",
        "asking.task.order.file.sha256 is not None",
        "tests/faults/test_repair.py::test_one_version_is_insisted_on_whichever_digest_judges[blob]",
    ),
    Mutation(
        "books are not written through links",
        "store/layout_huggingface.py",
        "        osfile.check_parents(root, relative)\n",
        "",
        "tests/store/test_huggingface_layout.py"
        "::test_a_linked_folder_of_the_cache_gets_no_books[refs]",
    ),
    Mutation(
        "a name leads to its blob",
        "usecases/verify.py",
        '    if finding == "right" and unnamed is not None:\n',
        "    if False:\n",
        "tests/test_verify_huggingface.py"
        "::test_a_name_that_does_not_lead_to_its_blob_is_found_and_put_right",
    ),
    Mutation(
        "what was disproven is remembered",
        "store/presence.py",
        "    if settled and stamp == began:\n",
        "    if right and settled and stamp == began:\n",
        "tests/store/test_presence.py::test_other_bytes_are_not_what_git_calls_by_that_name",
    ),
    Mutation(
        "what others may write into is not linked",
        "store/twins.py",
        "        if began.st_mode & _OTHERS_WRITE:\n",
        "        if False:\n",
        f"{LINKS}test_where_a_copy_could_be_written_by_others_as_well_it_is_still_a_copy",
    ),
    Mutation(
        "what is linked has the rights of a copy",
        "store/twins.py",
        "        return _nature(began) == _nature(copy)\n",
        "        return True\n",
        f"{LINKS}test_a_blob_with_other_rights_than_a_copy_is_copied",
    ),
    Mutation(
        "what is linked was synced before",
        "store/twins.py",
        "            osfile.sync_data(self._fd)\n",
        "            pass\n",
        f"{LINKS}test_no_crash_leaves_half_a_file_under_the_second_name",
    ),
    Mutation(
        "a second name is synced before it counts",
        "store/twins.py",
        "            osfile.sync_folder(final.parent)\n",
        "            pass\n",
        f"{LINKS}test_no_crash_leaves_half_a_file_under_the_second_name",
    ),
    Mutation(
        "what is written to while it is hashed is not linked",
        "store/twins.py",
        "if (_nature(now), _content(now)) != (_nature(self._began), _content(self._began)):",
        "if False:",
        f"{LINKS}test_what_is_written_to_while_it_is_hashed_is_never_linked",
    ),
    Mutation(
        "the very file that was hashed is linked",
        "store/osfile.py",
        '_OPEN_FILES = "/proc/self/fd" if sys.platform == "linux" else None\n',
        "_OPEN_FILES = None\n",
        f"{LINKS}test_the_file_that_was_hashed_is_linked_whatever_has_its_name_by_now",
    ),
    Mutation(
        "all names of a file stay proven",
        "store/twins.py",
        "            if remembered is not None:\n",
        "            if False:\n",
        f"{LINKS}test_all_names_of_a_file_stay_proven",
    ),
    Mutation(
        "only what lies in the folder of a repository is a blob",
        "store/twins.py",
        "    return final.parent.parent == root and is_blob(final) and is_blob(source)\n",
        "    return is_blob(final) and is_blob(source)\n",
        f"{LINKS}test_into_any_other_place_it_is_copied",
    ),
]


def mutated(mutation: Mutation, folder: Path) -> Path:
    """A copy of `src` with the mutation.

    Raises:
        SystemExit: the text is not there, or not just once.
    """
    source = folder / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    file = source / "modelhaul" / mutation.file
    text = file.read_text()
    if text.count(mutation.old) != 1:
        found = text.count(mutation.old)
        sys.exit(f"{mutation.name}: {mutation.old!r} is {found} times in {mutation.file}")
    file.write_text(text.replace(mutation.old, mutation.new))
    return source


def run(source: Path, *tests: str) -> int:
    """Run tests against a tree; pytest's exit code."""
    options = ["-q", "-x", "-p", "no:cacheprovider"]
    limits = ["--timeout", str(LIMIT), "--timeout-method", "thread"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *limits, *tests],
        env={**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        timeout=LIMIT * (len(tests) + 1),
    ).returncode


def main() -> int:
    """Run the mutations and print a table."""
    words = sys.argv[1:]
    chosen = [one for one in MUTATIONS if not words or any(word in one.name for word in words)]
    if not chosen:
        sys.exit("no mutation has such a name")
    if run(ROOT / "src", *(mutation.test for mutation in chosen)) != pytest.ExitCode.OK:
        sys.exit("the tests fail or are missing without any mutation")
    survived = 0
    for mutation in chosen:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
            code = run(mutated(mutation, Path(folder)), mutation.test)
        if code == pytest.ExitCode.OK:
            verdict, survived = "SURVIVED", survived + 1
        elif code == pytest.ExitCode.TESTS_FAILED:
            verdict = "killed"
        else:
            sys.exit(f"{mutation.name}: pytest ended with {code}")
        print(f"{verdict:9} {time.monotonic() - began:5.1f} s  {mutation.name}", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} killed")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())

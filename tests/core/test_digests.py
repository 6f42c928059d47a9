"""Which digest judges a file, and what it says."""

from __future__ import annotations

import pytest

from modelhaul.core.digests import Digests
from modelhaul.core.repo import RemoteFile

SHA, GIT = "a" * 64, "b" * 40
OTHER_SHA, OTHER_GIT = "c" * 64, "d" * 40


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (RemoteFile("f", 9, sha256=SHA), f"sha256:{SHA}"),
        (RemoteFile("f", None, sha256=SHA), f"sha256:{SHA}"),
        (RemoteFile("f", 9, git_sha1=GIT), f"git:{GIT}"),
        (RemoteFile("f", 0, git_sha1=GIT), f"git:{GIT}"),
        (RemoteFile("f", 9, sha256=SHA, git_sha1=GIT), f"sha256:{SHA}"),
        (RemoteFile("f", None, git_sha1=GIT), None),
        (RemoteFile("f", 9, validator='"x"'), None),
    ],
)
def test_the_stronger_digest_that_can_be_computed_judges(
    file: RemoteFile, content: str | None
) -> None:
    """SHA-256 before git's; git's only where the size is known, for it is hashed first."""
    assert file.content == content
    assert file.named_by_git == (content is not None and content.startswith("git:"))


@pytest.mark.parametrize(
    ("digests", "file", "matches", "admits"),
    [
        (Digests(SHA), RemoteFile("f", 9, sha256=SHA), True, True),
        (Digests(SHA), RemoteFile("f", 9, sha256=OTHER_SHA), False, False),
        (Digests(SHA, GIT), RemoteFile("f", 9, git_sha1=GIT), True, True),
        (Digests(SHA, GIT), RemoteFile("f", 9, git_sha1=OTHER_GIT), False, False),
        # the one that judges was not computed: nothing is proven
        (Digests(SHA), RemoteFile("f", 9, git_sha1=GIT), None, False),
        # the other one does not count
        (Digests(SHA, OTHER_GIT), RemoteFile("f", 9, sha256=SHA, git_sha1=GIT), True, True),
        (Digests(OTHER_SHA, GIT), RemoteFile("f", 9, sha256=SHA, git_sha1=GIT), False, False),
        # nobody states any
        (Digests(SHA, GIT), RemoteFile("f", 9), None, True),
        (Digests(SHA, GIT), RemoteFile("f", None, git_sha1=GIT), None, True),
    ],
)
def test_what_is_right_what_is_wrong_and_what_nobody_knows(
    digests: Digests, file: RemoteFile, matches: bool | None, admits: bool
) -> None:
    """Content counts as right only by the digest that judges."""
    assert digests.matches(file) is matches
    assert digests.admits(file) is admits


def test_the_difference_names_the_digest_that_judges() -> None:
    """A person may want to compare it with the page of the hub."""
    computed = Digests(SHA, GIT)

    by_git = computed.difference(RemoteFile("f", 9, git_sha1=OTHER_GIT))
    by_sha = computed.difference(RemoteFile("f", 9, sha256=OTHER_SHA, git_sha1=OTHER_GIT))

    assert by_git == f"git blob SHA-1 is {GIT}, should be {OTHER_GIT}"
    assert by_sha == f"SHA-256 is {SHA}, should be {OTHER_SHA}"

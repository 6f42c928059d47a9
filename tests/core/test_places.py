"""What `--source` means, and which file of a place may serve which of ours."""

from __future__ import annotations

import pytest

from modelhaul.core.places import (
    Mirror,
    Offer,
    OtherRepo,
    Place,
    Prefix,
    SameElsewhere,
    parse_place,
)
from modelhaul.core.repo import RemoteFile, RepoRef
from modelhaul.errors import UsageError

MS = RepoRef("modelscope", "model", "Qwen", "Qwen3-8B")
HF = RepoRef("huggingface", "dataset", "o", "n", "v1")
A, B = "a" * 64, "b" * 64
GIT_A, GIT_B = "a" * 40, "b" * 40


@pytest.mark.parametrize(
    ("text", "ref", "place"),
    [
        ("auto", MS, SameElsewhere(RepoRef("huggingface", "model", "Qwen", "Qwen3-8B"))),
        ("auto", HF, SameElsewhere(RepoRef("modelscope", "dataset", "o", "n"))),
        ("auto", RepoRef("huggingface", "model", "", "gpt2"), SameElsewhere(None)),
        ("auto", RepoRef("huggingface", "space", "o", "n"), SameElsewhere(None)),
        ("auto", RepoRef("modelscope", "model", "o", "a--b"), SameElsewhere(None)),
        ("hf:a/b", MS, OtherRepo(RepoRef("huggingface", "model", "a", "b"))),
        ("ms:a/b@v2", HF, OtherRepo(RepoRef("modelscope", "dataset", "a", "b", "v2"))),
        ("https://hf-mirror.example", HF, Mirror("https://hf-mirror.example")),
        (" http://127.0.0.1:8000/ ", MS, Mirror("http://127.0.0.1:8000")),
        ("https://host/models/qwen/", MS, Prefix("https://host/models/qwen")),
        ("https://host/.", MS, Prefix("https://host")),
        ("http://127.0.0.1:8000/./", MS, Prefix("http://127.0.0.1:8000")),
    ],
)
def test_a_source_is_a_repository_a_site_or_a_folder(text: str, ref: RepoRef, place: Place) -> None:
    """The kind of repository is that of what is downloaded, the revision is the place's own."""
    assert parse_place(text, ref) == place


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Qwen/Qwen3-8B",
        "hf:",
        "hf:a/b@",
        "hf:a/b@..",
        "ftp://host/x",
        "https://",
        "host.example",
        "/tmp/folder",
        "file:///tmp/folder",
    ],
)
def test_anything_else_is_no_source(text: str) -> None:
    """A name without a hub would be the repository itself."""
    with pytest.raises(UsageError):
        parse_place(text, MS)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("Qwen/Qwen3-8B", "ms:Qwen/Qwen3-8B or hf:Qwen/Qwen3-8B"),
        ("hf:", "hf:owner/name, https://site"),
        ("ms:8000", "hf:owner/name, https://site"),
        ("models", "hf:owner/name, https://site"),
        ("host.example", "https:// is missing: https://host.example"),
        ("host.example/a/b", "https:// is missing: https://host.example/a/b"),
        ("nas:8000", "https:// is missing: https://nas:8000"),
        ("localhost:8000", "http:// is missing: http://localhost:8000"),
        ("127.0.0.1:8000/x", "http:// is missing: http://127.0.0.1:8000/x"),
        ("[::1]:8000", "http:// is missing: http://[::1]:8000"),
        ("host.example/x?token=secret", "hf:owner/name, https://site"),
        ("/tmp/folder", "a folder on this disk is no source"),
        ("./x", "a folder on this disk is no source"),
        ("..", "a folder on this disk is no source"),
        ("~/x", "a folder on this disk is no source"),
        ("file:///tmp/folder", "a folder on this disk is no source"),
        ("FILE:x", "a folder on this disk is no source"),
    ],
)
def test_the_hint_says_what_a_source_looks_like(text: str, hint: str) -> None:
    """Both spellings of a name without its hub, the scheme that is missing, or what else to do."""
    with pytest.raises(UsageError) as caught:
        parse_place(text, MS)

    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    "text",
    [
        "https://u:secret@host/x",
        "https://host/x?token=secret",
        "host.example/x?token=secret",
        "u:secret@host.example/x",
    ],
)
def test_a_secret_in_a_source_is_refused_and_not_repeated(text: str) -> None:
    """It would stand in reports and journals."""
    with pytest.raises(UsageError) as caught:
        parse_place(text, MS)

    assert "secret" not in caught.value.message


def test_a_path_behind_a_prefix_is_quoted() -> None:
    """Folders stay folders."""
    assert Prefix("https://h/m").file_url("a b/c#1.bin") == "https://h/m/a%20b/c%231.bin"


WANTED = RemoteFile("w.bin", 10, sha256=A, git_sha1=GIT_A)


@pytest.mark.parametrize(
    "listed",
    [
        RemoteFile("w.bin", 10, sha256=A),
        RemoteFile("other/name.bin", 10, sha256=A),
        RemoteFile("w.bin", None, sha256=A),
        RemoteFile("w.bin", 10, git_sha1=GIT_A),
        RemoteFile("w.bin", 10),
        RemoteFile("w.bin", None),
    ],
)
def test_a_place_serves_what_has_the_same_digest_or_states_none(listed: RemoteFile) -> None:
    """What comes is judged by our digest in any case."""
    assert Offer([listed]).match(WANTED) == listed


@pytest.mark.parametrize(
    "listed",
    [
        RemoteFile("w.bin", 10, sha256=B),
        RemoteFile("w.bin", 10, git_sha1=GIT_B),
        RemoteFile("w.bin", 11),
        RemoteFile("w.bin", 11, sha256=A),
        RemoteFile("v.bin", 10),
    ],
)
def test_a_place_does_not_serve_anything_else(listed: RemoteFile) -> None:
    """An older revision has the same name, perhaps even the same size."""
    assert Offer([listed]).match(WANTED) is None


def test_nothing_else_serves_a_file_that_no_digest_judges() -> None:
    """Two servers might mean different bytes, and nobody would notice."""
    wanted = RemoteFile("w.bin", 10, validator='"v1"')

    assert Offer([RemoteFile("w.bin", 10)]).match(wanted) is None


def test_a_file_that_only_git_names_is_served_by_who_states_another_kind() -> None:
    """ModelScope states SHA-256, the Hub git's name of a small file: neither contradicts."""
    wanted = RemoteFile("config.json", 10, git_sha1=GIT_A)
    listed = RemoteFile("config.json", 10, sha256=B)

    assert Offer([listed]).match(wanted) == listed

"""References, revisions, digests and what makes two downloads the same bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhaul.core.origin import origin_of
from modelhaul.core.repo import (
    HubName,
    RemoteFile,
    RepoRef,
    Source,
    is_commit,
    is_revision,
    name_beside,
    names_of,
    parse_ref,
    sha256_or_none,
)
from modelhaul.errors import UsageError
from tests.support.properties import thorough

DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "owner", "name"),
    [
        ("Qwen/Qwen3-8B", "Qwen", "Qwen3-8B"),
        ("  Qwen/Qwen3-8B\n", "Qwen", "Qwen3-8B"),
        ("01-ai/Yi_1.5", "01-ai", "Yi_1.5"),
        ("_me/_it", "_me", "_it"),
        ("a/b", "a", "b"),
        ("LLM-Research/Meta-Llama-3.1-8B", "LLM-Research", "Meta-Llama-3.1-8B"),
    ],
)
def test_a_reference_is_owner_and_name(text: str, owner: str, name: str) -> None:
    """Blanks around it do not matter."""
    ref = parse_ref(text, hub="modelscope", kind="model")

    assert ref == RepoRef("modelscope", "model", owner, name, None)
    assert str(ref) == ref.id == f"{owner}/{name}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "Qwen",
        "Qwen/",
        "/Qwen",
        "a/b/c",
        "a//b",
        "../b",
        "a/..",
        "a/.b",
        ".a/b",
        "a/-b",
        "a b/c",
        "a/b c",
        "a/b\n/c",
        "a/b?x=1",
        "a/b#c",
        "a/b%2f",
        "a\\b",
        "a/b\\c",
        "ä/b",
        "https://modelscope.cn/a/b",
        "a/b\0",
    ],
)
def test_anything_else_is_not_a_reference(text: str) -> None:
    """It becomes a part of URLs and paths, so it is refused before it gets there."""
    with pytest.raises(UsageError) as caught:
        parse_ref(text, hub="modelscope", kind="model")

    assert repr(text) in caught.value.message
    assert caught.value.hint is not None


@pytest.mark.parametrize(
    ("text", "hub", "meant"),
    [
        ("hf:Qwen/Qwen3-8B", None, ("huggingface", "Qwen", "Qwen3-8B")),
        (" hf:Qwen/Qwen3-8B\n", "huggingface", ("huggingface", "Qwen", "Qwen3-8B")),
        ("Qwen/Qwen3-8B", "huggingface", ("huggingface", "Qwen", "Qwen3-8B")),
        ("hf:gpt2", None, ("huggingface", "", "gpt2")),
        ("gpt2", "huggingface", ("huggingface", "", "gpt2")),
        ("ms:Qwen/Qwen3-8B", None, ("modelscope", "Qwen", "Qwen3-8B")),
        ("ms:Qwen/Qwen3-8B", "modelscope", ("modelscope", "Qwen", "Qwen3-8B")),
        ("Qwen/Qwen3-8B", None, ("modelscope", "Qwen", "Qwen3-8B")),
    ],
)
def test_a_prefix_names_the_hub(
    text: str, hub: HubName | None, meant: tuple[HubName, str, str]
) -> None:
    """ModelScope where nobody says; old repositories of Hugging Face have no owner."""
    ref = parse_ref(text, hub=hub)

    assert (ref.hub, ref.owner, ref.name) == meant
    assert ref.id == f"{ref.owner}/{ref.name}".lstrip("/")
    assert parse_ref(str(ref)) == ref
    assert ref.with_hub.startswith(("ms:", "hf:"))
    assert parse_ref(ref.with_hub) == ref


@pytest.mark.parametrize(
    ("text", "hub"),
    [
        ("hf:Qwen/Qwen3-8B", "modelscope"),
        ("ms:Qwen/Qwen3-8B", "huggingface"),
        ("ms:gpt2", None),
        ("hf:", None),
        ("hf:/gpt2", None),
        ("hf:gpt2/", None),
        ("hf:a/b/c", None),
        ("hf:..", None),
        ("hf:a--b", None),
        ("hf:a--b/c", None),
        ("hf:hf:a/b", None),
        ("HF:a/b", None),
        ("xx:a/b", None),
        ("a/b", "elsewhere"),
    ],
)
def test_a_name_of_no_hub_or_of_two_is_refused(text: str, hub: Any) -> None:
    """Nobody guesses which of two sites a token would go to."""
    with pytest.raises(UsageError) as caught:
        parse_ref(text, hub=hub)

    assert caught.value.hint is not None


def test_spaces_are_of_hugging_face() -> None:
    """ModelScope has none that could be downloaded."""
    assert parse_ref("hf:o/n", kind="space").kind == "space"
    with pytest.raises(UsageError, match="Hugging Face"):
        parse_ref("o/n", kind="space")


def test_a_page_of_a_hub_of_ones_own_is_answered_with_how_to_name_it() -> None:
    """A pasted link is no decision to trust a site; --endpoint is."""
    with pytest.raises(UsageError) as caught:
        parse_ref("http://127.0.0.1:8000/models/o/n", hub="modelscope", kind="model")

    assert caught.value.hint is not None
    assert "--endpoint" in caught.value.hint


REVISIONS = [
    "master",
    "main",
    "v1.0.0",
    "refs/pr/1",
    "feature/x-1",
    "a" * 255,
    85 * "漢",
    40 * "a",
    "ветка",
]
NOT_REVISIONS = [
    "",
    ".",
    "..",
    "a/..",
    "../a",
    "a/./b",
    "/a",
    "a/",
    "a//b",
    "a b",
    "a\\b",
    "a:b",
    "a*",
    "a?",
    "a<b",
    "a>b",
    'a"b',
    "a|b",
    "a~1",
    "a^",
    "a\n",
    "a\0",
    "a\x1b",
    "\ud800",
    "a" * 256,
    128 * "é",
    255 * "é",
    86 * "漢",
]


@pytest.mark.parametrize("text", REVISIONS)
def test_branches_tags_and_commits_are_revisions(text: str) -> None:
    """Also with slashes, and in other alphabets."""
    ref = parse_ref("a/b", hub="modelscope", kind="dataset", revision=text)

    assert is_revision(text)
    assert ref.revision == text


@pytest.mark.parametrize("text", NOT_REVISIONS)
def test_what_could_leave_a_folder_or_is_no_ref_name_is_not_a_revision(text: str) -> None:
    """Caches put the revision into a path."""
    assert not is_revision(text)
    with pytest.raises(UsageError, match="revision"):
        parse_ref("a/b", hub="modelscope", kind="model", revision=text)


@thorough
@given(text=st.text(st.sampled_from("ab./\\ :\0"), max_size=10))
def test_a_revision_never_climbs(text: str) -> None:
    """As a path, it stays below the folder it is put into, and is not that folder."""
    if not is_revision(text):
        return

    depth = 0
    for part in text.split("/"):
        depth += {"": 0, ".": 0, "..": -1}.get(part, 1)
        assert depth > 0


@pytest.mark.parametrize(
    ("text", "commit"),
    [
        (40 * "a", True),
        ("0123456789" * 4, True),
        (40 * "A", False),
        (39 * "a", False),
        (41 * "a", False),
        (40 * "g", False),
        (40 * "a" + "\n", False),
        ("master", False),
        ("", False),
        (None, False),
    ],
)
def test_a_commit_is_forty_digits(text: str | None, commit: bool) -> None:
    """Short ones are no commits: they may become ambiguous."""
    assert is_commit(text) == commit


@pytest.mark.parametrize(
    "text", [DIGEST, DIGEST.upper(), f'"{DIGEST}"', f" {DIGEST} ", f'"{DIGEST.upper()}"']
)
def test_a_digest_is_found_in_quotes_and_capitals(text: str) -> None:
    """Hubs write it in headers and in listings."""
    assert sha256_or_none(text) == DIGEST


@pytest.mark.parametrize(
    "text", ["", DIGEST[:-1], DIGEST + "0", DIGEST[:-1] + "g", f'W/"{DIGEST}"', None, 7, b"00"]
)
def test_what_is_no_digest_is_none(text: object) -> None:
    """MD5, commits and weak tags are not taken for it."""
    assert sha256_or_none(text) is None


@thorough
@given(text=st.one_of(st.text(), st.integers(), st.none(), st.binary()))
def test_whatever_is_found_is_a_digest(text: object) -> None:
    """The result is 64 hex digits in lower case, or None."""
    found = sha256_or_none(text)

    assert found is None or (len(found) == 64 and set(found) <= set("0123456789abcdef"))


def test_the_digest_is_the_identity() -> None:
    """Commit, path and validator may change without the bytes changing."""
    one = RemoteFile("a", 9, sha256=DIGEST, validator='"x"', revision="1")
    other = RemoteFile("b", 9, sha256=DIGEST, validator='"y"', revision="2")

    assert one.identity == other.identity == f"sha256:{DIGEST}"


def test_without_a_digest_the_validator_is_the_identity() -> None:
    """Another validator means other bytes."""
    identities = {RemoteFile("a", 9, validator=tag).identity for tag in ('"x"', '"y"')}

    assert identities == {'validator:"x"', 'validator:"y"'}


def test_a_validator_is_never_taken_for_a_digest() -> None:
    """A server that sends a digest as its tag has not promised one."""
    digest = RemoteFile("a", 9, sha256=DIGEST)
    tag = RemoteFile("a", 9, validator=DIGEST)

    assert digest.identity != tag.identity


@pytest.mark.parametrize(
    "file",
    [
        RemoteFile("a", 9),
        RemoteFile("a", None),
        RemoteFile("a", None, sha256=DIGEST),
        RemoteFile("a", None, validator='"x"'),
    ],
)
def test_a_file_that_nothing_identifies_is_never_continued(file: RemoteFile) -> None:
    """Without a size there are no spans, without digest or validator no proof that they fit."""
    assert file.identity is None


def test_a_source_does_not_show_its_secrets() -> None:
    """Neither as text nor in a debugger."""
    url = "https://hub.example/file?token=SECRET-1"
    source = Source(url, origin_of(url), {"Authorization": "Bearer SECRET-2"})

    assert str(source) == "https://hub.example"
    assert "SECRET-2" not in repr(source)


def test_sources_are_called_by_their_origin_unless_several_have_the_same() -> None:
    """Else one that sends wrong bytes could not be told from its neighbour; no query is shown."""

    def source(url: str, *, fallback: bool = False) -> Source:
        return Source(url, origin_of(url), fallback=fallback)

    one, other = source("https://a.test/x/w?k=1"), source("https://b.test/w")
    near, spare = source("https://a.test/y/w"), source("https://a.test/z/w", fallback=True)

    assert names_of([one, other, spare]) == ["https://a.test", "https://b.test", "https://a.test"]
    assert names_of([one, near, other]) == [
        "https://a.test/x/w",
        "https://a.test/y/w",
        "https://b.test",
    ]


def test_a_source_that_joins_leaves_the_others_their_names() -> None:
    """Its origin, or its URL where that is taken; the same one twice is none."""
    one = Source("https://a.test/x?key=1", origin_of("https://a.test/x"))

    assert name_beside(one, ["https://b.test"]) == "https://a.test"
    assert name_beside(one, ["https://a.test"]) == "https://a.test/x"
    assert name_beside(one, ["https://a.test", "https://a.test/x"]) is None

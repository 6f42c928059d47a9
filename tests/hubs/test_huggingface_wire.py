"""What the Hugging Face Hub sends, and what somebody might send in its place."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhaul.core.repo import Kind, RemoteFile, RepoRef
from modelhaul.errors import ProtocolError
from modelhaul.hubs.huggingface import (
    Description,
    Refusal,
    error_text,
    file_url,
    page_url,
    parse_body,
    parse_description,
    parse_next,
    parse_refs,
    parse_refusal,
    parse_tree,
    revision_url,
    tree_url,
)
from modelhaul.net.transport import Response
from tests.hubs.fakehf import COMMIT, answer, oid, refusal, row, sha256

HUB = "https://hf.test"
URL = f"{HUB}/api/models/o/n/tree/{COMMIT}"
REF = RepoRef("huggingface", "model", "o", "n")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["type", "path", "size", "oid", "lfs", "sha", "name", "error", "x"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


# -- addresses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "owner", "revision", "path", "url"),
    [
        ("model", "o", "main", "a/w.bin", "/o/n/resolve/main/a/w.bin"),
        ("model", "", "main", "w.bin", "/n/resolve/main/w.bin"),
        ("dataset", "o", "refs/pr/1", "a b+c#?%.txt", None),
        ("space", "o", COMMIT, "\u6a21.py", f"/spaces/o/n/resolve/{COMMIT}/%E6%A8%A1.py"),
    ],
)
def test_files_are_below_the_page_of_their_kind(
    kind: Kind, owner: str, revision: str, path: str, url: str | None
) -> None:
    """Models have no prefix; a revision is one segment, a path is not."""
    ref = RepoRef("huggingface", kind, owner, "n")

    found = file_url(HUB, ref, revision, path).removeprefix(HUB)

    assert found == (url or "/datasets/o/n/resolve/refs%2Fpr%2F1/a%20b%2Bc%23%3F%25.txt")


def test_calls_are_named_by_the_plural_of_the_kind() -> None:
    """The same for all three, with and without an owner."""
    old = RepoRef("huggingface", "dataset", "", "squad")

    assert revision_url(HUB, REF, "refs/pr/1") == f"{HUB}/api/models/o/n/revision/refs%2Fpr%2F1"
    assert revision_url(HUB, old, "main") == f"{HUB}/api/datasets/squad/revision/main"
    assert tree_url(HUB, REF, COMMIT) == f"{URL}?recursive=true&expand=false"
    assert tree_url(HUB, REF, COMMIT, "cursor=x") == f"{URL}?cursor=x"
    assert page_url(HUB, old) == f"{HUB}/datasets/squad"


# -- the tree ----------------------------------------------------------------------------------


def test_a_file_is_named_by_git_and_one_in_lfs_by_its_sha256() -> None:
    """For an LFS file git names the pointer, which says nothing about the content."""
    rows = [row("a.txt", 5), row("b.bin", 7), {"type": "directory", "path": "d", "oid": "e" * 40}]

    assert parse_tree(URL, rows) == [
        RemoteFile("a.txt", 5, git_sha1=oid("a.txt")),
        RemoteFile("b.bin", 7, sha256=sha256("b.bin")),
    ]


def test_names_that_judge_nothing_are_kept_for_the_books_of_others() -> None:
    """That of the pointer and that of the store of chunks; what is none, or hidden, is left out."""
    plain = {**row("a.txt", 5), "xetHash": "E" * 64}
    hidden = {**row("c.bin", 7), "oid": "main", "xetHash": "<hidden>"}

    found = parse_tree(URL, [plain, row("b.bin", 7), hidden])

    assert [(file.pointer, file.xet) for file in found] == [
        (None, "e" * 64),
        (oid("b.bin"), "d" * 64),
        (None, None),
    ]
    assert found[2] == RemoteFile("c.bin", 7, sha256=sha256("c.bin"))


@pytest.mark.parametrize("stated", [None, "", "main", "d" * 64, "g" * 40, 7, ["d" * 40]])
def test_a_name_that_git_would_not_give_is_no_name(stated: object) -> None:
    """Mirrors put entity tags there: such a file is fetched as one without a digest."""
    assert parse_tree(URL, [{**row("a", 5), "oid": stated}]) == [RemoteFile("a", 5)]


@pytest.mark.fault(
    "an entry of Hugging Face's listing is a submodule, or points to no object",
    "the listing is refused: nothing is left out without a word",
    number=105,
)
@pytest.mark.parametrize(
    "change",
    [
        {"path": ""},
        {"path": None},
        {"path": ["a"]},
        {"path": "\ud800"},
        {"size": None},
        {"size": -1},
        {"size": True},
        {"size": 1.5},
        {"size": "5"},
        {"size": 1 << 61},
        {"type": "submodule"},
        {"type": None},
        {"lfs": {}},
        {"lfs": "yes"},
        {"lfs": {"oid": "d" * 40, "size": 7}},
        {"lfs": {"oid": "d" * 64, "size": 8}},
        {"lfs": []},
    ],
)
def test_an_entry_that_cannot_be_proven_is_refused(change: dict[str, object]) -> None:
    """Nothing is left out of a download without a word, and nothing is judged by a pointer."""
    with pytest.raises(ProtocolError):
        parse_tree(URL, [{**row("a.txt", 7), **change}])


@pytest.mark.parametrize("body", [None, {}, {"error": "x"}, "[]", 7, [None], [[]], ["a"]])
def test_what_is_no_list_of_entries_is_refused(body: object) -> None:
    """An error in place of a list must not pass for an empty repository."""
    with pytest.raises(ProtocolError):
        parse_tree(URL, body)


@given(st.lists(json_values, max_size=3) | json_values)
def test_any_json_is_a_listing_or_a_protocol_error(body: object) -> None:
    """Whatever comes: files that can be judged or fetched, or the one error."""
    try:
        files = parse_tree(URL, body)
    except ProtocolError:
        return

    for file in files:
        assert file.path.encode()
        assert file.size in range((1 << 60) + 1)
        assert file.sha256 is None or file.git_sha1 is None


sizes = st.integers(0, 1 << 60)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(st.dictionaries(names, st.tuples(sizes, st.booleans()), max_size=6))
def test_what_the_hub_lists_is_what_is_wanted(tree: dict[str, tuple[int, bool]]) -> None:
    """Every file once, with its size and the digest that judges it."""
    rows = [
        {
            "type": "file",
            "path": path,
            "oid": oid(path),
            "size": size,
            **({"lfs": {"oid": sha256(path), "size": size}} if lfs else {}),
        }
        for path, (size, lfs) in tree.items()
    ]

    files = parse_tree(URL, json.loads(json.dumps(rows)))

    assert files == [
        RemoteFile(path, size, sha256=sha256(path))
        if lfs
        else RemoteFile(path, size, git_sha1=oid(path))
        for path, (size, lfs) in tree.items()
    ]


# -- the next page -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("link", "query"),
    [
        ("", None),
        ('<https://huggingface.co/api/x?cursor=a%3D&limit=5>; rel="next"', "cursor=a%3D&limit=5"),
        ("<https://huggingface.co/api/x?cursor=a>;rel=next", "cursor=a"),
        ('<https://evil.test/?cursor=a>; title=x; rel="next"', "cursor=a"),
        ('</api/x?cursor=a>; rel="next"', "cursor=a"),
        ('<?cursor=a>; REL="Next"', "cursor=a"),
        ('<https://h/x?cursor=a>; rel="prev"', None),
        ('<https://h/x?p=1>; rel="prev", <https://h/x?p=3>; rel="next"', "p=3"),
        ('<https://h/x?p=3>; rel="next", <https://h/x?p=1>; rel="prev"', "p=3"),
        ('</a.css>; rel=preload; as=style, <https://h/x?p=3>; rel="next"', "p=3"),
        ('<https://h/x?p=3>; rel=next, </a.css>; rel="preload"', "p=3"),
        ('<https://h/x?cursor=\u00e4 b>; rel="next"', "cursor=%C3%A4%20b"),
        ('https://h/x?cursor=a; rel="next"', None),
        ("<https://h/x?cursor=a>", None),
        ('<https://h/x?rel="next">; rel="last"', None),
    ],
)
def test_of_the_next_page_only_the_query_is_used(link: str, query: str | None) -> None:
    """Wherever it is said to be: behind a mirror the Hub names its own address."""
    assert parse_next(URL, link) == query


@pytest.mark.parametrize(
    "link",
    [
        '<https://h/x>; rel="next"',
        '<>; rel="next"',
        '<https://[h/x?a=b>; rel="next"',
        f'<https://h/x?{"a" * 20_000}>; rel="next"',
    ],
)
def test_a_next_page_that_cannot_be_asked_for_is_an_error(link: str) -> None:
    """The listing is not complete, and must not pass for it."""
    with pytest.raises(ProtocolError, match="next page"):
        parse_next(URL, link)


@given(st.text(st.sampled_from('<>;,"=? /:[]relnxtpvhs%#\u00e4\x85'), max_size=60))
def test_any_link_keeps_the_listing_where_it_is(link: str) -> None:
    """The next address is of the same host and path, or there is none."""
    try:
        query = parse_next(URL, link)
    except ProtocolError:
        return

    if query is not None:
        parts = urlsplit(tree_url(HUB, REF, COMMIT, query))
        assert f"{parts.scheme}://{parts.netloc}{parts.path}" == URL
        assert not parts.fragment


# -- the commit --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gated", "is_gated"), [(False, False), (None, False), ("auto", True), ("manual", True)]
)
def test_a_revision_has_a_commit_and_may_be_gated(gated: object, is_gated: bool) -> None:
    """Everything else in the description is for people."""
    body = {"sha": COMMIT, "gated": gated, "disabled": False, "siblings": [{}], "cardData": None}

    assert parse_description(URL, body) == Description(COMMIT, is_gated, False)


@given(json_values)
def test_any_json_names_a_commit_or_none(body: object) -> None:
    """A branch that is not pinned could change half-way: without a commit nothing is fetched."""
    try:
        found = parse_description(URL, body)
    except ProtocolError:
        return

    assert len(found.commit) == 40


@pytest.mark.parametrize("sha", [None, "", "main", "c" * 39, "C" * 40, "c" * 64, 7])
def test_what_is_no_commit_is_refused(sha: object) -> None:
    """The commit becomes a part of addresses and paths."""
    with pytest.raises(ProtocolError, match="no commit"):
        parse_description(URL, {"sha": sha})


# -- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (answer({}), None),
        (refusal(404, "RepoNotFound", "Repository not found"), Refusal.NO_REPO),
        (refusal(401, "RepoNotFound", "Invalid username or password."), Refusal.NO_REPO),
        (refusal(404, "RevisionNotFound", "Invalid rev id: x"), Refusal.NO_REVISION),
        (refusal(403, "GatedRepo", "Access to model o/n is restricted"), Refusal.GATED),
        (refusal(401, "GatedRepo", "Access to model o/n is restricted"), Refusal.GATED),
        (refusal(403, "", "Access to this resource is disabled."), Refusal.DISABLED),
        (refusal(404, "RepoNotFound", "Access to this resource is disabled."), Refusal.DISABLED),
        (refusal(401, "", "Invalid credentials in Authorization header"), Refusal.WHO),
        (refusal(401), Refusal.WHO),
        (refusal(403, "", "This token has no such scope"), Refusal.DENIED),
        (refusal(451), Refusal.DENIED),
        (refusal(404), Refusal.MISSING),
        (refusal(410, "SomethingNew"), Refusal.MISSING),
        (refusal(400, "", "bad"), None),
        (answer({"error": "Access to this resource is disabled."}), None),
    ],
)
def test_the_code_says_more_than_the_status(response: Response, why: Refusal | None) -> None:
    """Missing, private, gated and disabled have overlapping statuses."""
    assert parse_refusal(response) is why


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"error": "one"}, "one"),
        ({"error": ["one", "two"]}, "one"),
        ({"errors": [{"message": "one"}]}, "one"),
        ({"errors": []}, ""),
        ({"error": None}, ""),
        ({"error": {"x": 1}}, ""),
        ([], ""),
        ("no", ""),
    ],
)
def test_an_error_has_one_of_three_forms(body: object, text: str) -> None:
    """And where the header says it too, that is it."""
    plain = Response(status=400, headers={}, body=json.dumps(body).encode())
    named = Response(status=400, headers={"x-error-message": " it "}, body=plain.body)

    assert error_text(plain) == text
    assert error_text(named) == "it"


@given(st.binary(max_size=40) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_answer_is_understood_or_a_protocol_error(body: bytes) -> None:
    """No other exception comes out of the parsers, whatever a server sends."""
    for status in (200, 204, 302, 400, 401, 403, 404, 500):
        response = Response(status=status, headers={}, body=body)
        assert parse_refusal(response) in (None, *Refusal)
        try:
            value = parse_body(URL, response)
        except ProtocolError:
            continue
        assert all(isinstance(name, str) for name in parse_refs(value))


def test_a_body_nested_too_deeply_is_no_json() -> None:
    """A few kilobytes of brackets must not end the program."""
    bomb = Response(status=200, headers={}, body=b"[" * 100_000)
    refused = Response(status=403, headers={}, body=b"[" * 100_000)

    with pytest.raises(ProtocolError, match="not JSON"):
        parse_body(URL, bomb)
    assert error_text(refused) == ""


def test_branches_and_tags_are_names() -> None:
    """What is neither is left out: they are only shown."""
    body = {
        "branches": [{"name": "main"}, {"name": 7}, {}, "x", {"name": "a\x1b[2J"}],
        "tags": [{"name": "v1"}],
        "converts": [{"name": "parquet"}],
    }

    assert parse_refs(body) == ["main", "v1"]
    assert parse_refs({"branches": 7}) == parse_refs([]) == []

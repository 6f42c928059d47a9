"""ModelScope's wire format: addresses that its server reads, and answers taken apart."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhaul.core.repo import RemoteFile, RepoRef
from modelhaul.errors import HaulError, NotFound, ProtocolError, Unauthorized
from modelhaul.hubs import modelscope as wire
from modelhaul.hubs.modelscope import Entry, Folder
from modelhaul.net.transport import Response

E = "https://hub.test"
URL = f"{E}/api/v1/models/o/n/repo/files?Revision=master"
MODEL = RepoRef("modelscope", "model", "Qwen", "Qwen3-0.6B")
DATASET = RepoRef("modelscope", "dataset", "acme", "ds.v2")
SHA = "0123456789abcdef" * 4
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def replied(body: object, status: int = 200) -> Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status=status, headers={}, body=data)


# -- addresses ---------------------------------------------------------------------------------


def test_addresses_are_those_of_the_official_client() -> None:
    """Captured from modelscope-hub 0.5.1, capital `True` included."""
    api = f"{E}/api/v1"

    assert wire.files_url(E, MODEL, "master", root="", recursive=True) == (
        f"{api}/models/Qwen/Qwen3-0.6B/repo/files?Revision=master&Recursive=True"
    )
    assert wire.files_url(E, MODEL, "v1", root="sub dir", recursive=False) == (
        f"{api}/models/Qwen/Qwen3-0.6B/repo/files?Revision=v1&Recursive=False&Root=sub+dir"
    )
    assert wire.tree_url(E, DATASET, "master", 2) == (
        f"{api}/datasets/acme/ds.v2/repo/tree"
        "?Revision=master&Recursive=True&PageNumber=2&PageSize=200"
    )
    assert wire.commits_url(E, MODEL, "v1") == (
        f"{api}/models/Qwen/Qwen3-0.6B/commits?Ref=v1&PageNumber=1&PageSize=1"
    )
    assert wire.revisions_url(E, DATASET) == f"{api}/datasets/acme/ds.v2/revisions"
    assert wire.repo_url(E, DATASET, "model") == f"{api}/models/acme/ds.v2"


@pytest.mark.parametrize(
    ("path", "quoted"),
    [
        ("config.json", "config.json"),
        ("sub dir/模型+a&b.txt", "sub+dir%2F%E6%A8%A1%E5%9E%8B%2Ba%26b.txt"),
        ("a%2Fb#c?d=e;f", "a%252Fb%23c%3Fd%3De%3Bf"),
        ("~x_y-z.0", "~x_y-z.0"),
        ("a'(b)!*", "a%27%28b%29%21%2A"),
    ],
)
def test_file_paths_are_quoted_once_with_plus_for_space(path: str, quoted: str) -> None:
    """The server decodes a form: space is `+`, a plus is `%2B`, and slashes are quoted too."""
    assert wire.file_url(E, MODEL, "master", path) == (
        f"{E}/api/v1/models/Qwen/Qwen3-0.6B/repo?Revision=master&FilePath={quoted}"
    )


@given(st.text(min_size=1), st.text(min_size=1))
def test_paths_and_revisions_survive_the_round_trip(path: str, revision: str) -> None:
    """Whatever a name holds, the server decodes exactly that, and nothing becomes a parameter."""
    url = wire.file_url(E, DATASET, revision, path)

    pairs = parse_qsl(urlsplit(url).query, strict_parsing=True, keep_blank_values=True)
    assert pairs == [("Revision", revision), ("FilePath", path)]


# -- envelopes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"Code": 200, "Data": {"Files": []}, "Success": True, "Message": "success"},
        {"Code": 200, "Data": {"Files": []}},
        {"Data": {"Files": []}, "Success": True},
    ],
)
def test_a_good_envelope_gives_its_data(body: object) -> None:
    """Code, Success and Message may be missing; they may not say no."""
    assert wire.parse_envelope(URL, replied(body)) == {"Files": []}


@pytest.mark.parametrize("data", [None, [], "", 7, True])
def test_data_of_another_shape_is_empty(data: object) -> None:
    """What is not an object has no fields."""
    assert wire.parse_envelope(URL, replied({"Code": 200, "Data": data})) == {}


@pytest.mark.parametrize(
    "body",
    [
        {"Code": 10010205001, "Success": False, "Message": "db overload", "Data": None},
        {"Code": 500, "Data": {"Files": []}},
        {"Code": 200, "Success": False, "Data": {"Files": []}},
        {"Code": None, "Data": {"Files": []}},
        {"Code": "200", "Data": {"Files": []}},
    ],
)
def test_200_may_report_a_failure(body: object) -> None:
    """The status says 200, the envelope says no: no is what counts."""
    with pytest.raises(ProtocolError, match=r"reports a failure \(200\)"):
        wire.parse_envelope(URL, replied(body))


@pytest.mark.parametrize("status", [400, 405, 409, 422, 500])
def test_other_statuses_are_failures_whatever_the_envelope_says(status: int) -> None:
    """`Code: 200` under an error status is not believed."""
    with pytest.raises(ProtocolError, match=rf"reports a failure \({status}\): sorry"):
        wire.parse_envelope(URL, replied({"Code": 200, "Data": {}, "Message": "sorry"}, status))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, NotFound),
        (410, NotFound),
        (401, Unauthorized),
        (402, Unauthorized),
        (403, Unauthorized),
        (407, Unauthorized),
    ],
)
@pytest.mark.parametrize(
    "body",
    [
        {"Code": 10010205001, "Message": "record not found", "Success": False},
        {"code": "ResourceNotFound", "message": "record not found", "success": False},
    ],
)
def test_absence_and_refusal_have_their_own_errors(
    status: int, kind: type[HaulError], body: object
) -> None:
    """Both envelopes' messages are passed on."""
    with pytest.raises(kind, match=rf"answers {status}: record not found"):
        wire.parse_envelope(URL, replied(body, status))


@pytest.mark.parametrize(
    "body",
    [
        b"<html>sign in</html>",
        b"",
        b"\xff\xfe",
        b"[1, 2]",
        b'"text"',
        b"null",
        b"{",
        b"[" * 100_000,
    ],
    ids=["page", "nothing", "binary", "list", "string", "null", "cut", "deep"],
)
def test_something_else_than_json_is_named(body: bytes) -> None:
    """A login page or a proxy in between is the likely reason, and the hint says so."""
    with pytest.raises(ProtocolError, match="not JSON") as caught:
        wire.parse_envelope(URL, replied(body))

    assert "endpoint" in str(caught.value.hint)


def test_a_404_that_is_a_page_is_still_a_404() -> None:
    """Gateways answer in HTML; the status is enough."""
    with pytest.raises(NotFound, match=r"answers 404$"):
        wire.parse_envelope(URL, replied(b"<html>no</html>", 404))


def test_messages_of_a_server_are_one_printable_line() -> None:
    """They end up on terminals: no colours, no new lines, no novels."""
    body = {"Code": 1, "Message": "a\x1b[31m\nb\x9b" + "c" * 5000}

    with pytest.raises(ProtocolError) as caught:
        wire.parse_envelope(URL, replied(body))

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@given(
    st.sampled_from([200, 404, 403, 500]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["Code", "Data", "Message", "Success", "Files", "Path", "Size"]),
                inner,
                max_size=4,
            )
        ),
    ),
)
def test_any_json_is_data_or_one_of_our_errors(status: int, body: object) -> None:
    """No shape of an answer gets past the edge as something else."""
    try:
        data = wire.parse_envelope(URL, replied(body, status))
        entries = wire.parse_entries(URL, data)
    except HaulError:
        return

    assert all(isinstance(entry, (RemoteFile, Folder)) for entry in entries)
    assert wire.parse_commit(data) is None
    assert wire.parse_revisions(data) == []


# -- listings ----------------------------------------------------------------------------------


def row(**fields: object) -> dict[str, object]:
    return {"Path": "a.bin", "Type": "blob", "Size": 7, "Sha256": SHA, "Revision": COMMIT, **fields}


def entries(*rows: object) -> list[Entry]:
    return wire.parse_entries(URL, {"Files": list(rows)})


def test_a_file_of_a_listing() -> None:
    """Path, size, digest and the commit that touched it last."""
    assert entries(row()) == [RemoteFile("a.bin", 7, SHA, revision=COMMIT)]


def test_fields_that_are_missing_are_unknown() -> None:
    """A path is all that a file must have."""
    assert entries({"Path": "a"}) == [RemoteFile("a", None)]


@pytest.mark.parametrize(
    ("given_digest", "digest"),
    [
        (SHA.upper(), SHA),
        (f'"{SHA}"', SHA),
        (f" {SHA} ", SHA),
        ("", None),
        (None, None),
        (SHA[:-1], None),
        (SHA[:-1] + "g", None),
        (SHA + "0", None),
        (7, None),
        ([SHA], None),
    ],
)
def test_only_a_whole_digest_is_one(given_digest: object, digest: str | None) -> None:
    """What is not a SHA-256 is no digest, rather than one that nothing can match."""
    (entry,) = entries(row(Sha256=given_digest))

    assert isinstance(entry, RemoteFile)
    assert entry.sha256 == digest


def test_folders_are_entries_without_a_file() -> None:
    """They are walked, never fetched; their sizes do not matter."""
    assert entries(row(Path="sub", Type="tree", Size=-1, Sha256="")) == [Folder("sub")]


@pytest.mark.parametrize("kind", ["blob", "", None, "file", "commit"])
def test_everything_else_is_a_file(kind: object) -> None:
    """Only `tree` is a folder: an unknown type is fetched, and its size and digest judge."""
    (entry,) = entries(row(Type=kind))

    assert isinstance(entry, RemoteFile)


@pytest.mark.parametrize("size", [-1, 2**61, 10**30, 1.5, "7", True, False, [], {}])
def test_an_impossible_size_is_refused(size: object) -> None:
    """A size that is no size would break offsets later on."""
    with pytest.raises(ProtocolError, match=r"lists 'a\.bin' with an impossible size"):
        entries(row(Size=size))


@pytest.mark.parametrize("size", [0, 2**31, 2**32, 600 * 10**9, 2**60])
def test_large_and_empty_files_are_possible(size: int) -> None:
    """Neither nothing nor half a terabyte is special."""
    (entry,) = entries(row(Size=size))

    assert isinstance(entry, RemoteFile)
    assert entry.size == size


@pytest.mark.parametrize("bad", [{}, {"Path": ""}, {"Path": None}, {"Path": 7}, "a.bin", None, []])
def test_an_entry_without_a_path_is_refused(bad: object) -> None:
    """One that cannot be named cannot be skipped either: the listing would be incomplete."""
    with pytest.raises(ProtocolError, match="without a path"):
        entries(row(), bad)


@pytest.mark.parametrize("files", [{}, "a.bin", 7, True])
def test_a_listing_that_is_no_list_is_refused(files: object) -> None:
    """A wrong shape is not an empty repository."""
    with pytest.raises(ProtocolError, match="not a list"):
        wire.parse_entries(URL, {"Files": files})


@pytest.mark.parametrize("data", [{}, {"Files": None}, {"Files": []}])
def test_no_files_are_no_entries(data: dict[str, object]) -> None:
    """The real server answers `null` for an empty tree."""
    assert wire.parse_entries(URL, data) == []


def test_hostile_names_get_through_to_the_judge_of_names() -> None:
    """Refusing a name is `core.names`' work, per file; here they are only data."""
    paths = ["../x", "/abs", "a\x00b", "C:\\x"]

    assert [entry.path for entry in entries(*(row(Path=path) for path in paths))] == paths


# -- commits and revisions ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "commit"),
    [
        ({"Commit": [{"Id": COMMIT}, {"Id": "f" * 40}], "TotalCount": 2}, COMMIT),
        ({"Commits": [{"Id": COMMIT}]}, COMMIT),
        ({"Commit": [{"Id": COMMIT.upper()}]}, COMMIT),
        ({"Commit": None, "TotalCount": 0}, None),
        ({"Commit": []}, None),
        ({"Commit": [{"ShortId": "0123"}]}, None),
        ({"Commit": [{"Id": COMMIT[:12]}]}, None),
        ({"Commit": [{"Id": "../../" + COMMIT[6:]}]}, None),
        ({"Commit": {"Id": COMMIT}}, None),
        ({"Commit": [COMMIT]}, None),
        ({"Commit": [{"Id": 7}]}, None),
        ({}, None),
    ],
)
def test_the_newest_commit_is_a_full_id_or_nothing(
    data: dict[str, object], commit: str | None
) -> None:
    """A short or odd id would pin nothing."""
    assert wire.parse_commit(data) == commit


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (
            {
                "RevisionMap": {
                    "Branches": [{"Revision": "master"}, {"Revision": "dev"}],
                    "Tags": [{"Revision": "v1.0"}],
                }
            },
            ["master", "dev", "v1.0"],
        ),
        ({"RevisionMap": {"Branches": None, "Tags": [{"Revision": "v1"}, {}, "x", None]}}, ["v1"]),
        ({"RevisionMap": {"Tags": "v1"}}, []),
        ({"RevisionMap": []}, []),
        ({}, []),
    ],
)
def test_revisions_are_branches_and_tags(data: dict[str, object], names: list[str]) -> None:
    """Odd rows are left out: the list only helps to explain."""
    assert wire.parse_revisions(data) == names

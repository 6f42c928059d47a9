"""The ModelScope client against a hub in memory: pinning, listing, explaining, credentials."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import pytest

from modelhaul.core.repo import Kind, RepoRef, Snapshot
from modelhaul.errors import HaulError, NotFound, ProtocolError, QuotaError, Unauthorized
from modelhaul.hubs.modelscope import MOST_REQUESTS, WALK_WORKERS, ModelScopeHub
from modelhaul.net.api import Api, Patience
from modelhaul.net.transport import Redirect, Response
from modelhaul.settings import DEFAULT_ENDPOINT
from tests.hubs.fakehub import ENDPOINT, NOT_FOUND, FakeHub, Tree, digest, enveloped
from tests.support.virtual import virtual

ONE, TWO = "1" * 40, "2" * 40
TREE: Tree = {"README.md": 5, "config.json": 7, "sub/w.bin": 900}
OLD: Tree = {"README.md": 4}


def resolve(
    hub: FakeHub,
    revision: str | None = None,
    *,
    kind: Kind = "model",
    name: str = "n",
    token: str | None = None,
    endpoint: str = ENDPOINT,
) -> Snapshot:
    """What a reference resolves to."""

    async def main() -> Snapshot:
        patience = Patience(notify=lambda reason, seconds: None, chance=lambda: 0.5)
        client = ModelScopeHub(endpoint, token, Api(hub, patience))
        return await client.resolve(RepoRef("modelscope", kind, "o", name, revision))

    return virtual(main)


def refused(hub: FakeHub, revision: str | None = None, **more: object) -> HaulError:
    """Why a reference does not resolve."""
    with pytest.raises(HaulError) as caught:
        resolve(hub, revision, **more)
    return caught.value


def files(snapshot: Snapshot) -> dict[str, int | None]:
    return {file.path: file.size for file in snapshot.files}


# -- pinning -----------------------------------------------------------------------------------


def test_master_is_pinned_to_its_commit() -> None:
    """The branch may move: listing and files are asked for by the commit it names now."""
    hub = FakeHub({"master": OLD, ONE: TREE}, commits={"master": ONE})

    snapshot = resolve(hub)

    assert snapshot.commit == ONE
    assert files(snapshot) == TREE
    assert [call["Revision"] for call in hub.asked("/repo/files")] == [ONE]


def test_files_know_their_digest() -> None:
    """What the listing states is what will be proven."""
    snapshot = resolve(FakeHub({"master": TREE}))

    assert {file.path: file.sha256 for file in snapshot.files} == {
        path: digest(path, size) for path, size in TREE.items()
    }


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(NOT_FOUND, id="no-such-call"),
        pytest.param(enveloped({"Commit": None}), id="null"),
        pytest.param(enveloped({"Commit": [{"Id": "abc"}]}), id="short-id"),
        pytest.param(enveloped(["?"]), id="odd"),
        pytest.param(Response(status=200, headers={}, body=b"<html>"), id="page"),
        pytest.param(Response(status=405, headers={}, body=b"{}"), id="not-allowed"),
        pytest.param(Response(status=500, headers={}, body=b"{}"), id="broken"),
    ],
)
def test_without_a_commits_call_the_name_is_used(answer: Response) -> None:
    """Not every server knows the call; then the digests alone pin the content."""
    hub = FakeHub({"master": TREE}, override=lambda url: answer if "/commits?" in url else None)

    snapshot = resolve(hub)

    assert snapshot.commit is None
    assert files(snapshot) == TREE


@pytest.mark.parametrize("by_commit", [None, {}], ids=["404", "empty"])
def test_a_listing_by_commit_that_cannot_be_had_is_asked_for_by_name(
    by_commit: Tree | None,
) -> None:
    """That the server lists commits is only reported; the name works everywhere."""
    trees = {"master": TREE} if by_commit is None else {"master": TREE, ONE: by_commit}
    hub = FakeHub(trees, commits={"master": ONE})

    snapshot = resolve(hub)

    assert snapshot.commit is None
    assert files(snapshot) == TREE


def test_a_tag_is_pinned_if_the_listings_agree() -> None:
    """For a tag the commit's listing is compared with the tag's own."""
    hub = FakeHub({"v1": TREE, ONE: TREE}, commits={"v1": ONE})

    snapshot = resolve(hub, "v1")

    assert snapshot.commit == ONE
    assert files(snapshot) == TREE


def test_a_commits_call_that_answers_for_master_does_not_pin_a_tag() -> None:
    """The real call is reported to ignore what it does not understand: the listing decides."""
    hub = FakeHub({"v1": OLD, "master": TREE, TWO: TREE}, commits={"v1": TWO, "master": TWO})

    snapshot = resolve(hub, "v1")

    assert snapshot.commit is None
    assert files(snapshot) == OLD


def test_a_commit_is_taken_at_its_word() -> None:
    """A full commit id needs no pinning."""
    hub = FakeHub({ONE: OLD, "master": TREE}, commits={"master": TWO})

    snapshot = resolve(hub, ONE)

    assert snapshot.commit == ONE
    assert files(snapshot) == OLD
    assert hub.asked("/commits") == []


def test_an_unknown_commit_is_not_found() -> None:
    """There is no name to fall back to."""
    error = refused(FakeHub({"master": TREE}, names=["master"]), ONE)

    assert isinstance(error, NotFound)
    assert ONE in error.message


# -- sources -----------------------------------------------------------------------------------


def sources(snapshot: Snapshot, token: str | None = None) -> list[tuple[str, bool]]:
    hub = ModelScopeHub(ENDPOINT, token, None)  # type: ignore[arg-type]
    found = hub.sources(snapshot, snapshot.files[-1])
    assert all(str(source.origin) == ENDPOINT for source in found)
    return [(source.url.partition("/repo?")[2], source.fallback) for source in found]


def test_files_come_by_commit_and_by_name_if_need_be() -> None:
    """Serving by commit is only reported, so the branch's name stands by; the digest judges."""
    snapshot = resolve(FakeHub({ONE: TREE}, commits={"master": ONE}))

    assert sources(snapshot) == [
        (f"Revision={ONE}&FilePath=sub%2Fw.bin", False),
        ("Revision=master&FilePath=sub%2Fw.bin", True),
    ]


def test_without_a_digest_a_moving_branch_is_no_source() -> None:
    """Nothing could tell that the branch has moved on."""

    def without_digest(url: str) -> Response | None:
        if "/repo/files" in url:
            return enveloped({"Files": [{"Path": "w.bin", "Size": 3}]})
        return None

    snapshot = resolve(FakeHub({}, commits={"master": ONE}, override=without_digest))

    assert sources(snapshot) == [(f"Revision={ONE}&FilePath=w.bin", False)]


def test_what_is_not_pinned_has_one_source() -> None:
    """The name that was asked for."""
    assert sources(resolve(FakeHub({"v1": OLD}), "v1")) == [
        ("Revision=v1&FilePath=README.md", False)
    ]


def test_a_commit_that_was_asked_for_has_one_source() -> None:
    """It has no other name."""
    assert sources(resolve(FakeHub({ONE: OLD}), ONE)) == [
        (f"Revision={ONE}&FilePath=README.md", False)
    ]


# -- credentials -------------------------------------------------------------------------------

TOKEN = "ms-SECRET"
WHO = {"Authorization": f"Bearer {TOKEN}", "Cookie": f"m_session_id={TOKEN}"}


def test_a_token_is_sent_as_header_and_as_cookie() -> None:
    """Some calls of the site take only the one, some only the other."""
    hub = FakeHub({"master": TREE})

    resolve(hub, token=TOKEN)

    assert hub.headers
    assert all(sent == WHO for sent in hub.headers)


@pytest.mark.parametrize("token", [None, ""])
def test_without_a_token_nothing_is_sent(token: str | None) -> None:
    """Anonymous means no header at all."""
    hub = FakeHub({"master": TREE})

    snapshot = resolve(hub, token=token)
    client = ModelScopeHub(ENDPOINT, token, None)  # type: ignore[arg-type]

    assert all(sent == {} for sent in hub.headers)
    assert client.sources(snapshot, snapshot.files[0])[0].credentials == {}


def test_a_token_does_not_follow_a_redirect_to_another_origin() -> None:
    """The listing may come from elsewhere; the token does not go there."""

    def elsewhere(url: str) -> Response | Redirect | None:
        if url.startswith("https://mirror.test/"):
            return enveloped({"Files": [{"Path": "a", "Size": 1}]})
        return Redirect(url.replace("hub.test", "mirror.test"))

    hub = FakeHub({}, override=elsewhere)

    resolve(hub, token=TOKEN)

    seen = {
        (url.split("/api")[0], bool(sent)) for url, sent in zip(hub.urls, hub.headers, strict=True)
    }
    assert seen == {("https://hub.test", True), ("https://mirror.test", False)}


def test_a_token_is_never_shown() -> None:
    """Neither the hub nor a source has it in its repr."""
    snapshot = resolve(FakeHub({"master": TREE}))
    client = ModelScopeHub(ENDPOINT, TOKEN, None)  # type: ignore[arg-type]

    (source,) = client.sources(snapshot, snapshot.files[0])

    assert source.credentials == WHO
    assert TOKEN not in f"{client!r} {source!r} {source}"


# -- listing datasets --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "pages"), [(1, 1), (199, 1), (200, 2), (201, 2), (400, 3), (450, 3)]
)
def test_datasets_are_listed_page_by_page(count: int, pages: int) -> None:
    """A full page means that there may be more; a page that is not full is the last."""
    tree = {f"f{number:04}": number for number in range(count)}
    hub = FakeHub({"master": tree}, kind="dataset")

    snapshot = resolve(hub, kind="dataset")

    assert files(snapshot) == tree
    asked = [(call["PageNumber"], call["PageSize"]) for call in hub.asked("/repo/tree")]
    assert asked == [(str(page), "200") for page in range(1, pages + 1)]


def test_a_server_that_ignores_page_numbers_ends_too() -> None:
    """A page without news is the last; the official clients ask for ever."""
    tree = {f"f{number:04}": number for number in range(450)}
    hub = FakeHub({"master": tree}, kind="dataset", paged=False)

    snapshot = resolve(hub, kind="dataset")

    assert files(snapshot) == tree
    assert len(hub.asked("/repo/tree")) == 2


def test_a_listing_without_an_end_is_given_up() -> None:
    """A server that invents new files on every page is not followed for ever."""
    pages = itertools.count()
    folders = ",".join(['{"Path": "d", "Type": "tree"}'] * 199)

    def endless(url: str) -> Response | None:
        if "/repo/tree" not in url:
            return None
        news = f'{{"Path": "{next(pages)}", "Type": "tree"}}'
        body = f'{{"Code": 200, "Data": {{"Files": [{folders}, {news}]}}}}'
        return Response(status=200, headers={}, body=body.encode())

    error = refused(FakeHub({}, kind="dataset", override=endless), kind="dataset")

    assert isinstance(error, ProtocolError)
    assert "does not end" in error.message


def test_a_page_that_fails_fails_the_listing() -> None:
    """Half a listing is never taken for the whole."""
    tree = {f"f{number:04}": number for number in range(450)}

    def broken(url: str) -> Response | None:
        return Response(status=500, headers={}, body=b"{}") if "PageNumber=2" in url else None

    error = refused(FakeHub({"master": tree}, kind="dataset", override=broken), kind="dataset")

    assert isinstance(error, ProtocolError)


# -- listing models ----------------------------------------------------------------------------


def test_a_listing_that_was_cut_is_walked() -> None:
    """At 3000 entries the server stops without a word: then folder by folder."""
    tree = {
        **{f"a/{number}": 1 for number in range(2500)},
        **{f"b/{number}": 2 for number in range(2900)},
        **{f"c/deep/er/{number}": 3 for number in range(2000)},
        **{f"c/wide/{number}": 4 for number in range(2000)},
        "top": 5,
    }
    hub = FakeHub({"master": tree})

    snapshot = resolve(hub)

    assert files(snapshot) == tree
    assert hub.most_active <= WALK_WORKERS


def test_only_what_was_cut_is_walked() -> None:
    """Folders that fit are not opened: a request each for them would take minutes."""
    tree = {f"d{folder}/{number}": 1 for folder in range(20) for number in range(200)}
    hub = FakeHub({"master": tree})

    snapshot = resolve(hub)

    assert files(snapshot) == tree
    roots = [(call.get("Root"), call["Recursive"]) for call in hub.asked("/repo/files")]
    assert roots[:2] == [(None, "True"), (None, "False")]
    assert sorted(roots[2:]) == sorted((f"d{folder}", "True") for folder in range(20))


def test_a_short_listing_is_not_walked() -> None:
    """One request is enough for nearly every model."""
    hub = FakeHub({"master": {f"f{number}": 1 for number in range(2999)}})

    snapshot = resolve(hub)

    assert len(snapshot.files) == 2999
    assert len(hub.asked("/repo/files")) == 1


def test_folders_are_no_files() -> None:
    """They are listed and are not fetched."""
    snapshot = resolve(FakeHub({"master": {"a/b/c.bin": 1}}))

    assert files(snapshot) == {"a/b/c.bin": 1}


def test_a_server_that_does_not_cut_is_walked_in_vain_but_right() -> None:
    """More than 3000 entries at once look like a cut listing; walking finds the same."""
    tree = {f"d{folder}/{number}": 1 for folder in range(4) for number in range(1000)}

    snapshot = resolve(FakeHub({"master": tree}, cut=None))

    assert files(snapshot) == tree


def test_a_single_folder_over_the_cut_is_an_error() -> None:
    """Nothing lists its rest: better no download than half of one called whole."""
    tree = {"top": 1, **{f"big/{number}": 1 for number in range(3500)}}

    error = refused(FakeHub({"master": tree}))

    assert isinstance(error, ProtocolError)
    assert "the folder big has 3000 entries or more" in error.message


def test_walking_has_a_budget() -> None:
    """A server with endless folders is given up after a bounded number of requests."""
    tree = {f"{side}/{number}/x": 1 for side in "ab" for number in range(2900)}

    hub = FakeHub({"master": tree})
    error = refused(hub)

    assert isinstance(error, ProtocolError)
    assert f"more than {MOST_REQUESTS} requests" in error.message
    assert len(hub.asked("/repo/files")) <= MOST_REQUESTS + 1


def test_a_folder_that_cannot_be_listed_fails_the_listing() -> None:
    """A gap in the walk is an error, not fewer files."""
    tree = {f"d{folder}/{number}": 1 for folder in range(4) for number in range(1000)}

    def broken(url: str) -> Response | None:
        return Response(status=403, headers={}, body=b"{}") if "Root=d2" in url else None

    error = refused(FakeHub({"master": tree}, override=broken))

    assert isinstance(error, Unauthorized)


@pytest.mark.parametrize("digests", [("a" * 64, "a" * 64), (None, None)])
def test_a_path_listed_twice_alike_counts_once(digests: tuple[str | None, str | None]) -> None:
    """Repeated rows are harmless."""
    rows = [{"Path": "a", "Size": 1, "Sha256": sha256} for sha256 in digests]

    snapshot = resolve(
        FakeHub({}, override=lambda url: enveloped({"Files": rows}) if "/files" in url else None)
    )

    assert files(snapshot) == {"a": 1}


@pytest.mark.parametrize(
    "other",
    [{"Size": 2, "Sha256": "a" * 64}, {"Size": 1, "Sha256": "b" * 64}, {"Size": 1}],
    ids=["size", "digest", "no-digest"],
)
def test_a_path_listed_twice_differently_is_an_error(other: dict[str, object]) -> None:
    """Nobody knows which of the two is meant."""
    rows = [{"Path": "a", "Size": 1, "Sha256": "a" * 64}, {"Path": "a", **other}]

    error = refused(
        FakeHub({}, override=lambda url: enveloped({"Files": rows}) if "/files" in url else None)
    )

    assert isinstance(error, ProtocolError)
    assert "lists 'a' twice, differently" in error.message


# -- explaining --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "reason"),
    [(None, "it is private or gated"), (TOKEN, "your token may not read it")],
)
def test_an_unknown_repository_may_be_hidden(token: str | None, reason: str) -> None:
    """The site answers 404 for what is private too: the message says so, and what to try."""
    error = refused(FakeHub({}), name="other", token=token)

    assert isinstance(error, NotFound)
    assert error.message == f"no model o/other on {ENDPOINT}, or {reason}"
    assert "--token" in str(error.hint)
    assert error.exit_code == 4


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [(ENDPOINT, False), ("https://www.modelscope.ai", False), (DEFAULT_ENDPOINT, True)],
)
def test_another_site_is_advised_only_where_nobody_chose_one(endpoint: str, told: bool) -> None:
    """With --endpoint or a variable the site was chosen on purpose."""
    error = refused(FakeHub({}), name="other", endpoint=endpoint)

    assert ("--endpoint https://www.modelscope.ai" in str(error.hint)) is told


def test_an_unknown_revision_is_named_with_those_there_are() -> None:
    """The repository exists, so the revision is what is wrong."""
    error = refused(FakeHub({"master": TREE}, names=["master", "v1", "v2"]), "v9")

    assert isinstance(error, NotFound)
    assert error.message == f"no revision 'v9' in o/n on {ENDPOINT}"
    assert error.hint == "it has master, v1, v2"


def test_many_revisions_are_not_all_named() -> None:
    """Eight are enough for a hint."""
    names = [f"v{number}" for number in range(50)]

    error = refused(FakeHub({}, names=names), "v99")

    assert error.hint == "it has v0, v1, v2, v3, v4, v5, v6, v7 ..."


def test_an_unknown_revision_that_lists_as_empty_is_an_error() -> None:
    """The official client takes an empty list for success."""
    error = refused(FakeHub({"master": TREE, "v9": {}}, names=["master"]), "v9")

    assert error.message == f"no revision 'v9' in o/n on {ENDPOINT}"


def test_an_empty_repository_is_an_error() -> None:
    """Nothing to download is not a download."""
    error = refused(FakeHub({"master": {}}, names=["master"]))

    assert isinstance(error, NotFound)
    assert error.message == f"o/n has no files at revision 'master' on {ENDPOINT}"


@pytest.mark.parametrize(("asked", "there"), [("model", "dataset"), ("dataset", "model")])
def test_a_repository_of_the_other_kind_is_pointed_out(asked: Kind, there: Kind) -> None:
    """Forgetting --dataset is the commonest mistake."""
    error = refused(FakeHub({"master": TREE}, kind=there), kind=asked)

    assert isinstance(error, NotFound)
    assert error.message == f"no {asked} o/n on {ENDPOINT}, but there is a {there} of that name"
    assert error.hint == f"use --{there} o/n"


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(
    ("token", "hint"), [(None, "give a token"), (TOKEN, "the token is not accepted")]
)
def test_a_refusal_says_what_to_do_about_the_token(
    status: int, token: str | None, hint: str
) -> None:
    """Without one it is missing, with one it is wrong."""
    answer = Response(status=status, headers={}, body=json.dumps({"Message": "no"}).encode())

    error = refused(FakeHub({}, override=lambda url: answer), token=token)

    assert isinstance(error, Unauthorized)
    assert f"answers {status}: no" in error.message
    assert str(error.hint).startswith(hint)
    assert TOKEN not in f"{error!r} {error.hint}"


def test_a_page_instead_of_a_listing_is_named() -> None:
    """A captive portal answers everything with a page."""
    page = Response(status=200, headers={"content-type": "text/html"}, body=b"<html>")

    error = refused(FakeHub({}, override=lambda url: page))

    assert isinstance(error, ProtocolError)
    assert "not JSON" in error.message


def _limited(seconds: int) -> Callable[[str], Response]:
    return lambda url: Response(status=429, headers={"retry-after": str(seconds)}, body=b"{}")


def test_a_hub_that_wants_a_long_pause_says_when() -> None:
    """No list of revisions is asked for: the hub wants to be left alone."""
    hub = FakeHub({}, override=_limited(4000))

    error = refused(hub)

    assert isinstance(error, QuotaError)
    assert error.retry_at is not None
    assert len(hub.urls) == 1

"""The Hugging Face client against a hub in memory: pinning, pages, refusals, waiting, secrets."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from modelhaul.core.repo import Kind, RepoRef, Snapshot
from modelhaul.errors import AccessError, HaulError, NotFound, ProtocolError, Unauthorized
from modelhaul.hubs.huggingface import MOST_PAGES, HuggingFaceHub
from modelhaul.net.api import Api, Patience
from modelhaul.net.transport import Redirect, Response
from tests.hubs.fakehf import COMMIT, ENDPOINT, NO_REPO, FakeHf, answer, oid, refusal, row, sha256
from tests.support.virtual import virtual

FILES = {"README.md": 5, "config.json": 7, "sub/w.bin": 900}
OTHER = "d" * 40


def client(hub: FakeHf, token: str | None = None, endpoint: str = ENDPOINT) -> HuggingFaceHub:
    patience = Patience(notify=lambda reason, seconds: None, chance=lambda: 0.5)
    return HuggingFaceHub(endpoint, token, Api(hub, patience))


def resolve(
    hub: FakeHf,
    revision: str | None = None,
    *,
    kind: Kind = "model",
    owner: str = "o",
    token: str | None = None,
) -> Snapshot:
    """What a reference resolves to."""
    ref = RepoRef("huggingface", kind, owner, "n", revision)
    return virtual(lambda: client(hub, token).resolve(ref))


def refused(hub: FakeHf, revision: str | None = None, **more: object) -> HaulError:
    """Why a reference does not resolve."""
    with pytest.raises(HaulError) as caught:
        resolve(hub, revision, **more)  # type: ignore[arg-type]
    return caught.value


def on(ending: str, response: Response | Redirect) -> Callable[[str], Response | Redirect | None]:
    """A hub that answers so to a call whose address ends with `ending`."""
    return lambda url: response if url.partition("?")[0].endswith(ending) else None


# -- resolving ---------------------------------------------------------------------------------


def test_two_calls_give_the_commit_and_all_digests() -> None:
    """The branch may move: the tree is asked for by the commit that it names now."""
    hub = FakeHf(FILES)

    snapshot = resolve(hub)

    assert snapshot.commit == COMMIT
    assert {file.path: (file.size, file.sha256, file.git_sha1) for file in snapshot.files} == {
        "README.md": (5, None, oid("README.md")),
        "config.json": (7, None, oid("config.json")),
        "sub/w.bin": (900, sha256("sub/w.bin"), None),
    }
    assert hub.asked() == [
        "/api/models/o/n/revision/main",
        f"/api/models/o/n/tree/{COMMIT}?recursive=true&expand=false",
    ]


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
@pytest.mark.parametrize(("owner", "repo"), [("o", "o/n"), ("", "n")])
def test_every_kind_with_and_without_an_owner(kind: Kind, owner: str, repo: str) -> None:
    """Old repositories have one-part names; only the prefix differs between kinds."""
    hub = FakeHf(FILES, kind=kind, repo=repo)

    snapshot = resolve(hub, kind=kind, owner=owner)

    (readme, *_) = snapshot.files
    (source,) = client(hub).sources(snapshot, readme)
    prefix = "" if kind == "model" else f"{kind}s/"
    assert source.url == f"{ENDPOINT}/{prefix}{repo}/resolve/{COMMIT}/README.md"


@pytest.mark.parametrize("revision", ["refs/pr/1", "v1.0", OTHER])
def test_a_revision_is_one_segment_of_the_address(revision: str) -> None:
    """Branches, tags, requests and commits; the bytes are asked for by the commit."""
    hub = FakeHf(FILES, revisions={revision: OTHER, OTHER: OTHER})

    snapshot = resolve(hub, revision)

    (source,) = client(hub).sources(snapshot, snapshot.files[0])
    assert snapshot.commit == OTHER
    assert f"/resolve/{OTHER}/" in source.url
    assert hub.asked()[0] == f"/api/models/o/n/revision/{revision.replace('/', '%2F')}"


def test_another_commit_than_the_one_asked_for_is_refused() -> None:
    """A mirror that has only the newest one would otherwise pass it for the old one."""
    hub = FakeHf(FILES, revisions={OTHER: COMMIT})

    assert isinstance(refused(hub, OTHER), ProtocolError)


def test_a_renamed_repository_is_found_by_its_old_name() -> None:
    """The hub answers 307 with the new address on each call; the token goes along."""
    hub = FakeHf(FILES, token="hf_1")

    def renamed(url: str) -> Redirect | None:
        if "/old/name/" not in url:
            return None
        return Redirect(url.replace("/old/name/", "/o/n/"))

    hub.override = renamed
    ref = RepoRef("huggingface", "model", "old", "name")

    snapshot = virtual(lambda: client(hub, "hf_1").resolve(ref))

    assert len(snapshot.files) == len(FILES)
    assert snapshot.ref == ref
    assert all(headers == {"Authorization": "Bearer hf_1"} for headers in hub.headers)


# -- pages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("links", [ENDPOINT, "https://huggingface.co", "http://evil.test:81", ""])
def test_pages_are_followed_and_never_leave_the_endpoint(links: str) -> None:
    """The hub names its own address for the next page, also to those who came by a mirror."""
    files = {f"d{number % 7}/f{number:04}": number for number in range(2345)}
    hub = FakeHf(files, links=links)

    snapshot = resolve(hub, token="hf_1")

    assert {file.path: file.size for file in snapshot.files} == files
    assert [url.partition("?")[0] for url in hub.urls[1:]] == [
        f"{ENDPOINT}/api/models/o/n/tree/{COMMIT}"
    ] * 3
    assert all(headers == {"Authorization": "Bearer hf_1"} for headers in hub.headers)


def test_a_listing_that_goes_round_in_circles_ends() -> None:
    """A page that names itself, or one before it, as the next."""
    one, two = ('</x?cursor=1>; rel="next"', '</x?cursor=2>; rel="next"')
    pages = itertools.cycle([answer([], link=one), answer([], link=two)])
    hub = FakeHf(FILES, override=lambda url: next(pages) if "/tree/" in url else None)

    assert "does not end" in refused(hub).message
    assert len(hub.urls) <= 5


def test_a_listing_without_end_is_given_up() -> None:
    """Every page names a new one."""
    numbers = itertools.count()

    def endless(url: str) -> Response | None:
        return (
            answer([], link=f'</x?cursor={next(numbers)}>; rel="next"') if "tree" in url else None
        )

    hub = FakeHf(FILES, override=endless)

    assert "does not end" in refused(hub).message
    assert len(hub.urls) == MOST_PAGES + 1


def test_a_path_listed_twice_alike_is_one_file() -> None:
    """A tree that changed its order between two pages shows some entries again."""
    hub = FakeHf({}, override=on(f"/tree/{COMMIT}", answer([row("a", 1), row("a", 1)])))

    assert [file.path for file in resolve(hub).files] == ["a"]


def test_a_path_listed_twice_differently_is_an_error() -> None:
    """Nobody knows which one is meant."""
    hub = FakeHf({}, override=on(f"/tree/{COMMIT}", answer([row("a", 1), row("a", 2)])))

    assert "'a' twice" in refused(hub).message


def test_a_repository_without_files_is_not_found() -> None:
    """Nothing to download is no success."""
    error = refused(FakeHf({}))

    assert isinstance(error, NotFound)
    assert "no files" in error.message


# -- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 404])
def test_anonymous_learns_that_it_is_missing_or_private(status: int) -> None:
    """The hub says the same of both; the page shows which, the token helps with one."""
    hub = FakeHf(FILES, override=lambda url: refusal(status, "RepoNotFound", "not found"))

    error = refused(hub)

    assert isinstance(error, NotFound)
    assert error.message == f"no model o/n on {ENDPOINT}, or it is private"
    assert error.hint is not None
    assert f"{ENDPOINT}/o/n" in error.hint
    assert "HF_TOKEN" in error.hint


def test_with_a_token_that_is_not_enough_it_says_so() -> None:
    """The token was accepted: it may not read it, or there is nothing."""
    error = refused(FakeHf(FILES, override=lambda url: NO_REPO), token="hf_1")

    assert isinstance(error, NotFound)
    assert "your token may not read it" in error.message


@pytest.mark.parametrize(("kind", "other"), [("model", "dataset"), ("dataset", "space")])
def test_a_repository_of_another_kind_is_named(kind: Kind, other: Kind) -> None:
    """The most frequent mistake; the hint is what to type."""
    error = refused(FakeHf(FILES, kind=other), kind=kind)

    assert isinstance(error, NotFound)
    assert error.hint == f"use --repo-type {other}: {ENDPOINT}/{other}s/o/n"


def test_a_missing_revision_is_told_from_a_missing_repository() -> None:
    """With the names that there are."""
    error = refused(FakeHf(FILES, revisions={"main": COMMIT, "v1": OTHER}), "v2")

    assert isinstance(error, NotFound)
    assert error.message == f"no revision 'v2' in o/n on {ENDPOINT}"
    assert error.hint == "it has main, v1"


@pytest.mark.parametrize("there", [True, False])
def test_a_mirror_that_says_only_404_is_asked_what_is_missing(there: bool) -> None:
    """One call more tells the revision from the repository."""
    hub = FakeHf(FILES)
    answers = {f"{ENDPOINT}/api/models/o/n": answer({"id": "o/n"})} if there else {}
    hub.override = lambda url: answers.get(url, refusal(404))

    error = refused(hub, "v2")

    assert isinstance(error, NotFound)
    assert ("no revision 'v2'" in error.message) == there
    assert ("no model o/n" in error.message) == (not there)


def test_a_gated_repository_names_the_page_where_access_is_asked_for() -> None:
    """Its description and tree are public, its files are not: found out before the first file."""
    hub = FakeHf(FILES, gated="manual", token="hf_1")

    anonymous, stranger = refused(hub), refused(hub, token="hf_2")

    for error in (anonymous, stranger):
        assert isinstance(error, Unauthorized)
        assert "gated" in error.message
        assert f"ask for access at {ENDPOINT}/o/n" in (error.hint or "")
    assert "HF_TOKEN" in (anonymous.hint or "")
    assert "account of your token" in stranger.message


@pytest.mark.parametrize(
    "response",
    [refusal(403, "GatedRepo"), refusal(401, "GatedRepo"), refusal(401), NO_REPO],
)
def test_whatever_the_access_check_says_of_it_it_is_gated(response: Response) -> None:
    """It was seen a moment before: it is not missing."""
    error = refused(FakeHf(FILES, gated="auto", override=on("/auth-check", response)))

    assert isinstance(error, Unauthorized)
    assert "gated" in error.message


def test_who_has_access_to_a_gated_repository_gets_it() -> None:
    """One call more than for others."""
    hub = FakeHf(FILES, gated="auto", token="hf_1")

    assert len(resolve(hub, token="hf_1").files) == len(FILES)
    assert "/api/models/o/n/auth-check" in hub.asked()


@pytest.mark.parametrize("response", [refusal(404), refusal(405), answer("")])
def test_a_mirror_without_an_access_check_is_no_obstacle(response: Response) -> None:
    """The files themselves will say."""
    hub = FakeHf(FILES, gated="auto", override=on("/auth-check", response))

    assert len(resolve(hub).files) == len(FILES)


def test_others_are_not_asked_about_access() -> None:
    """A call of each run is saved."""
    hub = FakeHf(FILES)

    resolve(hub)

    assert not any("auth-check" in url for url in hub.urls)


@pytest.mark.parametrize(
    "response",
    [
        refusal(403, "", "Access to this resource is disabled."),
        answer({"sha": COMMIT, "disabled": True}),
    ],
)
def test_a_disabled_repository_is_nobodys_to_read(response: Response) -> None:
    """No token helps: the hint is the page only."""
    error = refused(FakeHf(FILES, override=on("/revision/main", response)))

    assert type(error) is AccessError
    assert "disabled" in error.message
    assert f"{ENDPOINT}/o/n" in (error.hint or "")
    assert "token" not in (error.hint or "")


@pytest.mark.parametrize("message", ["", "Invalid credentials in Authorization header"])
def test_a_token_that_is_not_accepted_is_the_trouble(message: str) -> None:
    """Not the repository: whoever looks for its name looks in vain. The token is not shown."""
    hub = FakeHf(FILES, override=lambda url: refusal(401, "", message))

    error = refused(hub, token="hf_SECRET")

    assert isinstance(error, Unauthorized)
    assert "does not accept the token" in error.message
    assert f"{ENDPOINT}/settings/tokens" in (error.hint or "")
    assert "hf_SECRET" not in f"{error.message} {error.hint}"


def test_any_other_refusal_has_the_words_of_the_hub() -> None:
    """In one clean line, with the page to visit."""
    words = "This token may not\n\x1b[2Jdo that"
    error = refused(FakeHf(FILES, override=lambda url: refusal(403, "", words)), token="hf_1")

    assert isinstance(error, Unauthorized)
    assert error.message == f"{ENDPOINT} refuses o/n: This token may not [2Jdo that"
    assert f"{ENDPOINT}/o/n" in (error.hint or "")


@pytest.mark.parametrize(
    "response",
    [
        Response(status=200, headers={}, body=b"<html>"),
        answer([]),
        answer({"sha": "main"}),
        refusal(400, "", "bad request"),
    ],
)
def test_what_is_no_answer_of_a_hub_is_a_protocol_error(response: Response) -> None:
    """A page that a proxy puts in between, or another kind of server."""
    assert isinstance(refused(FakeHf(FILES, override=lambda url: response)), ProtocolError)


# -- waiting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"ratelimit": '"api";r=0;t=55'}, 55.0),
        ({"retry_after": "7"}, 7.0),
        ({"ratelimit": '"api";r=0;t=55', "retry_after": "7"}, 7.0),
    ],
)
def test_a_used_up_allowance_is_waited_for(headers: dict[str, str], seconds: float) -> None:
    """429 on the first call, with the time in either header: then it goes on."""
    waits: list[float] = []
    first = iter([answer({"error": "slow down"}, 429, **headers)])
    hub = FakeHf(FILES, override=lambda url: next(first, None))
    patience = Patience(notify=lambda reason, wait: waits.append(wait), chance=lambda: 0.5)
    here = HuggingFaceHub(ENDPOINT, None, Api(hub, patience))

    snapshot = virtual(lambda: here.resolve(RepoRef("huggingface", "model", "o", "n")))

    assert len(snapshot.files) == len(FILES)
    assert waits == [seconds]


# -- secrets -----------------------------------------------------------------------------------


def test_the_token_goes_to_the_endpoint_only() -> None:
    """With every call there, and to no site that a redirect names."""
    hub = FakeHf(FILES, token="hf_1")
    away = Redirect(f"https://cdn.test/api/models/o/n/tree/{COMMIT}?recursive=true")
    hub.override = lambda url: away if "/tree/" in url and url.startswith(ENDPOINT) else None

    snapshot = resolve(hub, token="hf_1")

    sent = dict(zip(hub.urls, hub.headers, strict=True))
    assert sent.pop(away.url) == {}
    assert all(headers == {"Authorization": "Bearer hf_1"} for headers in sent.values())
    assert len(snapshot.files) == len(FILES)


def test_the_token_goes_with_the_bytes_and_is_not_shown() -> None:
    """A source has it for the origin of the endpoint; nothing prints it."""
    hub = FakeHf(FILES, token="hf_SECRET")
    here = client(hub, "hf_SECRET")
    snapshot = resolve(hub, token="hf_SECRET")

    (source,) = here.sources(snapshot, snapshot.files[0])

    assert source.credentials == {"Authorization": "Bearer hf_SECRET"}
    assert source.origin == here.origin
    assert "SECRET" not in f"{here!r} {source!r} {snapshot!r}"


def test_nothing_is_sent_without_a_token() -> None:
    """Anonymous is anonymous."""
    hub = FakeHf(FILES)

    snapshot = resolve(hub)

    assert all(headers == {} for headers in hub.headers)
    assert client(hub).sources(snapshot, snapshot.files[0])[0].credentials == {}

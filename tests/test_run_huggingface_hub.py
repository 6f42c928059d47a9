"""Whole downloads from a Hugging Face site in memory: what is asked, proven, and told to whom."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from pathlib import Path

import anyio
import pytest

from modelhaul import HaulError, IntegrityError, Report
from modelhaul.events import Checking, Event, Finished, Note
from modelhaul.hubs.huggingface import file_url
from modelhaul.net.transport import Response
from tests.engine.harness import MIB, payload
from tests.hubs.fakehf import COMMIT, ENDPOINT, answer, refusal
from tests.support.hfsite import REF, REPO, STORE, HfSite, client
from tests.support.network import Asked, FakeNetwork, Fault, Served
from tests.support.virtual import virtual

FILES = {
    "config.json": b'{"a": 1}\n',
    "empty": b"",
    "vocab.txt": payload(2 * MIB + 3, 1),
    "sub/model.bin": payload(5 * MIB + 17, 2),
}
SIZE = sum(map(len, FILES.values()))


def download(site: FakeNetwork, folder: Path, name: str = REPO, **wish: object) -> Report:
    """Bring the repository to `folder/m`."""

    async def main() -> Report:
        async with client(site, folder) as here:
            return await here.download(name, local_dir=folder / "m", **wish)  # type: ignore[arg-type]

    return virtual(main)


def with_saved_token(site: FakeNetwork, folder: Path, name: str = REPO, **wish: object) -> Report:
    """The same in real time, with a token in the file where `hf auth login` leaves it."""
    endpoint = wish.pop("hf_endpoint", ENDPOINT)
    folder.mkdir(exist_ok=True)
    if not (folder / "token").exists():
        (folder / "token").write_text("hf_saved\n")

    async def main() -> Report:
        async with client(site, folder, hf_token=None, hf_endpoint=endpoint) as here:
            return await here.download(name, local_dir=folder / "m", **wish)  # type: ignore[arg-type]

    return anyio.run(main)


def tokens(site: HfSite) -> dict[str, set[str | None]]:
    """What was sent as Authorization, by origin, with calls and with requests for bytes."""
    sent: dict[str, set[str | None]] = {}
    pairs = [*zip(site.hub.urls, site.hub.headers, strict=True)]
    for url, headers in [*pairs, *((asked.url, asked.headers) for asked in site.asked)]:
        origin = "/".join(url.split("/")[:3])
        sent.setdefault(origin, set()).add(headers.get("Authorization"))
    return sent


def here(folder: Path) -> dict[str, bytes]:
    """The files of the target."""
    return {path: (folder / "m" / path).read_bytes() for path in FILES}


def test_a_repository_arrives_and_every_file_is_proven(tmp_path: Path) -> None:
    """LFS files by SHA-256, the others by their git names, small and large ones."""
    site, seen = HfSite(FILES), list[Event]()

    report = download(site, tmp_path, on_event=seen.append)

    assert here(tmp_path) == FILES
    assert report.verified
    assert (report.name, report.commit, report.revision) == (REPO, COMMIT, None)
    assert {file.path: file.sha256 for file in report.files} == {
        path: hashlib.sha256(data).hexdigest() for path, data in FILES.items()
    }
    (finished,) = [event for event in seen if isinstance(event, Finished)]
    assert (finished.verified, finished.by_git_name) == (True, 3)
    assert site.sent == SIZE


def test_large_files_are_always_asked_for_in_ranges(tmp_path: Path) -> None:
    """The Hub's CDN answers 400 to a request for the whole of a very large one."""
    site = HfSite(FILES)

    download(site, tmp_path)

    large = [asked for asked in site.asked if "vocab" in asked.url or "model.bin" in asked.url]
    assert len(large) >= 3
    assert not any(asked.whole for asked in large)


@pytest.mark.parametrize("force", [False, True])
def test_a_second_run_keeps_what_is_there(tmp_path: Path, force: bool) -> None:
    """By memory, and by force by hashing again; no byte comes, and the report has all digests."""
    first = download(HfSite(FILES), tmp_path)
    site = HfSite(FILES)

    second = download(site, tmp_path, force=force)

    assert site.asked == []
    assert {file.how for file in second.files} == {"kept"}
    assert second.verified
    assert [file.sha256 for file in second.files] == [file.sha256 for file in first.files]


def test_files_that_were_there_are_known_by_their_git_names(tmp_path: Path) -> None:
    """Somebody copied them: hashed once, kept, reported with their SHA-256."""
    for path, data in FILES.items():
        (tmp_path / "m" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "m" / path).write_bytes(data)
    site = HfSite(FILES)

    report = download(site, tmp_path)

    assert site.asked == []
    assert report.verified
    assert all(file.sha256 == hashlib.sha256(FILES[file.path]).hexdigest() for file in report.files)


@pytest.mark.parametrize("path", ["config.json", "vocab.txt", "sub/model.bin"])
def test_wrong_bytes_never_stand_under_the_final_name(tmp_path: Path, path: str) -> None:
    """A site whose bytes and listing disagree, for each way in which a file is judged."""
    site = HfSite(FILES)
    listed = site.hub.row
    wrong = {"oid": "1" * 40, "lfs": {"oid": "1" * 64, "size": len(FILES[path])}}

    def lie(name: str, size: int) -> dict[str, object]:
        row = listed(name, size)
        return {**row, **{key: wrong[key] for key in row if key in wrong}} if name == path else row

    site.hub.row = lie

    with pytest.raises(HaulError) as caught:
        download(site, tmp_path)

    assert isinstance(caught.value.__cause__ or caught.value, IntegrityError)
    assert not (tmp_path / "m" / path).exists()
    others = FILES.keys() - {path}
    assert {name: (tmp_path / "m" / name).read_bytes() for name in others} == {
        name: FILES[name] for name in others
    }


def test_a_file_behind_the_hubs_own_cache_is_fetched_with_the_token(tmp_path: Path) -> None:
    """307 to another address of the same site: its query stays, and it is still the same party."""
    site = HfSite(FILES)
    url = file_url(ENDPOINT, REF, COMMIT, "config.json")
    cached = f"{ENDPOINT}/api/resolve-cache/models/o/n/{COMMIT}/config.json?%2Fo%2Fn=&etag=%22a%22"
    site.files[cached] = site.files[url]
    site.files[url] = Served(redirect=lambda request: cached)

    report = download(site, tmp_path, files=["config.json"], token="hf_1")

    assert report.verified
    assert [(asked.url, asked.headers) for asked in site.asked] == [
        (url, {"Authorization": "Bearer hf_1"}),
        (cached, {"Authorization": "Bearer hf_1"}),
    ]


# -- the three things that the official client dies of -------------------------------------------


def test_an_address_that_ends_every_moment_is_signed_anew(tmp_path: Path) -> None:
    """Nobody says when it ends: the 403 does. Each new one is asked for once and shared."""
    data = payload(24 * MIB)
    site = HfSite({"w.bin": data}, rate=4e6, seconds=0.5)

    async def main() -> Report:
        async with client(site, tmp_path, connections=2, host_connections=2) as here:
            return await here.download(REPO, local_dir=tmp_path / "m")

    report = virtual(main)

    assert (tmp_path / "m" / "w.bin").read_bytes() == data
    assert report.verified
    assert len(site.issued) > 2
    resolved = [asked for asked in site.asked if asked.url.startswith(ENDPOINT)]
    assert len([asked for asked in resolved if asked.url.endswith(".bin")]) == len(site.issued)


@pytest.mark.fault(
    "Hugging Face: a signed address ends under eight connections at once",
    "one new address for all of them, no byte twice",
    number=41,
)
def test_all_who_meet_the_end_of_an_address_get_one_new_one(tmp_path: Path) -> None:
    """Each works for eight requests: the eight that come next are refused together."""
    uses, refused = Counter[str](), Counter[str]()

    def used_up(asked: Asked) -> Fault | None:
        if STORE not in asked.url:
            return None
        uses[asked.url] += 1
        if uses[asked.url] <= 8:
            return None
        refused[asked.url] += 1
        return Fault(status=403, delay=1.0)  # or the first would have a new one before they come

    data = payload(48 * MIB)
    site = HfSite({"w.bin": data}, used_up, rate=4e6)

    async def main() -> Report:
        async with client(site, tmp_path, connections=8, host_connections=8) as here:
            return await here.download(REPO, local_dir=tmp_path / "m")

    report = virtual(main)

    assert (tmp_path / "m" / "w.bin").read_bytes() == data
    assert report.verified
    assert max(refused.values()) > 4  # it is no test if they come one by one
    assert len(site.issued) == len(refused) + 1
    assert site.sent == len(data)


def test_an_address_that_says_it_is_about_to_end_is_not_used_again(tmp_path: Path) -> None:
    """A second of life is within the margin: every request gets its own, and none is refused."""
    site = HfSite(FILES, until=f"&Expires={int(time.time()) + 1}")

    download(site, tmp_path)

    assert here(tmp_path) == FILES
    assert len(site.issued) == len([asked for asked in site.asked if STORE in asked.url])


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=503),
        Fault(status=429, headers={"ratelimit": '"resolvers";r=0;t=60'}),
        Fault(status=429, headers={"retry-after": "30"}),
    ],
)
def test_a_store_that_is_busy_is_asked_again(tmp_path: Path, fault: Fault) -> None:
    """The first requests are refused; what is asked for as a pause is kept to."""
    refused: list[float] = []

    def busy(asked: Asked) -> Fault | None:
        if STORE not in asked.url or len(refused) == 4:
            return None
        refused.append(asked.time)
        return fault

    site = HfSite(FILES, busy)

    report = download(site, tmp_path)

    assert here(tmp_path) == FILES
    assert report.verified
    assert len(refused) == 4
    pause = {"ratelimit": 60.0, "retry-after": 30.0}.get("".join(fault.headers), 0.0)
    times = [asked.time for asked in site.asked if STORE in asked.url]
    assert all(after - before >= pause for before, after in zip(refused, times[1:5], strict=True))


@pytest.mark.fault(
    "Hugging Face: the first call of all is refused with 429",
    "told, waited for as long as is asked, exit 0",
    number=36,
)
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"ratelimit": '"api";r=0;t=55'}, 55.0), ({"retry_after": "1"}, 1.0)],
)
def test_an_allowance_that_is_used_up_at_the_first_call_is_waited_for(
    tmp_path: Path, headers: dict[str, str], seconds: float
) -> None:
    """429 with either header: the user is told, and then it goes on."""
    site, seen = HfSite(FILES), list[Event]()
    first = iter([answer({}, 429, **headers)])
    asked: list[float] = []

    def busy(url: str) -> Response | None:
        asked.append(anyio.current_time())
        return next(first, None)

    site.hub.override = busy

    download(site, tmp_path, on_event=seen.append)

    assert here(tmp_path) == FILES
    assert site.hub.urls[0] == site.hub.urls[1]
    assert asked[1] - asked[0] >= seconds
    assert any(getattr(event, "seconds", None) == seconds for event in seen)


# -- tokens --------------------------------------------------------------------------------------


def test_the_saved_token_goes_to_the_hub_and_nowhere_else(tmp_path: Path) -> None:
    """Not to the store behind it; ModelScope's goes nowhere at all."""
    site = HfSite(FILES)

    with_saved_token(site, tmp_path)

    assert tokens(site) == {ENDPOINT: {"Bearer hf_saved"}, STORE: {None}}


def test_a_token_that_is_given_wins_over_the_saved_one(tmp_path: Path) -> None:
    """And an empty one means none."""
    given, none = HfSite(FILES), HfSite(FILES)

    with_saved_token(given, tmp_path / "a", token="hf_given")
    with_saved_token(none, tmp_path / "b", token="")

    assert tokens(given)[ENDPOINT] == {"Bearer hf_given"}
    assert tokens(none)[ENDPOINT] == {None}


def test_the_saved_token_does_not_go_to_a_site_named_for_one_download(tmp_path: Path) -> None:
    """The file does not say for which site it is: `--endpoint` alone is no reason to send it."""
    site = HfSite(FILES)
    site.hub.override = lambda url: refusal(404)

    with pytest.raises(HaulError):
        with_saved_token(site, tmp_path, endpoint="https://mirror.test")

    assert tokens(site) == {"https://mirror.test": {None}}


def test_the_saved_token_is_not_sent_in_the_clear(tmp_path: Path) -> None:
    """To a site in the network, whoever has set it."""
    site = HfSite(FILES)
    site.hub.override = lambda url: refusal(404)

    with pytest.raises(HaulError):
        with_saved_token(site, tmp_path, hf_endpoint="http://hf.test")

    assert tokens(site) == {"http://hf.test": {None}}


@pytest.mark.parametrize("data", [b"\xff\xfe", b"two\nlines", b"x" * 5000])
def test_a_file_that_holds_no_token_is_told_and_left_alone(tmp_path: Path, data: bytes) -> None:
    """The download goes on as anonymous."""
    (tmp_path / "token").write_bytes(data)
    site, seen = HfSite(FILES), list[Event]()

    with_saved_token(site, tmp_path, on_event=seen.append)

    assert tokens(site)[ENDPOINT] == {None}
    (note,) = [event.message for event in seen if isinstance(event, Note)]
    assert str(tmp_path / "token") in note


def test_a_hugging_face_token_never_goes_to_modelscope(tmp_path: Path) -> None:
    """The other way round: a plain name is ModelScope's, and its site gets its own token only."""
    site = HfSite(FILES)
    site.hub.override = lambda url: refusal(404)

    async def main() -> None:
        async with client(site, tmp_path, hf_token="hf_SECRET") as here:
            await here.download("o/n", local_dir=tmp_path / "m")

    with pytest.raises(HaulError):
        virtual(main)

    assert site.hub.urls
    assert all(url.startswith("https://modelscope.test/") for url in site.hub.urls)
    assert "hf_SECRET" not in str(site.hub.headers)
    assert all(headers["Authorization"] == "Bearer ms-SECRET" for headers in site.hub.headers)


# -- what is asked for ---------------------------------------------------------------------------


def test_the_hub_may_be_named_beside_the_name(tmp_path: Path) -> None:
    """`hub="huggingface"` is the prefix in other words."""
    report = download(HfSite(FILES), tmp_path, "o/n", hub="huggingface", files=["config.json"])

    assert report.name == REPO
    assert [file.path for file in report.files] == ["config.json"]


def test_a_plan_asks_for_no_file(tmp_path: Path) -> None:
    """Two calls are enough to know what would be fetched, digests included."""
    site = HfSite(FILES)

    async def main() -> int:
        async with client(site, tmp_path) as here:
            return (await here.plan(REPO, local_dir=tmp_path / "m")).fetch

    assert virtual(main) == SIZE
    assert site.asked == []
    assert len(site.hub.urls) == 2


def test_blobs_in_the_store_that_repositories_share_are_hashed_once(tmp_path: Path) -> None:
    """Since 1.33 the official client leaves files of xet there, and links to them from the blobs.

    They are proven like any others, remembered, and left where they are.
    """
    data, name = FILES["sub/model.bin"], hashlib.sha256(FILES["sub/model.bin"]).hexdigest()
    store, xet = tmp_path / "hf" / "blobs", "e9" * 32
    (store / xet[:2]).mkdir(parents=True)
    (store / ".huggingface-shared-blobs").write_text("1\n")
    (store / xet[:2] / xet).write_bytes(data)
    link = tmp_path / "hf" / "models--o--n" / "blobs" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(f"../../blobs/{xet[:2]}/{xet}")
    site = HfSite(FILES)

    def checked(**wish: object) -> list[int]:
        """Bytes that a run hashes; it brings the whole."""
        seen: list[Event] = []

        async def main() -> Report:
            async with client(site, tmp_path) as here:
                return await here.download(REPO, on_event=seen.append, **wish)  # type: ignore[arg-type]

        report = virtual(main)
        assert (Path(report.path) / "sub/model.bin").read_bytes() == data
        assert report.verified
        return [event.size for event in seen if isinstance(event, Checking)]

    assert checked() == [len(data)]
    assert checked() == []
    assert checked(force=True) == [SIZE]
    assert not any("model.bin" in asked.url for asked in site.asked)
    assert os.readlink(link) == f"../../blobs/{xet[:2]}/{xet}"


def test_a_cache_is_the_hubs_own(tmp_path: Path) -> None:
    """Without a folder it goes to the place of the Hugging Face tools."""
    site = HfSite(FILES)

    async def main() -> Report:
        async with client(site, tmp_path) as here:
            return await here.download(REPO)

    report = virtual(main)

    assert Path(report.path).is_relative_to(tmp_path / "hf")
    assert (Path(report.path) / "config.json").read_bytes() == FILES["config.json"]

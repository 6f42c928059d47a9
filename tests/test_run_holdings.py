"""Whole downloads of what lies elsewhere on the disk already; both hubs in memory."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from modelhaul import Client
from modelhaul.core.plan import Action
from modelhaul.events import Checking, Event
from tests.engine.harness import MIB, git_sha1, payload
from tests.support.hfsite import HfSite
from tests.support.inline import InlineThreads
from tests.support.network import Served
from tests.support.site import REPO, site
from tests.support.virtual import virtual
from tests.support.web import Web, bring, settings

WEIGHTS, CONFIG = payload(3 * MIB, 1), payload(3000, 2)
FILES = {"w.bin": WEIGHTS, "config.json": CONFIG}
NEWER = {"w.bin": WEIGHTS, "config.json": payload(3001, 3)}


def fetched(web: Web) -> int:
    """Bytes of files that were sent so far."""
    return sum(web.sent)


def blob(path: Path, data: bytes, name: str) -> Path:
    """A file in the official client's cache of another repository."""
    place = path / "hf" / "models--some--other" / "blobs" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return place


@pytest.mark.parametrize(("first", "then"), [("hf:o/n", REPO), (REPO, "hf:o/n")])
def test_what_one_hub_brought_is_not_fetched_from_the_other(
    tmp_path: Path, first: str, then: str
) -> None:
    """Into the caches: not one byte, also of the small file that only git or nobody names."""
    web = Web(site(FILES), HfSite(FILES))
    bring(web, tmp_path, first)
    before = fetched(web)

    report = bring(web, tmp_path, then)

    assert fetched(web) == before
    assert {file.how for file in report.files} == {"copied"}
    for name, data in FILES.items():
        assert Path(report.path, name).read_bytes() == data
    assert report.verified


def test_only_what_differs_is_fetched(tmp_path: Path) -> None:
    """The other hub has a newer file."""
    web = Web(site(NEWER), HfSite(FILES))
    bring(web, tmp_path, "hf:o/n")
    before = fetched(web)

    report = bring(web, tmp_path, REPO)

    assert fetched(web) - before == len(NEWER["config.json"])
    assert Path(report.path, "config.json").read_bytes() == NEWER["config.json"]


def test_an_earlier_target_counts_wherever_it_is(tmp_path: Path) -> None:
    """Two plain folders; the first one is left as it was."""
    web = Web(site(FILES), HfSite({}))
    bring(web, tmp_path, REPO, local_dir=tmp_path / "one")
    before = fetched(web)

    bring(web, tmp_path, REPO, local_dir=tmp_path / "two")

    assert fetched(web) == before
    one, two = (tmp_path / name / "w.bin" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes() == WEIGHTS
    assert one.stat().st_ino != two.stat().st_ino  # an edit of one must not show in the other


def test_a_blob_that_the_official_client_left_is_taken(tmp_path: Path) -> None:
    """Of whatever repository, by its name; hashed on the way."""
    blob(tmp_path, WEIGHTS, hashlib.sha256(WEIGHTS).hexdigest())
    blob(tmp_path, CONFIG, git_sha1(CONFIG))
    web = Web(site({}), HfSite(FILES))

    report = bring(web, tmp_path, "hf:o/n", local_dir=tmp_path / "m")

    assert fetched(web) == 0
    assert {file.how for file in report.files} == {"copied"}


def test_a_blob_with_other_bytes_than_its_name_says_is_not_believed(tmp_path: Path) -> None:
    """A disk changed it: noticed while it is copied, and fetched."""
    blob(tmp_path, WEIGHTS[:-1] + b"x", hashlib.sha256(WEIGHTS).hexdigest())
    web = Web(site(FILES), HfSite({}))

    report = bring(web, tmp_path, REPO, local_dir=tmp_path / "m")

    assert (tmp_path / "m" / "w.bin").read_bytes() == WEIGHTS
    assert fetched(web) == len(WEIGHTS) + len(CONFIG)
    assert any("fetched instead" in note for note in report.notes)


@pytest.mark.usefixtures("usual_umask")
def test_two_caches_of_hugging_face_hold_a_large_file_once(tmp_path: Path) -> None:
    """Two names of one file: nothing is fetched or written, and nothing hashed in later runs."""
    web, seen = Web(site({}), HfSite(FILES)), list[Event]()
    caches = [tmp_path / "one", tmp_path / "two"]
    first = Path(bring(web, tmp_path, "hf:o/n", cache_dir=caches[0]))
    before = fetched(web)

    second = Path(bring(web, tmp_path, "hf:o/n", cache_dir=caches[1]))
    again = [
        bring(web, tmp_path, "hf:o/n", cache_dir=cache, on_event=seen.append) for cache in caches
    ]

    assert fetched(web) == before
    assert (first / "w.bin").samefile(second / "w.bin")
    assert not (first / "config.json").samefile(second / "config.json")
    assert {name: (second / name).read_bytes() for name in FILES} == FILES
    assert {file.how for report in again for file in report.files} == {"kept"}
    assert not [event for event in seen if isinstance(event, Checking)]


@pytest.mark.usefixtures("usual_umask")
def test_a_blob_that_the_official_client_left_is_the_same_file_in_another_repository(
    tmp_path: Path,
) -> None:
    """Nobody has hashed it before; its own name is proven from now on, too."""
    held = blob(tmp_path, WEIGHTS, hashlib.sha256(WEIGHTS).hexdigest())
    web = Web(site({}), HfSite(FILES))

    report = bring(web, tmp_path, "hf:o/n")

    assert Path(report.path, "w.bin").samefile(held)
    assert fetched(web) == len(CONFIG)


@pytest.mark.parametrize("how", [{"settings": {"reuse": False}}, {"force": True}])
def test_who_wants_it_from_the_network_gets_it_from_there(
    tmp_path: Path, how: dict[str, object]
) -> None:
    """MODELHAUL_REUSE=0, or --force, which believes nothing that is here."""
    web = Web(site(FILES), HfSite({}))
    bring(web, tmp_path, REPO, local_dir=tmp_path / "one")
    before = fetched(web)

    bring(web, tmp_path, REPO, local_dir=tmp_path / "two", **how)

    assert fetched(web) == 2 * before


def test_a_plan_says_what_would_be_copied(tmp_path: Path) -> None:
    """And fetches nothing."""
    web = Web(site(FILES), HfSite({}))
    bring(web, tmp_path, REPO, local_dir=tmp_path / "one")
    before = fetched(web)

    async def main() -> None:
        async with Client(settings(tmp_path), transport=web, threads=InlineThreads()) as client:
            plan = await client.plan(REPO, local_dir=tmp_path / "two")
        assert [file.action for file in plan] == [Action.COPY, Action.COPY]
        assert (plan.fetch, plan.reuse, plan.copy) == (0, 0, len(WEIGHTS) + len(CONFIG))

    virtual(main)

    assert fetched(web) == before


def test_a_url_with_a_known_digest_is_found_here_too(tmp_path: Path) -> None:
    """`get` with --sha256: one byte tells the size."""
    web = Web(site(FILES), HfSite({}))
    web.ms.files["https://hub.test/any"] = Served(WEIGHTS)
    bring(web, tmp_path, REPO, local_dir=tmp_path / "one")
    before = fetched(web)

    async def main() -> None:
        async with Client(settings(tmp_path), transport=web, threads=InlineThreads()) as client:
            await client.get(
                "https://hub.test/any",
                path=tmp_path / "w",
                sha256=hashlib.sha256(WEIGHTS).hexdigest(),
            )

    virtual(main)

    assert (tmp_path / "w").read_bytes() == WEIGHTS
    assert fetched(web) - before == 1

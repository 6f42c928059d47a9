"""The embedded hub on a real socket, asked by a plain HTTP client."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from urllib.parse import quote_plus, urlsplit

import pytest
from yarl import URL

from modelhaul.engine.threads import WorkerThreads
from modelhaul.errors import StorageError
from modelhaul.server.app import describe, hub_app
from modelhaul.server.options import ServeOptions
from modelhaul.server.serve import running
from modelhaul.server.shelf import Shelf
from modelhaul.store.index import ProvenIndex
from tests.server.conftest import Run, Shelve
from tests.server.serving import Asked, serving

MODEL = "/api/v1/models/o/n"
DATASET = "/api/v1/datasets/o/d"
FILES = {
    "o/n/config.json": b"{}",
    "o/n/sub dir/模型+a&b.txt": b"odd",
    "o/n/sub/deep/w.bin": b"0123456789" * 10,
    "o/n@v1/config.json": b'{"old": 1}',
    "datasets/o/d/data.csv": b"1,2",
}


def paths(asked: Asked) -> list[str]:
    return [row["Path"] for row in asked.data["Files"]]


# -- listings ----------------------------------------------------------------------------------


def test_a_model_is_listed_with_folders_and_digests(run: Run, shelve: Shelve) -> None:
    """The fields that the official clients need, in both kinds of rows."""

    async def main() -> None:
        async with serving(shelve(FILES)) as hub:
            listing = await hub.get(f"{MODEL}/repo/files?Revision=master&Recursive=True")
            rows = {row["Path"]: row for row in listing.data["Files"]}
            (commit,) = (await hub.get(f"{MODEL}/commits?Ref=master")).data["Commit"]

        assert list(rows) == sorted(rows)
        assert {path: row["Type"] for path, row in rows.items()} == {
            "config.json": "blob",
            "sub": "tree",
            "sub dir": "tree",
            "sub dir/模型+a&b.txt": "blob",
            "sub/deep": "tree",
            "sub/deep/w.bin": "blob",
        }
        weights = rows["sub/deep/w.bin"]
        assert weights["Name"] == "w.bin"
        assert weights["Size"] == 100
        assert weights["Sha256"] == hashlib.sha256(FILES["o/n/sub/deep/w.bin"]).hexdigest()
        assert weights["Revision"] == commit["Id"]

    run(main)


def test_a_folder_can_be_listed_alone(run: Run, shelve: Shelve) -> None:
    """`Root` with or without slashes, recursive or not; paths stay those of the repository."""
    deep = ["sub/deep", "sub/deep/w.bin"]
    everything = ["config.json", "sub", "sub dir", "sub dir/模型+a&b.txt", *deep]
    expected = {
        "": ["config.json", "sub", "sub dir"],
        "Recursive=False": ["config.json", "sub", "sub dir"],
        "Recursive=True&Root=%2F": everything,
        "Recursive=true&Root=sub": deep,
        "Recursive=True&Root=%2Fsub%2F": deep,
        "Recursive=False&Root=sub": ["sub/deep"],
        "Recursive=False&Root=sub+dir": ["sub dir/模型+a&b.txt"],
        "Recursive=True&Root=su": [],
        "Recursive=True&Root=config.json": [],
        "Recursive=True&Root=..": [],
    }

    async def main() -> None:
        async with serving(shelve(FILES)) as hub:
            listed = {
                query: paths(await hub.get(f"{MODEL}/repo/files?{query}")) for query in expected
            }

        assert listed == expected

    run(main)


def test_a_long_listing_is_cut_like_the_real_one(run: Run, shelve: Shelve) -> None:
    """3000 entries and no word about it: clients have to cope, so ours is tested with it."""
    # Folders are entries too, and cost no hashing.
    files = {f"o/n/{tree:02}/{'d/' * 100}f": b"" for tree in range(32)}

    async def main() -> None:
        async with serving(shelve(files)) as hub:
            listing = await hub.get(f"{MODEL}/repo/files?Recursive=True")
            folder = await hub.get(f"{MODEL}/repo/files?Recursive=True&Root=31")

        assert len(paths(listing)) == 3000
        assert not any(path.startswith("31") for path in paths(listing))
        assert "TotalCount" not in listing.data
        assert len(paths(folder)) == 101

    run(main)


def test_a_dataset_is_listed_by_pages(run: Run, shelve: Shelve) -> None:
    """Pages of at most 200, until one is not full."""
    files = {f"datasets/o/d/{number:03}": b"" for number in range(450)}

    async def main() -> None:
        async with serving(shelve(files)) as hub:
            url = f"{DATASET}/repo/tree?Recursive=True"
            pages = [await hub.get(f"{url}&PageNumber={page}&PageSize=200") for page in range(1, 5)]
            small = await hub.get(f"{url}&PageNumber=2&PageSize=10")
            greedy = await hub.get(f"{url}&PageNumber=1&PageSize=100000")
            odd = await hub.get(f"{url}&PageNumber=x&PageSize=-1")
            zero = await hub.get(f"{url}&PageNumber=0&PageSize=0")

        assert [len(paths(page)) for page in pages] == [200, 200, 50, 0]
        assert [path for page in pages for path in paths(page)] == sorted(
            f"{n:03}" for n in range(450)
        )
        assert {page.data["TotalCount"] for page in pages} == {450}
        assert paths(small) == [f"{number:03}" for number in range(10, 20)]
        assert len(paths(greedy)) == 200
        assert len(paths(odd)) == 200
        assert len(paths(zero)) == 1

    run(main)


def test_a_dataset_has_a_number(run: Run, shelve: Shelve) -> None:
    """Old clients ask for the number first and list by it."""

    async def main() -> None:
        async with serving(shelve(FILES)) as hub:
            info = await hub.get(DATASET)
            number = info.data["Id"]
            listing = await hub.get(f"/api/v1/datasets/{number}/repo/tree?Recursive=True")
            unknown = await hub.get(f"/api/v1/datasets/{number + 1}/repo/tree?Recursive=True")

        assert type(number) is int
        assert "Type" in info.data
        assert paths(listing) == ["data.csv"]
        assert unknown.status == 404

    run(main)


# -- revisions ---------------------------------------------------------------------------------


def test_revisions_and_commits(run: Run, shelve: Shelve) -> None:
    """Each revision has one commit, which names it too; an unknown Ref has none."""

    async def main() -> None:
        async with serving(shelve(FILES)) as hub:
            table = (await hub.get(f"{MODEL}/revisions")).data["RevisionMap"]
            commits = {}
            for ref in ("", "Ref=master", "Ref=v1", "Ref=nope"):
                commits[ref] = (await hub.get(f"{MODEL}/commits?{ref}")).data["Commit"]
            tag = commits["Ref=v1"][0]["Id"]
            by_name = await hub.get(f"{MODEL}/repo/files?Revision=v1&Recursive=True")
            by_commit = await hub.get(f"{MODEL}/repo/files?Revision={tag}&Recursive=True")

        assert [row["Revision"] for row in table["Branches"]] == ["master"]
        assert [row["Revision"] for row in table["Tags"]] == ["v1"]
        assert commits[""] == commits["Ref=master"]
        assert commits["Ref=nope"] is None
        assert len(tag) == 40
        assert by_name.data == by_commit.data

    run(main)


def test_a_revision_has_its_own_files(run: Run, shelve: Shelve) -> None:
    """owner/name@v1 is served under Revision=v1, by query and by path."""

    async def main() -> None:
        async with serving(shelve(FILES)) as hub:
            asked = [
                await hub.get(f"{MODEL}/repo?Revision=v1&FilePath=config.json"),
                await hub.get("/models/o/n/resolve/v1/config.json"),
                await hub.get(f"{MODEL}/repo?FilePath=config.json"),
                await hub.get("/models/o/n/resolve/master/config.json"),
            ]

        assert [found.body for found in asked] == [b'{"old": 1}'] * 2 + [b"{}"] * 2

    run(main)


def test_a_repository_is_described_in_both_envelopes(run: Run, shelve: Shelve) -> None:
    """Clients probe the newer call before the older one."""

    async def main() -> None:
        async with serving(shelve(FILES)) as hub:
            old = await hub.get(MODEL)
            new = await hub.get("/openapi/v1/models/o/n")

        assert (old.data["Owner"], old.data["Name"]) == ("o", "n")
        assert json.loads(new.body)["success"] is True
        assert json.loads(new.body)["data"]["id"] == "o/n"

    run(main)


# -- what is not there -------------------------------------------------------------------------


NOWHERE = [
    "/",
    "/api/v1/models",
    "/api/v1/models/o",
    "/api/v1/models/o/unknown",
    "/api/v1/models/o/d",
    "/api/v1/datasets/o/n",
    "/api/v1/spaces/o/n",
    "/openapi/v1/models/o/unknown",
    "/api/v1/models/o/unknown/revisions",
    "/api/v1/models/o/unknown/commits",
    "/api/v1/models/o/unknown/repo/files",
    f"{MODEL}/repo/files?Revision=unknown",
    f"{MODEL}/repo/files?Revision={'f' * 40}",
    f"{DATASET}/repo/tree?Revision=unknown",
    "/api/v1/datasets/1/repo/tree",
    f"/api/v1/datasets/{'9' * 50}/repo/tree",
    f"{MODEL}/repo",
    f"{MODEL}/repo?FilePath=unknown",
    f"{MODEL}/repo?FilePath=sub",
    f"{MODEL}/repo?FilePath=",
    "/models/o/n/resolve/unknown/config.json",
]


def test_what_is_not_there_is_404_in_an_envelope(run: Run, shelve: Shelve) -> None:
    """Clients read Code, Message and RequestId of an error, whatever was asked."""

    async def main() -> None:
        async with serving(shelve(FILES)) as hub:
            found = {path: await hub.get(path) for path in NOWHERE}

        envelopes = {path: json.loads(asked.body) for path, asked in found.items()}
        assert {path: asked.status for path, asked in found.items()} == dict.fromkeys(NOWHERE, 404)
        for envelope in envelopes.values():
            assert (envelope["Code"], envelope["Success"]) == (10010205001, False)
            assert envelope["Message"]
            assert envelope["RequestId"]

    run(main)


def test_no_path_leaves_the_repository(run: Run, shelve: Shelve, tmp_path: Path) -> None:
    """Only names that were listed are served: there is nothing to climb out of."""
    root = shelve({**FILES, "o/secret": b"SECRET", "o/n/.modelhaul/part": b"SECRET"})
    (tmp_path / "outside").write_bytes(b"SECRET")
    names = [
        "../secret",
        "../../secret",
        "../n@v1/config.json",
        "sub/../../secret",
        "sub/../config.json",
        "./config.json",
        "//config.json",
        f"{root}/o/n/config.json",
        f"{tmp_path}/outside",
        "/etc/passwd",
        "config.json\x00",
        "config.json/",
        "..\\secret",
        ".modelhaul/part",
    ]
    asked = [
        form.format(quote_plus(name))
        for name in names
        for form in (
            f"{MODEL}/repo?FilePath={{}}",
            "/models/o/n/resolve/master/{}",
            f"{MODEL}/repo/files?Revision={{}}",
        )
    ]

    async def main() -> None:
        async with serving(root) as hub:
            found = {path: await hub.get(path) for path in asked}

        assert {path: seen.status for path, seen in found.items()} == dict.fromkeys(asked, 404)
        assert not any(b"SECRET" in seen.body for seen in found.values())

    run(main)


# -- who may see it ----------------------------------------------------------------------------

EVERYTHING = [
    MODEL,
    "/openapi/v1/models/o/n",
    f"{MODEL}/revisions",
    f"{MODEL}/commits",
    f"{MODEL}/repo/files?Recursive=True",
    f"{MODEL}/repo?FilePath=config.json",
    "/models/o/n/resolve/master/config.json",
    f"{DATASET}/repo/tree",
]


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer ms-good"},
        {"Cookie": "m_session_id=ms-good"},
        {"Cookie": "csrf=x; m_session_id=ms-good"},
        {"Authorization": "Bearer ms-good", "Cookie": "m_session_id=ms-good"},
    ],
    ids=["header", "cookie", "cookies", "both"],
)
def test_the_token_may_come_as_header_or_cookie(
    run: Run, shelve: Shelve, headers: dict[str, str]
) -> None:
    """New clients send both, old ones the cookie only."""

    async def main() -> None:
        async with serving(shelve(FILES), token="ms-good") as hub:
            statuses = {path: (await hub.get(path, **headers)).status for path in EVERYTHING}

        assert set(statuses.values()) == {200}

    run(main)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer ms-bad"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer ms-goodx"},
        {"Authorization": "Basic ms-good"},
        {"Cookie": "m_session_id=ms-bad"},
        {"Cookie": "session=ms-good"},
        {"Authorization": "Bearer ms-bad", "Cookie": "m_session_id=ms-good"},
    ],
)
def test_without_the_token_there_is_nothing(
    run: Run, shelve: Shelve, headers: dict[str, str]
) -> None:
    """Like the real site: what may not be seen does not exist, on every call."""

    async def main() -> None:
        async with serving(shelve(FILES), token="ms-good") as hub:
            number = (await hub.get(DATASET, Authorization="Bearer ms-good")).data["Id"]
            wanted = [*EVERYTHING, f"/api/v1/datasets/{number}/repo/tree"]
            statuses = {path: (await hub.get(path, **headers)).status for path in wanted}

        assert set(statuses.values()) == {404}

    run(main)


def test_the_options_do_not_show_token_and_key() -> None:
    """They may be logged."""
    assert "SECRET" not in repr(ServeOptions(token="SECRET", secret=b"SECRET"))


# -- files -------------------------------------------------------------------------------------


def test_a_file_with_any_name_is_served(run: Run, shelve: Shelve) -> None:
    """As the clients quote it: `+` for a space, `%2F` for a slash."""

    async def main() -> None:
        async with serving(shelve(FILES)) as hub:
            quoted = "sub+dir%2F%E6%A8%A1%E5%9E%8B%2Ba%26b.txt"
            by_query = await hub.get(f"{MODEL}/repo?Revision=master&FilePath={quoted}")
            by_path = await hub.get(
                "/models/o/n/resolve/master/sub%20dir/%E6%A8%A1%E5%9E%8B+a&b.txt"
            )
            head = await hub.get(f"{MODEL}/repo?FilePath=config.json", method="HEAD")

        assert (by_query.body, by_path.body, head.body) == (b"odd", b"odd", b"")
        assert by_query.headers["X-Linked-ETag"] == hashlib.sha256(b"odd").hexdigest()
        assert by_query.headers["X-Linked-Size"] == "3"
        assert len(by_query.headers["X-Repo-Commit"]) == 40
        assert (head.status, head.headers["Content-Length"]) == (200, "2")

    run(main)


@pytest.mark.parametrize(
    ("header", "status", "body", "content_range"),
    [
        ("bytes=2-4", 206, b"234", "bytes 2-4/100"),
        ("bytes=95-", 206, b"56789", "bytes 95-99/100"),
        ("bytes=-3", 206, b"789", "bytes 97-99/100"),
        ("bytes=98-500", 206, b"89", "bytes 98-99/100"),
        ("bytes=100-", 416, None, "bytes */100"),
    ],
)
def test_files_are_served_in_ranges(
    run: Run, shelve: Shelve, header: str, status: int, body: bytes | None, content_range: str
) -> None:
    """Small files too: old clients ask for ranges of everything."""

    async def main() -> None:
        async with serving(shelve(FILES)) as hub:
            url = f"{MODEL}/repo?FilePath=sub%2Fdeep%2Fw.bin"
            found = await hub.get(url, Range=header)

        assert (found.status, found.headers["Content-Range"]) == (status, content_range)
        assert body is None or found.body == body

    run(main)


def test_a_file_that_changed_is_not_served_under_the_old_commit(run: Run, shelve: Shelve) -> None:
    """Who pinned a commit gets its bytes or nothing; the next listing has the new ones."""
    root = shelve(FILES)
    url = f"{MODEL}/repo?FilePath=config.json"

    async def main() -> None:
        async with serving(root) as hub:
            (old,) = (await hub.get(f"{MODEL}/commits")).data["Commit"]
            before = await hub.get(f"{url}&Revision={old['Id']}")
            shelve({"o/n/config.json": b'{"new": 2}'})
            at_once = await hub.get(f"{url}&Revision={old['Id']}")
            (new,) = (await hub.get(f"{MODEL}/commits")).data["Commit"]
            later = await hub.get(f"{url}&Revision={old['Id']}")
            unchanged = await hub.get(f"{MODEL}/repo?FilePath=config.json&Revision=v1")
            branch = await hub.get(f"{url}&Revision=master")

        assert (before.status, at_once.status, later.status) == (200, 404, 404)
        assert new["Id"] != old["Id"]
        assert branch.body == b'{"new": 2}'
        assert branch.headers["X-Linked-ETag"] == hashlib.sha256(b'{"new": 2}').hexdigest()
        assert branch.headers["X-Repo-Commit"] == new["Id"]
        assert unchanged.body == b'{"old": 1}'

    run(main)


# -- signed addresses --------------------------------------------------------------------------

LARGE = {"o/n/small": b"s" * 99, "o/n/large": b"0123456789" * 10}


def test_large_files_are_redirected_to_a_signed_address(run: Run, shelve: Shelve) -> None:
    """As the real hub does; the store asks for no credential, and small files come directly."""

    async def main() -> None:
        async with serving(shelve(LARGE), cdn=True, cdn_from=100, token="ms-good") as hub:
            who = {"Authorization": "Bearer ms-good"}
            small = await hub.get(f"{MODEL}/repo?FilePath=small", **who)
            moved = await hub.get(f"{MODEL}/repo?FilePath=large", **who)
            target = moved.headers["Location"]
            whole = await hub.get(target)
            part = await hub.get(target, Range="bytes=10-14")
            hidden = await hub.get(f"{MODEL}/repo?FilePath=large")

        assert (small.status, small.body) == (200, LARGE["o/n/small"])
        assert (moved.status, hidden.status) == (302, 404)
        assert urlsplit(target).netloc != urlsplit(hub.url).netloc
        assert hashlib.sha256(LARGE["o/n/large"]).hexdigest() in urlsplit(target).path
        assert whole.body == LARGE["o/n/large"]
        assert (part.status, part.body) == (206, b"01234")

    run(main)


def test_a_signed_address_expires(run: Run, shelve: Shelve) -> None:
    """After its time it is refused with 403, as stores do."""

    async def main() -> None:
        async with serving(shelve(LARGE), cdn=True, cdn_from=100, signature_seconds=-5) as hub:
            moved = await hub.get(f"{MODEL}/repo?FilePath=large")
            late = await hub.get(moved.headers["Location"])

        assert late.status == 403

    run(main)


def test_a_signed_address_cannot_be_changed(run: Run, shelve: Shelve) -> None:
    """Neither its end, nor its file, nor its signature; the file's name is only a name."""

    async def main() -> None:
        async with serving(shelve(LARGE), cdn=True, cdn_from=100) as hub:
            await hub.get(f"{MODEL}/repo?FilePath=small")
            target = (await hub.get(f"{MODEL}/repo?FilePath=large")).headers["Location"]
            url = URL(target, encoded=True)
            later = str(int(url.query["Expires"]) + 1)
            small = hashlib.sha256(LARGE["o/n/small"]).hexdigest()
            changed = [
                url.update_query(Expires=later),
                url.update_query(Expires=""),
                url.update_query(Expires="x"),
                url.update_query(Signature=url.query["Signature"][:-1]),
                url.update_query(Signature=""),
                url.without_query_params("Signature"),
                url.without_query_params("Expires"),
                url.with_path(f"/blob/{small}", keep_query=True),
            ]
            statuses = [(await hub.get(str(other))).status for other in changed]
            renamed = await hub.get(str(url.update_query(filename="other")))

        assert set(statuses) == {403}
        assert renamed.status == 200

    run(main)


def test_a_signed_address_does_not_serve_what_changed(run: Run, shelve: Shelve) -> None:
    """The address names a digest: other bytes are not it."""
    root = shelve(LARGE)

    async def main() -> None:
        async with serving(root, cdn=True, cdn_from=100) as hub:
            moved = await hub.get(f"{MODEL}/repo?FilePath=large")
            shelve({"o/n/large": b"x" * 100})
            found = await hub.get(moved.headers["Location"])

        assert found.status == 404

    run(main)


# -- running -----------------------------------------------------------------------------------


def test_an_address_in_use_is_a_clear_error(run: Run, shelve: Shelve) -> None:
    """It says which address, and that port 0 takes a free one."""

    async def main() -> None:
        async with serving(shelve(FILES)) as hub:
            port = URL(hub.url).port
            assert port is not None
            app = hub_app(Shelf(Path(), ProvenIndex(Path()), WorkerThreads()), ServeOptions())
            with pytest.raises(StorageError, match=f"cannot listen on 127.0.0.1:{port}") as caught:
                async with running(app, "127.0.0.1", port):
                    pass

        assert "--port" in str(caught.value.hint)

    run(main)


def test_repositories_are_described_for_people(run: Run, shelve: Shelve) -> None:
    """What `modelhaul serve` prints at the beginning."""

    async def main() -> None:
        index = ProvenIndex(shelve(FILES).parent / "proven.sqlite")
        shelf = Shelf(shelve(FILES), index, WorkerThreads())

        lines = describe(await shelf.repositories())

        assert lines == ["dataset o/d (master)", "model o/n (master, v1)"]

    run(main)

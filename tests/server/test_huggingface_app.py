"""The embedded hub as Hugging Face clients see it, on a real socket, asked by a plain client."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import aiohttp
import anyio
import pytest

from tests.server.conftest import Run, Shelve
from tests.server.serving import Asked, Hub, serving

MODEL = "/api/models/o/n"
DATASET = "/api/datasets/o/d"
FILES = {
    "o/n/config.json": b"{}",
    "o/n/empty.bin": b"",
    "o/n/sub dir/模型+a&b.txt": b"odd",
    "o/n/sub/deep/w.safetensors": b"0123456789" * 10,
    "o/n@v1/config.json": b'{"old": 1}',
    "datasets/o/d/data.csv": b"1,2",
    "spaces/o/s/app.py": b"pass",
}
WEIGHTS = FILES["o/n/sub/deep/w.safetensors"]


def git_name(data: bytes) -> str:
    """What `git hash-object` says."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def pointer(data: bytes) -> bytes:
    """What `git lfs` puts into git."""
    oid = hashlib.sha256(data).hexdigest()
    return (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(data)}\n".encode()
    )


async def commit_of(hub: Hub, repo: str = MODEL, revision: str = "main") -> str:
    """The commit of a revision."""
    found: str = (await hub.get(f"{repo}/revision/{revision}")).json["sha"]
    return found


def refusal(asked: Asked) -> tuple[int, str | None]:
    """Status and code of an error, whose text is where clients look for it."""
    assert asked.json["error"] == asked.headers["X-Error-Message"]
    return asked.status, asked.headers.get("X-Error-Code")


# -- revisions ---------------------------------------------------------------------------------


def test_a_revision_is_resolved_to_a_commit(shelve: Shelve) -> None:
    """`main` is the plain folder, by name, without a name, and by its own commit."""

    async def main() -> None:
        async with serving(shelve(FILES)) as hub:
            plain = (await hub.get(MODEL)).json
            named = (await hub.get(f"{MODEL}/revision/main")).json
            pinned = (await hub.get(f"{MODEL}/revision/{named['sha']}")).json
            old = (await hub.get(f"{MODEL}/revision/v1")).json
            dataset = (await hub.get(f"{DATASET}/revision/main")).json
            space = (await hub.get("/api/spaces/o/s")).json

        assert plain == named == pinned
        assert re.fullmatch("[0-9a-f]{40}", named["sha"])
        assert old["sha"] != named["sha"]
        assert (named["id"], dataset["id"], space["id"]) == ("o/n", "o/d", "o/s")
        assert [row["rfilename"] for row in named["siblings"]] == [
            "config.json",
            "empty.bin",
            "sub dir/模型+a&b.txt",
            "sub/deep/w.safetensors",
        ]
        assert set(named["siblings"][0]) == {"rfilename"}

    anyio.run(main)


@pytest.mark.parametrize("spelling", ["true", "True"])
def test_a_revision_tells_sizes_and_digests_on_request(shelve: Shelve, spelling: str) -> None:
    """`blobs=true`, in the spelling of either generation of clients."""

    async def main() -> None:
        async with serving(shelve(FILES)) as hub:
            found = (await hub.get(f"{MODEL}/revision/main?blobs={spelling}")).json

        rows = {row["rfilename"]: row for row in found["siblings"]}
        assert rows["config.json"] == {
            "rfilename": "config.json",
            "size": 2,
            "blobId": git_name(b"{}"),
        }
        assert rows["sub/deep/w.safetensors"]["blobId"] == git_name(pointer(WEIGHTS))
        assert rows["sub/deep/w.safetensors"]["lfs"] == {
            "sha256": hashlib.sha256(WEIGHTS).hexdigest(),
            "size": 100,
            "pointerSize": len(pointer(WEIGHTS)),
        }
        assert found["usedStorage"] == 105

    anyio.run(main)


def test_the_names_of_revisions_are_listed(shelve: Shelve) -> None:
    """The plain folder is the branch `main`, all others are tags."""

    async def main() -> None:
        async with serving(shelve(FILES)) as hub:
            refs = (await hub.get(f"{MODEL}/refs?include_prs=1")).json
            commits = [await commit_of(hub), await commit_of(hub, revision="v1")]

        assert refs == {
            "branches": [{"name": "main", "ref": "refs/heads/main", "targetCommit": commits[0]}],
            "tags": [{"name": "v1", "ref": "refs/tags/v1", "targetCommit": commits[1]}],
            "converts": [],
            "pullRequests": [],
        }

    anyio.run(main)


def test_a_folder_that_is_named_main_is_main(shelve: Shelve) -> None:
    """The other name of the plain folder never hides one that is really called so."""
    files = {"o/n/w": b"plain", "o/n@main/w": b"main"}

    async def main() -> None:
        async with serving(shelve(files)) as hub:
            found = await hub.get("/o/n/resolve/main/w")
            plain = await hub.get("/o/n/resolve/master/w")
            refs = (await hub.get(f"{MODEL}/refs")).json

        assert (found.body, plain.body) == (b"main", b"plain")
        assert [row["name"] for row in refs["branches"]] == ["main"]
        assert [row["name"] for row in refs["tags"]] == ["master"]

    anyio.run(main)


# -- trees -------------------------------------------------------------------------------------


def test_a_tree_names_files_as_git_and_lfs_do(shelve: Shelve) -> None:
    """Git files by their blob, LFS files by SHA-256 beside the blob of the pointer."""

    async def main() -> None:
        async with serving(shelve(FILES)) as hub:
            tree = await hub.get(f"{MODEL}/tree/main?recursive=true&expand=false")

        rows = {row["path"]: row for row in tree.json}
        assert {path: row["type"] for path, row in rows.items()} == {
            "config.json": "file",
            "empty.bin": "file",
            "sub": "directory",
            "sub dir": "directory",
            "sub dir/模型+a&b.txt": "file",
            "sub/deep": "directory",
            "sub/deep/w.safetensors": "file",
        }
        assert rows["config.json"] == {
            "type": "file",
            "path": "config.json",
            "size": 2,
            "oid": git_name(b"{}"),
        }
        assert rows["sub/deep/w.safetensors"] == {
            "type": "file",
            "path": "sub/deep/w.safetensors",
            "size": 100,
            "oid": git_name(pointer(WEIGHTS)),
            "lfs": {
                "oid": hashlib.sha256(WEIGHTS).hexdigest(),
                "size": 100,
                "pointerSize": len(pointer(WEIGHTS)),
            },
        }
        assert rows["empty.bin"]["oid"] == git_name(b"")  # LFS leaves an empty file as it is
        assert "lfs" not in rows["empty.bin"]
        assert "Link" not in tree.headers
        assert not any("xet" in name.lower() for name in [*tree.headers, *rows["config.json"]])

    anyio.run(main)


@pytest.mark.parametrize(
    ("name", "size", "lfs"),
    [
        ("w.BIN", 1, True),
        ("a.tar", 1, True),
        ("tokenizer.json", (10 << 20) - 1, False),
        ("tokenizer.json", 10 << 20, True),
        ("bin", 1, False),
    ],
)
def test_what_is_large_or_binary_by_name_is_lfs(
    shelve: Shelve, name: str, size: int, lfs: bool
) -> None:
    """10 MiB, or an ending that repositories are born with in `.gitattributes`."""

    async def main() -> None:
        async with serving(shelve({f"o/n/{name}": bytes(size)})) as hub:
            (row,) = (await hub.get(f"{MODEL}/tree/main")).json

        assert ("lfs" in row) == lfs

    anyio.run(main)


def test_a_folder_can_be_listed_alone(shelve: Shelve) -> None:
    """By a path that may be written as one segment; what is no folder is no entry."""

    async def main() -> None:
        async with serving(shelve(FILES)) as hub:
            commit = await commit_of(hub)
            top = await hub.get(f"{MODEL}/tree/main")
            flat = await hub.get(f"{MODEL}/tree/main/sub")
            deep = await hub.get(f"{MODEL}/tree/main/sub?recursive=True")
            quoted = await hub.get(f"{MODEL}/tree/{commit}/sub%2Fdeep")
            missing = await hub.get(f"{MODEL}/tree/main/nowhere")

        def paths(asked: Asked) -> list[str]:
            return [row["path"] for row in asked.json]

        assert paths(top) == ["config.json", "empty.bin", "sub", "sub dir"]
        assert paths(flat) == ["sub/deep"]
        assert paths(deep) == ["sub/deep", "sub/deep/w.safetensors"]
        assert paths(quoted) == ["sub/deep/w.safetensors"]
        assert refusal(missing) == (404, "EntryNotFound")
        assert missing.headers["X-Repo-Commit"] == commit

    anyio.run(main)


@pytest.mark.parametrize(
    ("expand", "count", "pages"),
    [("false", 1000, [1000]), ("false", 2001, [1000, 1000, 1]), ("true", 120, [50, 50, 20])],
)
def test_a_tree_comes_in_pages(shelve: Shelve, expand: str, count: int, pages: list[int]) -> None:
    """A thousand entries at a time, or fifty with their history; `Link` leads on."""
    files = {f"o/n/p{number:04}.txt": b"%d" % number for number in range(count)}

    async def main() -> None:
        async with serving(shelve(files)) as hub:
            url: str | None = f"{hub.url}{MODEL}/tree/main?recursive=true&expand={expand}"
            found: list[list[dict[str, Any]]] = []
            while url is not None and len(found) < 10:
                page = await hub.get(url)
                found.append(page.json)
                match = re.fullmatch('<(http.*)>; rel="next"', page.headers.get("Link", ""))
                url = match[1] if match else None
            commit = await commit_of(hub)

        assert [len(page) for page in found] == pages
        assert [row["path"] for page in found for row in page] == [
            name.removeprefix("o/n/") for name in files
        ]
        expanded = {row.get("lastCommit", {}).get("id") for row in found[0]}
        assert expanded == ({commit} if expand == "true" else {None})

    anyio.run(main)


def test_a_cursor_that_is_none_is_refused(shelve: Shelve) -> None:
    """A wrong page would be taken for the whole listing."""

    async def main() -> None:
        async with serving(shelve(FILES)) as hub:
            found = await hub.get(f"{MODEL}/tree/main?cursor=x")

        assert refusal(found) == (400, None)

    anyio.run(main)


def test_rows_can_be_asked_for_by_path(shelve: Shelve) -> None:
    """As a form or as JSON; what is unknown is left out."""

    async def main() -> None:
        async with serving(shelve(FILES)) as hub:
            url = f"{MODEL}/paths-info/main"
            form = aiohttp.FormData(
                [("paths", "sub"), ("paths", "unknown"), ("paths", "config.json")]
            )
            by_form = await hub.get(url, method="POST", data=form)
            body = b'{"paths": ["config.json", 1], "expand": true}'
            by_json = await hub.get(url, method="POST", data=body, Content_Type="application/json")
            bad = await hub.get(url, method="POST", data=b"{", Content_Type="application/json")
            tree = (await hub.get(f"{MODEL}/tree/main")).json

        rows = {row["path"]: row for row in tree}
        assert by_form.json == [rows["sub"], rows["config.json"]]
        assert [row["path"] for row in by_json.json] == ["config.json"]
        assert by_json.json[0]["lastCommit"]["id"]
        assert refusal(bad) == (400, None)

    anyio.run(main)


# -- files -------------------------------------------------------------------------------------


def test_a_file_says_what_it_is(shelve: Shelve) -> None:
    """Commit, entity tag and size, the same for HEAD and GET; LFS files by SHA-256."""

    async def main() -> None:
        async with serving(shelve(FILES)) as hub:
            commit = await commit_of(hub)
            head = await hub.get("/o/n/resolve/main/config.json", method="HEAD")
            got = await hub.get(f"/o/n/resolve/{commit}/config.json")
            lfs = await hub.get("/o/n/resolve/main/sub/deep/w.safetensors", method="HEAD")
            odd = await hub.get("/o/n/resolve/main/sub%20dir/%E6%A8%A1%E5%9E%8B%2Ba%26b.txt")
            data = await hub.get("/datasets/o/d/resolve/main/data.csv")
            space = await hub.get("/spaces/o/s/resolve/main/app.py")

        for found in (head, got):
            assert found.status == 200
            assert found.headers["X-Repo-Commit"] == commit
            assert found.headers["ETag"] == f'"{git_name(b"{}")}"'
            assert found.headers["Content-Length"] == "2"
            assert found.headers["Accept-Ranges"] == "bytes"
            assert "X-Linked-Etag" not in found.headers
        assert (head.body, got.body, odd.body) == (b"", b"{}", b"odd")
        digest = hashlib.sha256(WEIGHTS).hexdigest()
        assert lfs.headers["ETag"] == lfs.headers["X-Linked-Etag"] == f'"{digest}"'
        assert lfs.headers["X-Linked-Size"] == lfs.headers["Content-Length"] == "100"
        assert (data.body, space.body) == (b"1,2", b"pass")

    anyio.run(main)


def test_a_file_comes_in_ranges(run: Run, shelve: Shelve) -> None:
    """Git files and LFS files."""

    async def main() -> None:
        async with serving(shelve(FILES)) as hub:
            url = "/o/n/resolve/main/sub/deep/w.safetensors"
            part = await hub.get(url, Range="bytes=10-14")
            behind = await hub.get(url, Range="bytes=100-")

        assert (part.status, part.body) == (206, b"01234")
        assert part.headers["Content-Range"] == "bytes 10-14/100"
        assert behind.status == 416

    run(main)


def test_a_large_file_is_redirected_and_says_what_it_is(run: Run, shelve: Shelve) -> None:
    """The headers count on the redirect; the store repeats them, as some clients look there."""

    async def main() -> None:
        async with serving(shelve(FILES), cdn=True, cdn_from=1) as hub:
            commit = await commit_of(hub)
            url = "/o/n/resolve/main/sub/deep/w.safetensors"
            moved = await hub.get(url, method="HEAD")
            target = moved.headers["Location"]
            there = await hub.get(target, method="HEAD")
            whole = await hub.get(target)
            forged = await hub.get(target.replace(commit, "x"))
            small = await hub.get("/o/n/resolve/main/config.json")

        digest = f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
        assert moved.status == 302
        assert moved.headers["X-Linked-Etag"] == digest
        assert moved.headers["X-Linked-Size"] == "100"
        assert not target.startswith(hub.url)
        for found in (moved, there, whole):
            assert found.headers["X-Repo-Commit"] == commit
        assert there.headers["ETag"] == digest
        assert whole.body == WEIGHTS
        assert forged.status == 200
        assert "X-Repo-Commit" not in forged.headers
        assert small.status == 200  # what is in git itself comes directly

    run(main)


def test_what_changed_is_not_served_under_the_old_commit(shelve: Shelve) -> None:
    """Who pinned a commit gets its bytes or is told that it is gone."""
    root = shelve(FILES)

    async def main() -> None:
        async with serving(root) as hub:
            old = await commit_of(hub)
            before = await hub.get(f"/o/n/resolve/{old}/config.json")
            shelve({"o/n/config.json": b'{"new": 2}'})
            after = await hub.get(f"/o/n/resolve/{old}/config.json")
            branch = await hub.get("/o/n/resolve/main/config.json")

        assert before.body == b"{}"
        assert refusal(after) == (404, "RevisionNotFound")
        assert branch.body == b'{"new": 2}'
        assert branch.headers["ETag"] == f'"{git_name(branch.body)}"'
        assert branch.headers["X-Repo-Commit"] != old

    anyio.run(main)


# -- errors, tokens ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/models/o/unknown", "RepoNotFound"),
        ("/api/models/o/d", "RepoNotFound"),
        ("/api/models/gpt2", "RepoNotFound"),
        ("/api/spaces/o/n/revision/main", "RepoNotFound"),
        (f"{MODEL}/revision/v9", "RevisionNotFound"),
        (f"{MODEL}/tree/{'f' * 40}", "RevisionNotFound"),
        ("/o/unknown/resolve/main/config.json", "RepoNotFound"),
        ("/o/n/resolve/v9/config.json", "RevisionNotFound"),
        ("/o/n/resolve/main/unknown", "EntryNotFound"),
        ("/o/n/resolve/main/sub", "EntryNotFound"),
        ("/o/n/resolve/main/..%2F..%2Fo%2Fn@v1%2Fconfig.json", "EntryNotFound"),
    ],
)
def test_what_is_not_there_is_told_apart(shelve: Shelve, path: str, code: str) -> None:
    """By the code from which the clients make their errors."""

    async def main() -> None:
        async with serving(shelve(FILES)) as hub:
            found = await hub.get(path)
            commit = await commit_of(hub)

        assert refusal(found) == (404, code)
        # Which commit has no such file is remembered by the clients.
        expected = commit if code == "EntryNotFound" else None
        assert found.headers.get("X-Repo-Commit") == expected

    anyio.run(main)


def test_without_the_token_nothing_is_seen(shelve: Shelve) -> None:
    """Nor is what exists told from what does not."""
    paths = [
        MODEL,
        "/api/models/o/unknown",
        "/api/models/gpt2",
        f"{MODEL}/revision/v9",
        f"{MODEL}/tree/main",
        f"{MODEL}/refs",
        f"{MODEL}/auth-check",
        "/o/n/resolve/main/config.json",
        "/o/n/resolve/main/unknown",
        "/api/whoami-v2",
    ]

    async def main() -> None:
        async with serving(shelve(FILES), token="hf_good") as hub:
            none = [await hub.get(path) for path in paths]
            wrong = [await hub.get(path, Authorization="Bearer hf_bad") for path in paths]
            who = {"Authorization": "Bearer hf_good"}
            right = [(await hub.get(path, **who)).status for path in paths]
            user = await hub.get("/api/whoami-v2", **who)

        assert {refusal(found) for found in none} == {(401, "RepoNotFound")}
        assert {refusal(found) for found in wrong} == {(401, None)}
        assert {found.headers["X-Error-Message"] for found in wrong} == {
            "Invalid credentials in Authorization header"
        }
        assert right == [200, 404, 404, 404, 200, 200, 200, 200, 404, 200]
        assert user.json["auth"]["accessToken"]["role"] == "read"

    anyio.run(main)


def test_a_hub_without_tokens_knows_nobody(shelve: Shelve) -> None:
    """It serves everybody, and says to nobody that a token is good."""

    async def main() -> None:
        async with serving(shelve(FILES)) as hub:
            user = await hub.get("/api/whoami-v2", Authorization="Bearer hf_any")
            found = await hub.get(MODEL, Authorization="Bearer hf_any")
            harnesses = await hub.get("/api/agent-harnesses")

        assert refusal(user) == (401, None)
        assert found.status == 200
        assert harnesses.json == {"standardEnvVars": [], "harnesses": {}}

    anyio.run(main)


def test_both_hubs_are_served_at_once(shelve: Shelve) -> None:
    """One folder, one port, one commit, whoever asks."""

    async def main() -> None:
        async with serving(shelve(FILES)) as hub:
            (modelscope,) = (await hub.get("/api/v1/models/o/n/commits?Ref=master")).data["Commit"]
            commit = await commit_of(hub)
            one = await hub.get("/models/o/n/resolve/master/config.json")
            other = await hub.get("/o/n/resolve/main/config.json")
            dataset = await hub.get("/datasets/o/d/resolve/master/data.csv")

        assert modelscope["Id"] == commit
        assert one.body == other.body == b"{}"
        assert dataset.body == b"1,2"

    anyio.run(main)

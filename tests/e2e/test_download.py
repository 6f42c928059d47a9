"""`modelhaul download`, the installed command against a real socket."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.support.disks import small_disk_at
from tests.support.hub import Fault, hub_in_thread
from tests.support.world import MODEL, World, content, last_line, tree

pytestmark = pytest.mark.command

EMPTY = hashlib.sha256(b"").hexdigest()


def snapshot(world: World, revision: str = "master", kind: str = "models") -> Path:
    return world.cache / kind / "acme--tiny" / "snapshots" / revision


# -- every line of the ModelScope guide, with `modelhaul` for `modelscope` -----------------------


def test_a_whole_model_lands_in_the_cache(world: World) -> None:
    """`download --model ID`: all files, proven, in the layout of the official tools."""
    done = world.run("download", "--model", "acme/tiny")

    assert done.returncode == 0, done.stderr
    assert last_line(done.stdout) == str(snapshot(world))
    assert tree(snapshot(world)) == MODEL
    assert "every file has its SHA-256" in done.stderr
    assert not (world.cache / ".modelhaul").exists()


def test_a_folder_holds_the_files_and_nothing_of_ours(world: World) -> None:
    """`--local_dir D`: a plain tree."""
    done = world.run("download", "--model", "acme/tiny", "--local_dir", "./models")

    assert done.returncode == 0, done.stderr
    assert last_line(done.stdout) == str(world.work / "models")
    assert tree(world.work / "models") == MODEL


def test_a_revision_is_a_tag_a_branch_or_a_commit(world: World) -> None:
    """`--revision`: by name, and by the commit that the name stands for."""
    world.put("acme/tiny@v1.0.0", {"config.json": b"old\n"})

    by_tag = world.run("download", "--model", "acme/tiny", "--revision", "v1.0.0")
    resolved = json.loads(
        world.run("download", "acme/tiny", "--revision", "v1.0.0", "--json").stdout.splitlines()[0]
    )
    by_commit = world.run("download", "acme/tiny", "--revision", resolved["commit"])

    assert tree(Path(last_line(by_tag.stdout))) == {"config.json": b"old\n"}
    assert len(resolved["commit"]) == 40
    assert last_line(by_commit.stdout) == str(snapshot(world, resolved["commit"]))
    assert tree(snapshot(world, resolved["commit"])) == {"config.json": b"old\n"}


def test_include_and_exclude_are_patterns_over_the_whole_path(world: World) -> None:
    """Repeatable, several values after one flag, exclude wins."""
    only = world.run(
        "download", "--model", "acme/tiny", "--include", "*.json", "sub*", "--local_dir", "a"
    )
    without = world.run(
        "download", "acme/tiny", "--exclude", "*.safetensors", "--exclude", "*.md", "--local-dir=b"
    )

    assert set(tree(world.work / "a")) == {
        "config.json",
        "tokenizer.json",
        "sub dir/\u6a21\u578b+a&b.txt",
    }
    assert only.returncode == without.returncode == 0
    assert set(tree(world.work / "b")) == {
        "config.json",
        "empty.txt",
        "tokenizer.json",
        "sub dir/\u6a21\u578b+a&b.txt",
    }


def test_the_cache_moves_with_its_variable(world: World, tmp_path: Path) -> None:
    """`MODELSCOPE_CACHE=/data/x` moves the cache; `--cache_dir` wins over it."""
    world.extra["MODELSCOPE_CACHE"] = str(tmp_path / "x")

    by_variable = world.run("download", "--model", "acme/tiny", "--include", "config.json")
    by_option = world.run(
        "download", "acme/tiny", "config.json", "--cache_dir", tmp_path / "y", "--quiet"
    )

    assert last_line(by_variable.stdout).startswith(str(tmp_path / "x" / "models"))
    assert last_line(by_option.stdout).startswith(str(tmp_path / "y" / "models"))


def test_version_and_help_teach(world: World) -> None:
    """`--version` and `download --help`: short, and with examples."""
    version = world.run("--version")
    help_ = world.run("download", "--help")

    assert version.stdout.startswith("modelhaul 0.")
    assert "--local-dir" in help_.stdout
    assert "modelhaul download Qwen/Qwen3-8B" in help_.stdout


# -- more ways to ask ----------------------------------------------------------------------------


def test_exact_files_are_fetched_and_nothing_else(world: World) -> None:
    """`download ID file1 file2`, also with spaces and other letters in the name."""
    done = world.run(
        "download", "acme/tiny", "config.json", "sub dir/\u6a21\u578b+a&b.txt", "--local-dir", "a"
    )

    assert done.returncode == 0, done.stderr
    assert set(tree(world.work / "a")) == {"config.json", "sub dir/\u6a21\u578b+a&b.txt"}


def test_a_dataset_is_listed_page_by_page(world: World) -> None:
    """`--dataset`: more files than one page holds."""
    files = {f"data/p{n:04}.txt": b"%d" % n for n in range(433)}
    world.put("datasets/acme/tiny", files)

    done = world.run("download", "--dataset", "acme/tiny")

    assert done.returncode == 0, done.stderr
    assert last_line(done.stdout) == str(snapshot(world, kind="datasets"))
    assert tree(snapshot(world, kind="datasets")) == files
    pages = [seen for seen in world.hub.seen if seen.path.endswith("/repo/tree")]
    assert {seen.query["PageNumber"] for seen in pages} == {"1", "2", "3"}


def test_a_listing_that_the_server_cuts_is_walked(world: World) -> None:
    """More than 3000 entries: the truncated listing is noticed and completed by folders."""
    files = {f"part{n % 7}/f{n:04}": b"%d" % n for n in range(3500)}
    world.put("acme/many", files)

    # A tenth of them, from all over: to fetch every one would show nothing more.
    done = world.run("download", "acme/many", "--include", "*0", "--local-dir", "many")

    assert done.returncode == 0, done.stderr
    assert tree(world.work / "many") == {n: data for n, data in files.items() if n.endswith("0")}


def test_large_files_come_from_the_signed_address_in_ranges(world: World) -> None:
    """302 to the store, ranges there, `identity` always, and no credential goes along."""
    world.run("download", "acme/tiny", "--token", "secret-token")

    asked = world.hub.files_asked()
    store = [seen for seen in asked if seen.server == "cdn"]
    assert any("Range" in seen.headers for seen in store)
    assert all(seen.headers["Accept-Encoding"] == "identity" for seen in asked)
    assert all(
        "Authorization" not in seen.headers and "Cookie" not in seen.headers for seen in store
    )
    hub = [seen for seen in world.hub.seen if seen.server == "hub"]
    assert all(seen.headers["Authorization"] == "Bearer secret-token" for seen in hub)


def test_the_revision_is_pinned_to_a_commit(world: World) -> None:
    """Every file is asked for by the commit that master named when the run began."""
    world.run("download", "acme/tiny")

    files = [seen for seen in world.hub.seen if seen.path.endswith("/repo")]
    commits = {seen.query["Revision"] for seen in files}
    assert len(commits) == 1
    assert len(commits.pop()) == 40


# -- the second run ------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [[], ["--local-dir", "m"]], ids=["cache", "folder"])
def test_a_second_run_fetches_nothing_and_hashes_nothing(world: World, where: list[str]) -> None:
    """What was proven is remembered by size, times and inode."""
    world.run("download", "acme/tiny", *where)
    world.hub.seen.clear()

    again = world.run("download", "acme/tiny", *where)

    assert again.returncode == 0, again.stderr
    assert world.hub.files_asked() == []
    assert "checking" not in again.stderr
    assert "nothing fetched" in again.stderr


def test_a_second_run_fetches_nothing_where_the_hub_states_no_digest(world: World) -> None:
    """The server's strong validator says that nothing has changed."""
    rows = [
        {"Path": path, "Type": "blob", "Size": len(data), "Sha256": None}
        for path, data in MODEL.items()
    ]
    world.hub.fault = lambda request: (
        web.json_response({"Code": 200, "Success": True, "Data": {"Files": rows}})
        if request.path.endswith("/repo/files")
        else None
    )

    first = world.run("download", "acme/tiny", "--local-dir", "m")
    world.hub.seen.clear()
    again = world.run("download", "acme/tiny", "--local-dir", "m")

    assert [first.returncode, again.returncode] == [0, 0], first.stderr + again.stderr
    assert tree(world.work / "m") == MODEL
    assert {seen.headers["Range"] for seen in world.hub.files_asked()} == {"bytes=0-0"}
    assert "nothing fetched" in again.stderr


def test_force_hashes_what_is_there_and_fetches_only_what_is_wrong(world: World) -> None:
    """`--force` believes no memory: a byte changed behind its back is found and mended."""
    folder = world.work / "m"
    world.run("download", "acme/tiny", "--local-dir", folder)
    victim = folder / "model-00002-of-00002.safetensors"
    status = victim.stat()
    with victim.open("r+b") as file:
        file.write(b"damage")
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
    world.hub.seen.clear()

    done = world.run("download", "acme/tiny", "--local-dir", folder, "--force")

    assert done.returncode == 0, done.stderr
    assert "checking 7 files" in done.stderr
    assert tree(folder) == MODEL
    assert {seen.query.get("FilePath", victim.name) for seen in world.hub.files_asked()} == {
        victim.name
    }


def test_a_forgotten_memory_costs_hashing_and_no_bytes(world: World) -> None:
    """The state folder may be deleted at any time."""
    world.run("download", "acme/tiny")
    shutil.rmtree(world.home / ".local")
    world.hub.seen.clear()

    again = world.run("download", "acme/tiny")

    assert again.returncode == 0
    assert world.hub.files_asked() == []
    assert "checking" in again.stderr


def test_files_of_the_user_are_refused_before_anything_is_fetched(world: World) -> None:
    """Other content under a final name that we did not put there: only with --force."""
    folder = world.work / "m"
    folder.mkdir()
    (folder / "README.md").write_text("my notes")

    refused = world.run("download", "acme/tiny", "--local-dir", folder)

    assert refused.returncode == 9
    assert "README.md" in refused.stderr
    assert "--force" in refused.stderr
    assert tree(folder) == {"README.md": b"my notes"}
    assert world.hub.files_asked() == []

    forced = world.run("download", "acme/tiny", "--local-dir", folder, "--force")

    assert forced.returncode == 0
    assert tree(folder) == MODEL


@pytest.mark.parametrize("path", ["file", "file/m"])
def test_a_target_that_cannot_be_a_folder_is_said_once(world: World, path: str) -> None:
    """Not once per file, and before anything is fetched."""
    (world.work / "file").write_text("mine")

    done = world.run("download", "acme/tiny", "--local-dir", path)

    assert done.returncode == 9
    assert done.stderr.count("file is not a folder") == 1
    assert "choose another folder" in last_line(done.stderr)
    assert (world.work / "file").read_text() == "mine"
    assert not world.hub.files_asked()


def test_files_that_the_user_keeps_beside_ours_stay(world: World) -> None:
    """What the listing does not name is nobody's business."""
    folder = world.work / "m"
    folder.mkdir()
    (folder / "notes.txt").write_text("my notes")

    world.run("download", "acme/tiny", "--local-dir", folder)

    assert tree(folder) == {**MODEL, "notes.txt": b"my notes"}


def test_a_new_revision_replaces_what_we_put_there(world: World) -> None:
    """Our own older file gives way; a file the user has edited since does not."""
    folder = world.work / "m"
    world.run("download", "acme/tiny", "--local-dir", folder)
    world.put("acme/tiny", {"config.json": b"new\n", "README.md": b"# new\n"})

    updated = world.run("download", "acme/tiny", "--local-dir", folder)
    assert updated.returncode == 0, updated.stderr
    assert (folder / "config.json").read_bytes() == b"new\n"

    (folder / "config.json").write_text("edited")
    world.put("acme/tiny", {"config.json": b"newer\n"})
    refused = world.run("download", "acme/tiny", "--local-dir", folder)
    assert refused.returncode == 9
    assert (folder / "config.json").read_text() == "edited"


def test_a_moved_branch_updates_the_cache_and_names_what_is_gone(world: World) -> None:
    """snapshots/master is replaced in one burst; files gone upstream are reported and stay."""
    world.run("download", "acme/tiny")
    world.put("acme/tiny", {"config.json": b"new\n", "tokenizer.json": content(800_000, 9)})
    (world.hub.root / "acme/tiny/README.md").unlink()

    done = world.run("download", "acme/tiny")

    assert done.returncode == 0, done.stderr
    now = tree(snapshot(world))
    assert now["config.json"] == b"new\n"
    assert now["tokenizer.json"] == content(800_000, 9)
    assert "README.md" in now
    assert "README.md" in done.stderr
    assert not (world.cache / ".modelhaul").exists()


@pytest.mark.parametrize("place", ["hub/models/acme/tiny", "models/acme/tiny", "acme/tiny"])
def test_an_old_cache_is_found_and_reused(world: World, place: str) -> None:
    """What modelscope 1.37 left is kept, completed in place, and its book stays right."""
    old = world.cache / place
    old.mkdir(parents=True)
    (old / "config.json").write_bytes(MODEL["config.json"])
    (old / "tokenizer.json").write_bytes(b"an older version")
    book = [
        {"Path": "config.json", "Revision": "1" * 40},
        {"Path": "tokenizer.json", "Revision": "2" * 40},
    ]
    (old / ".msc").write_bytes(pickle.dumps(book))

    done = world.run("download", "acme/tiny")

    assert done.returncode == 0, done.stderr
    assert last_line(done.stdout) == str(old)
    found = tree(old)
    rows = {row["Path"]: row["Revision"] for row in pickle.loads(found.pop(".msc"))}
    assert found == MODEL
    assert set(rows) == set(MODEL)
    assert rows["tokenizer.json"] != "2" * 40
    assert not [
        seen for seen in world.hub.files_asked() if seen.query.get("FilePath") == "config.json"
    ]


# -- output --------------------------------------------------------------------------------------


def test_a_dry_run_prints_the_plan_and_fetches_nothing(world: World) -> None:
    """The plan is the result: files, bytes to fetch, bytes reused."""
    world.run("download", "acme/tiny", "config.json", "--local-dir", "m")
    world.hub.seen.clear()

    done = world.run("download", "acme/tiny", "--local-dir", "m", "--dry-run")

    assert done.returncode == 0, done.stderr
    assert "keep" in done.stdout
    assert "fetch    9.00 MB  model-00001-of-00002.safetensors" in done.stdout
    assert last_line(done.stdout) == "7 files, 18.1 MB: 18.1 MB to fetch, 23 B reused"
    assert world.hub.files_asked() == []
    assert set(tree(world.work / "m")) == {"config.json"}


def test_json_lines_end_with_the_path(world: World) -> None:
    """Every line of stdout is one event; the last one carries the path."""
    done = world.run("download", "acme/tiny", "--json", "--local-dir", "m")

    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["event"] == "resolved"
    assert lines[-1]["event"] == "finished"
    assert lines[-1]["path"] == str(world.work / "m")
    finished = [line for line in lines if line["event"] == "file_done"]
    assert {line["path"] for line in finished} == set(MODEL)
    assert all(line["verified"] and len(line["sha256"]) == 64 for line in finished)


def test_quiet_prints_the_path_and_nothing_else(world: World) -> None:
    """`--quiet` for scripts."""
    done = world.run("download", "acme/tiny", "--quiet", "--local-dir", "m")

    assert done.stdout == f"{world.work / 'm'}\n"
    assert done.stderr == ""


@pytest.mark.fault("stdout is closed in the middle", "the files are there, exit 0", number=121)
def test_a_closed_stdout_does_not_lose_the_download(world: World) -> None:
    """The reader is gone before we are done: the files are there all the same."""
    process = subprocess.Popen(
        world.command("download", "acme/tiny", "--json", "--local-dir", "m"),
        env=world.environment,
        cwd=world.work,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=60)

    assert process.returncode == 0, errors
    assert tree(world.work / "m") == MODEL


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [[], ["--quiet"], ["--json"], ["--dry-run"]])
def test_a_result_that_cannot_be_written_is_a_failure(world: World, how: list[str]) -> None:
    """A full disk behind the redirection: the files are there, but a script must not go on."""
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")

    with open("/dev/full", "w") as full:
        done = subprocess.run(
            world.command("download", "acme/tiny", "--local-dir", "m", *how),
            env=world.environment,
            cwd=world.work,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )

    assert done.returncode == 9, done.stderr
    assert "cannot be written to stdout: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert how == ["--dry-run"] or tree(world.work / "m") == MODEL


def test_a_word_before_model_that_looks_like_a_repository_is_remarked(world: World) -> None:
    """It may be a file of that name, so it is one; but who typed it meant something else."""
    world.put("acme/tiny", {"sub/LICENSE": b"free"})

    done = world.run("download", "sub/LICENSE", "--model", "acme/tiny", "--local-dir", "m")

    assert done.returncode == 0
    assert "note: sub/LICENSE is taken for a file of acme/tiny" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["download", "acme/nothing"], 4, "no model acme/nothing"),
        (["download", "acme/tiny", "--revision", "v9"], 4, "no revision 'v9'"),
        (["download", "acme/tiny", "--include", "*.foo"], 2, "matches '*.foo'"),
        (["download", "acme/tiny", "confg.json"], 2, "did you mean 'config.json'?"),
        (["download", "acme/tiny", "--exclude", "*"], 2, "excluded"),
        (["download", "nonsense"], 2, "owner/name"),
        (["download"], 2, "no repository given"),
        (["download", "--model", "a/b", "--dataset", "c/d"], 2, "give one of them"),
        (["download", "acme/tiny", "--connections", "0"], 2, "connections"),
        (["download", "acme/tiny", "--limit-rate", "fast"], 2, "not a size"),
        (["download", "acme/tiny", "--nonsense"], 2, "--nonsense"),
        (["download", "acme/tiny", "--endpoint", "ftp://x"], 2, "not an http"),
        (["download", "acme/tiny", "--endpoint", "http://127.0.0.1:9"], 6, "127.0.0.1:9"),
        (["download", "--dataset", "acme/tiny"], 4, "there is a model of that name"),
    ],
)
def test_errors_are_short_and_say_what_to_try(
    world: World, arguments: list[str], code: int, says: str
) -> None:
    """One or two lines, an exit code by kind, never a traceback."""
    done = world.run(*arguments)

    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    shown = [line for line in done.stderr.splitlines() if not line.startswith("waiting")]
    assert 1 <= len(shown) <= 2
    assert done.stdout == ""


def test_an_error_in_json_mode_is_the_last_line(world: World) -> None:
    """A program that reads events learns of the error there."""
    done = world.run("download", "acme/nothing", "--json")

    last = json.loads(last_line(done.stdout))
    assert (last["event"], last["kind"], last["exit_code"]) == ("error", "NotFound", 4)
    assert done.returncode == 4


def test_one_bad_file_is_reported_and_the_others_arrive(world: World) -> None:
    """404 for one of the files: exit code 3, the rest is there and nothing partial is."""
    world.hub.fault = lambda request: (
        _not_found() if request.query.get("FilePath") == "README.md" else None
    )

    done = world.run("download", "acme/tiny", "--local-dir", "m")

    assert done.returncode == 3
    assert "README.md" in done.stderr
    assert done.stdout == ""
    rest = {path: data for path, data in MODEL.items() if path != "README.md"}
    assert tree(world.work / "m") == rest


def _not_found() -> web.Response:
    return web.json_response({"Code": 404, "Success": False}, status=404)


def test_hostile_names_are_refused_one_by_one(world: World) -> None:
    """A listing that climbs out of the target: that file is refused, the others come."""

    def evil(request: web.Request) -> web.StreamResponse | None:
        if not request.path.endswith("/repo/files"):
            return None
        rows = [
            {"Path": "../../escape.txt", "Type": "blob", "Size": 3, "Sha256": "0" * 64},
            {"Path": ".git/hooks/post-checkout", "Type": "blob", "Size": 3, "Sha256": "0" * 64},
            {"Path": "empty.txt", "Type": "blob", "Size": 0, "Sha256": None},
        ]
        return web.json_response({"Code": 200, "Success": True, "Data": {"Files": rows}})

    world.hub.fault = evil

    done = world.run("download", "acme/tiny", "--local-dir", "m/deep")

    assert done.returncode == 3
    assert "escape.txt" in done.stderr
    assert tree(world.work / "m") == {"deep/empty.txt": b""}
    assert not list(world.work.parent.rglob("escape.txt"))


def lists(*paths: str) -> Fault:
    """A hub that lists empty files of these names, whatever it holds."""
    rows = [{"Path": path, "Type": "blob", "Size": 0, "Sha256": EMPTY} for path in paths]

    def answer(request: web.Request) -> web.StreamResponse | None:
        if not request.path.endswith("/repo/files"):
            return None
        return web.json_response({"Code": 200, "Success": True, "Data": {"Files": rows}})

    return answer


def test_a_dry_run_names_what_will_be_refused(world: World) -> None:
    """Unsafe names stand in the plan with their reason, and it exits as the run will."""
    world.hub.fault = lists("../escape.txt", "empty.txt")

    shown = world.run("download", "acme/tiny", "--local-dir", "m", "--dry-run")
    as_json = world.run("download", "acme/tiny", "--local-dir", "m", "--dry-run", "--json")
    real = world.run("download", "acme/tiny", "--local-dir", "m")

    assert "refuse       0 B  ../escape.txt  (the name climbs out of its folder)" in shown.stdout
    assert last_line(shown.stdout).startswith("2 files,")
    plan = json.loads(last_line(as_json.stdout))
    assert [(file["action"], file["unsafe"]) for file in plan["files"]] == [
        ("refuse", True),
        ("fetch", False),
    ]
    assert [shown.returncode, as_json.returncode, real.returncode] == [3, 3, 3]


def test_a_dry_run_tells_a_refused_file_from_a_refused_run(world: World) -> None:
    """A place that is occupied stops everything before the first byte, an unsafe name itself."""
    world.hub.fault = lists("../escape.txt", "empty.txt")
    (world.work / "m").mkdir()
    (world.work / "m" / "empty.txt").write_text("mine")

    planned = world.run("download", "acme/tiny", "--local-dir", "m", "--dry-run")
    real = world.run("download", "acme/tiny", "--local-dir", "m")

    assert [planned.returncode, real.returncode] == [9, 9]
    assert "nothing was fetched" in real.stderr
    assert "empty.txt" in real.stderr


def test_a_dry_run_of_nothing_but_unsafe_names_exits_like_the_run(world: World) -> None:
    """Nothing at all could be had: the exit code is that of the names, not of an incomplete run."""
    world.hub.fault = lists("../escape.txt", "../another.txt")

    planned = world.run("download", "acme/tiny", "--local-dir", "m", "--dry-run")
    real = world.run("download", "acme/tiny", "--local-dir", "m")

    assert [planned.returncode, real.returncode] == [9, 9]


# -- credentials ---------------------------------------------------------------------------------


@pytest.fixture
def private(tmp_path: Path, world: World) -> Iterator[World]:
    """A hub that answers only to a token."""
    with hub_in_thread(world.hub.root, tmp_path / "private.jsonl", token="ms-good") as hub:
        yield World(hub, world.home, world.work)


def save_login(home: Path, host: str, token: str) -> None:
    """A login as the official tools save it."""
    import http.cookiejar

    from requests.cookies import RequestsCookieJar

    jar = RequestsCookieJar()
    jar.set_cookie(
        http.cookiejar.Cookie(
            0, "m_session_id", token, None, False, host, True, False, "/", True, False,
            None, False, None, None, {},
        )
    )  # fmt: skip
    folder = home / ".modelscope" / "credentials"
    folder.mkdir(parents=True)
    (folder / "cookies").write_bytes(pickle.dumps(jar))


def test_a_token_comes_from_option_variable_or_saved_login(private: World) -> None:
    """Without one the repository is hidden; each of the three ways opens it."""
    hidden = private.run("download", "acme/tiny", "config.json", "--local-dir", "a")
    option = private.run(
        "download", "acme/tiny", "config.json", "--local-dir", "b", "--token", "ms-good"
    )
    private.extra["MODELSCOPE_API_TOKEN"] = "ms-good"
    variable = private.run("download", "acme/tiny", "config.json", "--local-dir", "c")
    del private.extra["MODELSCOPE_API_TOKEN"]
    save_login(private.home, "127.0.0.1", "ms-good")
    saved = private.run("download", "acme/tiny", "config.json", "--local-dir", "d")

    assert hidden.returncode == 4
    assert "private or gated" in hidden.stderr
    assert [option.returncode, variable.returncode, saved.returncode] == [0, 0, 0]


def test_a_login_saved_for_another_site_is_not_sent(world: World) -> None:
    """The official tools send it anywhere; we only to the host it is for."""
    save_login(world.home, "modelscope.cn", "ms-good")

    world.run("download", "acme/tiny", "config.json")

    assert all("Authorization" not in seen.headers for seen in world.hub.seen)
    assert all("Cookie" not in seen.headers for seen in world.hub.seen)


def test_a_hostile_saved_login_is_not_executed(world: World, tmp_path: Path) -> None:
    """The pickle is read by name, not run; the download goes on without a token."""

    class Evil:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return os.system, (f"touch {tmp_path / 'pwned'}",)

    folder = world.home / ".modelscope" / "credentials"
    folder.mkdir(parents=True)
    (folder / "cookies").write_bytes(pickle.dumps(Evil()))

    done = world.run("download", "acme/tiny", "config.json")

    assert done.returncode == 0
    assert not (tmp_path / "pwned").exists()
    assert "ignored" in done.stderr


# -- the disk ------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    with small_disk_at(tmp_path / "small") as disk:
        disk.mount("size=12m")
        yield disk.point


@pytest.mark.fault(
    "the disk is too small before the start", "refused; both numbers are told", number=76
)
@pytest.mark.root
def test_a_disk_that_is_too_small_is_noticed_before_the_first_byte(
    world: World, small_disk: Path
) -> None:
    """The whole plan is compared with the free space, and both numbers are told."""
    done = world.run("download", "acme/tiny", "--local-dir", small_disk / "m")

    assert done.returncode == 9
    assert "18.1 MB needed, 12.6 MB free; nothing was fetched" in done.stderr
    assert world.hub.files_asked() == []
    assert not (small_disk / "m").exists()

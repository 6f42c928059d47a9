"""`store.layout`: where files land, so that every ModelScope tool finds them."""

from __future__ import annotations

import itertools
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from modelhaul.core.repo import Kind, RemoteFile, RepoRef
from modelhaul.errors import StorageError
from modelhaul.store.layout import (
    LegacyCache,
    LocalFolder,
    ModelScopeCache,
    SingleFile,
    find_cache,
    snapshot_folder,
    strangers,
)
from tests.store.helpers import descriptors, run_python
from tests.store.test_pickles import Hostile

OWNER, NAME, SAFE = "Qwen", "Qwen3.5-0.8B", "Qwen3___5-0___8B"
# Where the tools put a model over the years; the third is the new layout, all others are old ones.
PLACES = [
    f"models/{OWNER}/{SAFE}",
    f"hub/models/{OWNER}/{SAFE}",
    f"models/{OWNER}--{NAME}",
    f"{OWNER}/{NAME}",
    f"{OWNER}/{SAFE}",
    f"hub/{OWNER}/{NAME}",
    f"hub/{OWNER}/{SAFE}",
    f"models/{OWNER}/{NAME}",
]
NEW = 2
# The order in which `snapshot_download` of modelscope 1.40.2 looks: its own old places come first,
# unless there is anything in the first or the third place.
NEWER = {0, NEW}
ORDER_OF_OLD = [3, 4, 5, 6, 7, 1]
ORDER_OF_HUB = [0, 1, NEW]


def ref(*, kind: Kind = "model", revision: str | None = None, name: str = NAME) -> RepoRef:
    """A repository."""
    return RepoRef("modelscope", kind, OWNER, name, revision)


def fill(folder: Path) -> None:
    """Make a folder that is not empty."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(b"{}")


def chosen(*places: int) -> int:
    """Which of these places the tools use."""
    order = ORDER_OF_HUB if NEWER & set(places) else ORDER_OF_OLD
    return min(set(places) & set(order), key=order.index)


def legacy(tmp_path: Path) -> LegacyCache:
    """An old cache with one repository."""
    fill(tmp_path / PLACES[0])
    layout = find_cache(tmp_path, ref())
    assert isinstance(layout, LegacyCache)
    return layout


def file(path: str, revision: str | None = "c1") -> RemoteFile:
    """A file as the hub lists it."""
    return RemoteFile(path, 1, sha256="0" * 64, revision=revision)


def book(layout: LegacyCache) -> object:
    """The book as the old client reads it: by plain `pickle.load`."""
    with (layout.root / ".msc").open("rb") as opened:
        return pickle.load(opened)


def write_book(layout: LegacyCache, value: object) -> None:
    """The book as the old client writes it."""
    (layout.root / ".msc").write_bytes(pickle.dumps(value))


# -- a plain folder, one file --------------------------------------------------------------------


def test_a_local_folder_holds_the_repository_as_it_is(tmp_path: Path) -> None:
    """Files at their repository paths, our state in one reserved folder, the rest is the user's."""
    layout = LocalFolder.at(tmp_path / "m")

    assert layout.final("a/b.bin") == tmp_path / "m" / "a" / "b.bin"
    assert layout.state == tmp_path / "m" / ".modelhaul"
    assert layout.root == layout.shown == tmp_path / "m"
    assert not layout.owned
    assert list(tmp_path.iterdir()) == []


def test_a_local_folder_may_be_a_link(tmp_path: Path) -> None:
    """Files go where it leads; people are shown the path that they gave."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    layout = LocalFolder.at(tmp_path / "link" / "x" / ".." / "m")

    assert layout.root == tmp_path / "real" / "m"
    assert layout.shown == tmp_path / "link" / "m"


def test_a_tilde_is_the_home_folder(tmp_path: Path) -> None:
    """Also where no shell has replaced it."""
    code = """
    from modelhaul.store.layout import LocalFolder, SingleFile
    print(LocalFolder.at(Path("~/m")).shown, SingleFile.at(Path("~/f.bin")).shown)
    """

    shown = run_python(code, env={**os.environ, "HOME": str(tmp_path)}).split()

    assert shown == [str(tmp_path / "m"), str(tmp_path / "f.bin")]


def test_a_local_folder_keeps_no_books(tmp_path: Path) -> None:
    """Nothing but the files is left in it."""
    layout = LocalFolder.at(tmp_path)

    layout.before(["a"])
    layout.after([file("a")])

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["loop/m", "~nosuchuser/m"])
def test_a_target_that_leads_nowhere_is_an_error_of_ours(tmp_path: Path, path: str) -> None:
    """Links in a circle, a home that nobody has: the user is told which path it is."""
    (tmp_path / "loop").symlink_to("loop")
    bad = Path(path) if path.startswith("~") else tmp_path / path

    for make in (LocalFolder.at, SingleFile.at, lambda folder: find_cache(folder, ref())):
        with pytest.raises(StorageError, match="cannot be used as a path"):
            make(bad)


def test_a_single_file_has_the_name_that_the_user_chose(tmp_path: Path) -> None:
    """Whatever the server calls it; state lies beside it, and no books are kept."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    layout = SingleFile.at(tmp_path / "link" / "mine.bin")

    layout.before(["x"])
    layout.after([file("x")])

    assert layout.final("theirs/name.bin") == tmp_path / "real" / "mine.bin"
    assert layout.state == tmp_path / "real" / ".modelhaul"
    assert layout.shown == tmp_path / "link" / "mine.bin"
    assert not layout.owned
    assert list((tmp_path / "real").iterdir()) == []


# -- the new cache -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "revision", "folder"),
    [
        ("model", None, "models/Qwen--Qwen3.5-0.8B/snapshots/master"),
        ("model", "v1.0", "models/Qwen--Qwen3.5-0.8B/snapshots/v1.0"),
        ("dataset", None, "datasets/Qwen--Qwen3.5-0.8B/snapshots/master"),
        ("model", "refs/pr/1", "models/Qwen--Qwen3.5-0.8B/snapshots/refs/pr/1"),
    ],
)
def test_the_new_cache_has_a_folder_per_revision(
    tmp_path: Path, kind: Kind, revision: str | None, folder: str
) -> None:
    """As modelscope 1.38 and later lay it out; looking makes nothing."""
    layout = find_cache(tmp_path, ref(kind=kind, revision=revision))

    assert isinstance(layout, ModelScopeCache)
    assert layout.final("a/b.bin") == tmp_path / folder / "a" / "b.bin"
    assert layout.shown == layout.root == tmp_path / folder
    assert layout.state == tmp_path / ".modelhaul"
    assert layout.owned
    assert list(tmp_path.iterdir()) == []


def test_the_new_cache_keeps_no_books(tmp_path: Path) -> None:
    """Real files and nothing else."""
    layout = find_cache(tmp_path, ref())

    layout.before(["a"])
    layout.after([file("a")])

    assert list(tmp_path.iterdir()) == []


def test_a_cache_may_be_given_with_a_tilde_or_a_link(tmp_path: Path) -> None:
    """State goes to the real folder, people see the path that they gave."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    layout = find_cache(tmp_path / "link", ref())

    assert layout.shown.is_relative_to(tmp_path / "link")
    assert layout.root.is_relative_to(tmp_path / "real")
    assert layout.state == tmp_path / "real" / ".modelhaul"


def test_state_is_on_the_disk_of_the_files(tmp_path: Path, tiny_disk: Callable[..., Path]) -> None:
    """A repository that was moved to another disk has its state there: renames cannot cross."""
    disk = tiny_disk()
    (tmp_path / "cache" / "models" / OWNER).mkdir(parents=True)
    (tmp_path / "cache" / PLACES[NEW]).symlink_to(disk)
    fill(disk / "old")
    (tmp_path / "cache" / "models" / OWNER / "Old").symlink_to(disk / "old")

    new = find_cache(tmp_path / "cache", ref())
    old = find_cache(tmp_path / "cache", ref(name="Old"))
    elsewhere = find_cache(tmp_path / "cache", ref(name="Other"))

    assert isinstance(old, LegacyCache)
    assert new.state == disk / "snapshots" / "master" / ".modelhaul"
    assert old.state == disk / "old" / ".modelhaul"
    assert elsewhere.state == tmp_path / "cache" / ".modelhaul"


# -- which cache ---------------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(len(PLACES)))
def test_each_place_of_the_tools_is_found(tmp_path: Path, place: int) -> None:
    """What an older tool has downloaded is used, wherever it put it."""
    fill(tmp_path / PLACES[place])

    layout = find_cache(tmp_path, ref())

    assert isinstance(layout, ModelScopeCache if place == NEW else LegacyCache)
    inside = "snapshots/master" if place == NEW else ""
    assert layout.root == layout.shown == tmp_path / PLACES[place] / inside


@pytest.mark.parametrize("places", list(itertools.combinations(range(len(PLACES)), 2)))
def test_of_two_places_the_one_of_the_tools_is_used(
    tmp_path: Path, places: tuple[int, int]
) -> None:
    """Whichever was made first; an empty folder is no place."""
    for number, place in reversed([*enumerate(PLACES)]):
        if number in places:
            fill(tmp_path / place)
        else:
            (tmp_path / place).mkdir(parents=True)

    layout = find_cache(tmp_path, ref())

    use = chosen(*places)
    assert layout.shown.is_relative_to(tmp_path / PLACES[use])
    assert isinstance(layout, ModelScopeCache if use == NEW else LegacyCache)


@pytest.mark.parametrize(
    ("places", "use"), [((1, 3), 3), ((1, NEW), 1), ((NEW, 3), NEW), ((1, NEW, 3), 1), ((0, 3), 0)]
)
def test_the_choice_of_the_tools_goes_round_in_a_circle(
    tmp_path: Path, places: tuple[int, ...], use: int
) -> None:
    """An older place comes before the second one, that before the new, and the new before it."""
    for place in places:
        fill(tmp_path / PLACES[place])

    layout = find_cache(tmp_path, ref())

    assert chosen(*places) == use
    assert layout.shown.is_relative_to(tmp_path / PLACES[use])


def test_a_file_in_a_place_is_no_place(tmp_path: Path) -> None:
    """Only folders with entries count."""
    for place in PLACES:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"")

    assert isinstance(find_cache(tmp_path, ref()), ModelScopeCache)


def test_models_and_datasets_do_not_mix(tmp_path: Path) -> None:
    """A model of that name is no dataset, and another repository is another one."""
    fill(tmp_path / "models" / OWNER / SAFE)

    assert isinstance(find_cache(tmp_path, ref(kind="dataset")), ModelScopeCache)
    assert isinstance(find_cache(tmp_path, ref(name="Qwen3")), ModelScopeCache)
    fill(tmp_path / "hub" / "datasets" / OWNER / SAFE)
    assert isinstance(find_cache(tmp_path, ref(kind="dataset")), LegacyCache)


def test_an_old_folder_is_used_whatever_the_revision(tmp_path: Path) -> None:
    """The tools read it first for every revision: files elsewhere would not be found."""
    fill(tmp_path / PLACES[0])

    assert find_cache(tmp_path, ref(revision="v2")).root == tmp_path / PLACES[0]


OFFICIAL = """
import json
from modelscope.hub.utils.utils import find_reusable_legacy_repo_dir
from modelscope_hub._download import DownloadManager

def choose(cache):
    # What modelscope.snapshot_download does: its own old places first, then its hub library's.
    found = find_reusable_legacy_repo_dir(sys.argv[2], "model", cache)
    found = found or DownloadManager._find_legacy_repo_dir(None, sys.argv[2], "model", Path(cache))
    return str(found) if found else None

print(json.dumps({str(cache): choose(str(cache)) for cache in Path(sys.argv[1]).iterdir()}))
"""


@pytest.mark.official
def test_the_official_client_chooses_the_same_place(tmp_path: Path) -> None:
    """For each place alone, each pair and each three of them."""
    groups = [
        group for size in (1, 2, 3) for group in itertools.combinations(range(len(PLACES)), size)
    ]
    for group in groups:
        for place in group:
            fill(tmp_path / "-".join(map(str, group)) / PLACES[place])

    home = {**os.environ, "HOME": str(tmp_path.parent)}
    printed = run_python(OFFICIAL, tmp_path, f"{OWNER}/{NAME}", env=home)
    theirs = json.loads(printed.splitlines()[-1])

    assert len(theirs) == len(groups) == 92
    for cache, place in theirs.items():
        ours = find_cache(Path(cache), ref())
        assert place == (str(ours.root) if isinstance(ours, LegacyCache) else None)
        use = chosen(*map(int, Path(cache).name.split("-")))
        assert ours.root.is_relative_to(Path(cache, PLACES[use]))


# -- the old cache's book ------------------------------------------------------------------------


def test_files_are_entered_with_the_commit_that_touched_them(tmp_path: Path) -> None:
    """The book is what the old client reads: a plain pickled list of dicts."""
    layout = legacy(tmp_path)

    layout.after([file("a.bin", "c1"), file("sub/b.bin", "c2"), file("c.bin", None)])

    assert book(layout) == [
        {"Path": "a.bin", "Revision": "c1"},
        {"Path": "sub/b.bin", "Revision": "c2"},
    ]
    assert list((tmp_path / ".modelhaul").iterdir()) == []


def test_entries_are_replaced_and_others_stay(tmp_path: Path) -> None:
    """One entry per path; what this run did not touch is left as it was."""
    layout = legacy(tmp_path)
    write_book(
        layout,
        [
            {"Path": "kept.bin", "Revision": "c0"},
            {"Path": "a.bin", "Revision": "c0"},
            {"Path": "a.bin", "Revision": "older"},
        ],
    )

    layout.after([file("a.bin", "c1")])

    assert book(layout) == [
        {"Path": "kept.bin", "Revision": "c0"},
        {"Path": "a.bin", "Revision": "c1"},
    ]


def test_files_are_struck_before_they_are_replaced(tmp_path: Path) -> None:
    """The old client believes the book without hashing: it must never name other content."""
    layout = legacy(tmp_path)
    layout.after([file("a.bin"), file("b.bin")])

    layout.before(["a.bin", "unknown.bin"])

    assert book(layout) == [{"Path": "b.bin", "Revision": "c1"}]


def test_a_book_that_would_not_change_is_not_written(tmp_path: Path) -> None:
    """A run that finds everything in place, in whatever order, leaves the book alone."""
    layout = legacy(tmp_path)
    layout.after([file("a.bin"), file("b.bin")])
    before = (layout.root / ".msc").stat()

    layout.before([])
    layout.before(["new.bin", "other.bin"])
    layout.after([file("a.bin"), file("b.bin")])
    layout.after([file("b.bin"), file("a.bin")])
    layout.after([file("a.bin")])
    layout.after([])

    after = (layout.root / ".msc").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_no_book_is_made_for_nothing(tmp_path: Path) -> None:
    """Without an entry to make there is no reason for a book."""
    layout = legacy(tmp_path)

    layout.before([])
    layout.before(["a.bin"])
    layout.after([])
    layout.after([file("a.bin", None)])

    assert [path.name for path in layout.root.iterdir()] == ["config.json"]


def test_a_hostile_book_is_replaced_and_not_run(tmp_path: Path) -> None:
    """A shared cache may hold anybody's pickle."""
    layout = legacy(tmp_path)
    witness = tmp_path / "ran"
    write_book(layout, [{"Path": "x", "Revision": "y"}, Hostile(os.system, f"touch {witness}")])

    layout.before(["x"])
    layout.after([file("a.bin")])

    assert not witness.exists()
    assert book(layout) == [{"Path": "a.bin", "Revision": "c1"}]
    assert not witness.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"junk", pickle.dumps({"Path": "a", "Revision": "b"}), pickle.dumps([1, None])],
    ids=["empty", "junk", "dict", "numbers"],
)
def test_an_unreadable_book_begins_anew(tmp_path: Path, content: bytes) -> None:
    """As the old client does it."""
    layout = legacy(tmp_path)
    (layout.root / ".msc").write_bytes(content)

    layout.after([file("a.bin")])

    assert book(layout) == [{"Path": "a.bin", "Revision": "c1"}]


def test_rows_that_are_no_entries_are_dropped(tmp_path: Path) -> None:
    """The good ones among them stay."""
    layout = legacy(tmp_path)
    good = {"Path": "good.bin", "Revision": "c0"}
    write_book(layout, [good, {"Path": 1, "Revision": "x"}, {"Path": "x"}, "text", None, [good]])

    layout.after([file("a.bin")])

    assert book(layout) == [good, {"Path": "a.bin", "Revision": "c1"}]


def test_a_book_is_never_half_written(tmp_path: Path) -> None:
    """It is replaced as a whole, a reader that has it open keeps the old one; nothing leaks."""
    layout = legacy(tmp_path)
    layout.after([file("a.bin")])
    before = descriptors()

    with (layout.root / ".msc").open("rb") as opened:
        layout.after([file("b.bin")])
        old = pickle.load(opened)

    assert old == [{"Path": "a.bin", "Revision": "c1"}]
    assert book(layout) == [*old, {"Path": "b.bin", "Revision": "c1"}]
    assert descriptors() == before


@pytest.mark.official
def test_the_official_client_believes_our_book(tmp_path: Path) -> None:
    """Its old cache class finds the file by path and commit, and not under another commit."""
    layout = legacy(tmp_path)
    (layout.root / "a.bin").write_bytes(b"1")
    layout.after([file("a.bin", "c" * 40), file("missing.bin", "c" * 40)])
    code = """
    from modelscope.hub.utils.caching import ModelFileSystemCache
    cache = ModelFileSystemCache(sys.argv[1])
    for path, commit in (("a.bin", "c" * 40), ("a.bin", "d" * 40), ("missing.bin", "c" * 40)):
        print(cache.get_file_by_path_and_commit_id(path, commit))
    """

    found = run_python(code, layout.root, env={**os.environ, "HOME": str(tmp_path)}).split()

    assert found == [str(layout.root / "a.bin"), "None", "None"]


@pytest.mark.official
def test_we_read_the_official_clients_book(tmp_path: Path) -> None:
    """Entries that it has made stay when we add ours."""
    layout = legacy(tmp_path)
    code = """
    from modelscope.hub.utils.caching import ModelFileSystemCache
    cache = ModelFileSystemCache(sys.argv[1])
    cache.cached_files = [{"Path": "theirs.bin", "Revision": "c0"}]
    cache.save_cached_files()
    """
    run_python(code, layout.root, env={**os.environ, "HOME": str(tmp_path)})

    layout.after([file("ours.bin")])

    assert book(layout) == [
        {"Path": "theirs.bin", "Revision": "c0"},
        {"Path": "ours.bin", "Revision": "c1"},
    ]


# -- strangers -----------------------------------------------------------------------------------


def test_files_that_the_hub_does_not_list_are_strangers(tmp_path: Path) -> None:
    """Sorted, by their repository path; the tools' books and our own state are none."""
    layout = legacy(tmp_path)
    for path in (".msc", ".mv", ".mdl", "gone.bin", "sub/old.bin", "sub/kept.bin", "sub/.msc"):
        (layout.root / path).parent.mkdir(exist_ok=True)
        (layout.root / path).write_bytes(b"")
    fill(layout.root / ".modelhaul")

    found = strangers(layout, {"config.json", "sub/kept.bin", "not/there.bin"})

    assert found == ["gone.bin", "sub/.msc", "sub/old.bin"]


def test_linked_folders_are_not_searched_for_strangers(tmp_path: Path) -> None:
    """What lies behind a link is not in the cache; a linked file is one of its names."""
    fill(tmp_path / "elsewhere")
    layout = ModelScopeCache.at(tmp_path, ref())
    layout.root.mkdir(parents=True)
    (layout.root / "folder").symlink_to(tmp_path / "elsewhere")
    (layout.root / "file").symlink_to(tmp_path / "elsewhere" / "config.json")

    assert strangers(layout, set()) == ["file"]


def test_nothing_is_strange_where_nothing_is(tmp_path: Path) -> None:
    """A snapshot that does not exist yet has no files."""
    assert strangers(find_cache(tmp_path, ref()), set()) == []
    assert snapshot_folder(tmp_path, "model", OWNER, NAME) == tmp_path / PLACES[NEW]

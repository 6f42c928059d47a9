"""What stands where a file should go, and what names a hub may send: nothing leaves the target.

Each case looks at everything around the target afterwards, not only at what it expects there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from aiohttp import web

from modelhaul import DiskFull, Incomplete, Occupied, UnsafeName
from modelhaul.store import osfile
from tests.engine.harness import payload
from tests.faults.runs import bring, refusal
from tests.hubs.fakehub import enveloped
from tests.support.network import Asked, FakeNetwork, Fault
from tests.support.site import site
from tests.support.world import World, machine, tree

LARGE = payload(3 << 20)
SMALL = b"a small file\n"


def sha256(data: bytes) -> str:
    """The digest of some bytes."""
    return hashlib.sha256(data).hexdigest()


def make_folder(path: Path) -> None:
    """A folder with a file in it."""
    path.mkdir()
    (path / "mine.txt").write_text("mine")


def make_empty_folder(path: Path) -> None:
    """A folder that could be removed without losing anything."""
    path.mkdir()


def make_file(path: Path) -> None:
    """A file of the user's."""
    path.write_text("mine")


def make_link(path: Path) -> None:
    """A link to a file of the user's, elsewhere."""
    (path.parent.parent / "elsewhere.txt").write_text("mine")
    path.symlink_to(path.parent.parent / "elsewhere.txt")


def make_folder_link(path: Path) -> None:
    """A link to a folder of the user's, elsewhere."""
    (path.parent.parent / "elsewhere").mkdir()
    path.symlink_to(path.parent.parent / "elsewhere")


def make_dangling_link(path: Path) -> None:
    """A link to a place where nothing is yet."""
    path.symlink_to(path.parent.parent / "nowhere.txt")


def make_pipe(path: Path) -> None:
    """A named pipe: who opens it for reading waits for ever."""
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    """The socket of some program."""
    here = os.getcwd()
    os.chdir(path.parent)  # its address may only be a hundred bytes long
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)


def make_device(path: Path) -> None:
    """The null device: it takes everything."""
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("making a device needs root")


Make = Callable[[Path], None]


def look(folder: Path) -> dict[str, tuple[int, int, bytes | str]]:
    """All there is below a folder: kind, inode and content of each name, nothing followed."""
    seen: dict[str, tuple[int, int, bytes | str]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content: bytes | str = b""
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        seen[str(path.relative_to(folder))] = stat.S_IFMT(status.st_mode), status.st_ino, content
    return seen


def case(make: Make, what: str, promise: str) -> pytest.ParameterSet:
    """Something at a final name, with its row in the reliability table."""
    rows = 90 if make is make_file else 88
    marks = [pytest.mark.fault(what, promise, number=rows)]
    if make is make_device:
        marks.append(pytest.mark.root)
    return pytest.param(make, marks=marks, id=what)


IN_THE_WAY = "refused before the first byte, by name; it stays as it is, whatever --force says"
NOT_OURS = "refused before the first byte, by name; --force replaces it, and nothing it leads to"
FOLDERS_AND_WORSE = [
    case(make_folder, "a folder has the final name", IN_THE_WAY),
    case(make_empty_folder, "an empty folder has the final name", IN_THE_WAY),
    case(make_pipe, "a pipe has the final name", IN_THE_WAY),
    case(make_socket, "a socket has the final name", IN_THE_WAY),
    case(make_device, "a device has the final name", IN_THE_WAY),
]
FILES_AND_LINKS = [
    case(make_file, "a file of the user has the final name", NOT_OURS),
    case(make_link, "a link to a file has the final name", NOT_OURS),
    case(make_folder_link, "a link to a folder has the final name", NOT_OURS),
    case(make_dangling_link, "a link to nowhere has the final name", NOT_OURS),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an empty target `m` in it; memory and caches are elsewhere."""
    folder = tmp_path / "user"
    (folder / "m").mkdir(parents=True)
    return folder


def user_files(folder: Path) -> dict[str, tuple[int, int, bytes | str]]:
    """What is there but the client's own memory."""
    return {path: what for path, what in look(folder).items() if not path.startswith("state")}


@pytest.mark.parametrize("data", [LARGE, SMALL, b""], ids=["large", "small", "empty"])
@pytest.mark.parametrize("make", FOLDERS_AND_WORSE + FILES_AND_LINKS)
def test_what_is_not_ours_is_not_replaced(folder: Path, make: Make, data: bytes) -> None:
    """Nothing is fetched, not even the other files, and nothing is changed."""
    make(folder / "m" / "w.bin")
    before = user_files(folder)
    network = site({"w.bin": data, "other.txt": b"other"})

    error = refusal(network, folder)

    assert type(error) is Occupied
    assert error.exit_code == 9
    assert str(folder / "m" / "w.bin") in error.message
    assert "nothing was fetched" in error.message
    assert network.asked == []
    assert user_files(folder) == before


@pytest.mark.parametrize("data", [LARGE, SMALL], ids=["large", "small"])
@pytest.mark.parametrize("make", FOLDERS_AND_WORSE)
def test_not_even_force_replaces_what_is_no_file(folder: Path, make: Make, data: bytes) -> None:
    """What is in a folder is not ours to judge, and a device is not a place for a model."""
    make(folder / "m" / "w.bin")
    before = user_files(folder)

    error = refusal(site({"w.bin": data}), folder, force=True)

    assert type(error) is Occupied
    assert "--force" not in str(error.hint)
    assert user_files(folder) == before


@pytest.mark.parametrize("data", [LARGE, SMALL], ids=["large", "small"])
@pytest.mark.parametrize("make", FILES_AND_LINKS)
def test_force_replaces_the_name_and_not_what_it_leads_to(
    folder: Path, make: Make, data: bytes
) -> None:
    """A link is replaced itself; its target keeps its bytes, or is not made."""
    make(folder / "m" / "w.bin")
    before = user_files(folder)

    bring(site({"w.bin": data}), folder, force=True)

    after = user_files(folder)
    kind, _, content = after.pop("m/w.bin")
    del before["m/w.bin"]
    assert (kind, content) == (stat.S_IFREG, data)
    assert after == before


@pytest.mark.fault("a file with other content stands there and the new one cannot be had",
                   "the old one stays until the new one is proven", number=90)  # fmt: skip
@pytest.mark.parametrize("data", [LARGE, SMALL], ids=["large", "small"])
def test_force_keeps_the_old_file_until_the_new_one_is_proven(folder: Path, data: bytes) -> None:
    """Wrong bytes twice: the run fails, the user's file is as it was."""
    make_file(folder / "m" / "w.bin")
    before = user_files(folder)
    network = site({"w.bin": data}, fault=lambda asked: Fault(flip=(asked.span.start,)))

    error = refusal(network, folder, force=True)

    assert error.exit_code == 8
    assert network.asked
    assert {path: what for path, what in user_files(folder).items() if path in before} == before


def at_first_byte(act: Callable[[], None]) -> Callable[[Asked], Fault | None]:
    """A fault that is none: when the first bytes are asked for, something happens on disk."""

    def fault(asked: Asked) -> Fault | None:
        if asked.number == 0:
            act()
        return None

    return fault


@pytest.mark.parametrize("data", [LARGE, SMALL], ids=["large", "small"])
@pytest.mark.parametrize("make", FOLDERS_AND_WORSE + FILES_AND_LINKS)
def test_what_appears_in_the_middle_is_not_replaced_either(
    folder: Path, make: Make, data: bytes
) -> None:
    """The plan saw nothing there, so nothing may give way; what was fetched is not lost."""
    final = folder / "m" / "w.bin"
    network = site({"w.bin": data}, fault=at_first_byte(lambda: make(final)))

    error = refusal(network, folder)
    kind = stat.S_IFMT(final.lstat().st_mode)
    around = {path for path in user_files(folder) if not path.startswith("m/")}

    assert network.asked
    assert (type(error), error.exit_code) == (Occupied, 9)
    assert str(final) in error.message
    assert kind != stat.S_IFREG or final.read_text() == "mine"
    assert around <= {"m", "elsewhere", "elsewhere.txt"}
    assert "elsewhere.txt" not in around or (folder / "elsewhere.txt").read_text() == "mine"


# -- folders on the way ----------------------------------------------------------------------------

LEADS_OUT = "that file is refused, the others come, nothing outside of the target is touched"


def three(**more: bytes) -> dict[str, bytes]:
    """A small, a large and a copied file below `sub`, and one that is not."""
    return {
        "sub/s.txt": SMALL, "sub/w.bin": LARGE, "sub/deep/twin.bin": LARGE, "fine.txt": b"fine",
        **more,
    }  # fmt: skip


@pytest.mark.fault("a folder of the target is a link that leads out of it", LEADS_OUT, number=89)
@pytest.mark.parametrize("how", ["folder", "nowhere", "itself", "file"])
def test_a_linked_folder_below_the_target_is_not_entered(folder: Path, how: str) -> None:
    """Small, large and copied files below it are refused; the link stays."""
    outside = folder / "outside"
    if how == "folder":
        outside.mkdir()
    elif how == "file":
        outside.write_text("mine")
    (folder / "m" / "sub").symlink_to("sub" if how == "itself" else outside)
    before = user_files(folder)

    error = refusal(site(three()), folder)

    assert isinstance(error, Incomplete)
    assert error.exit_code == 3
    assert isinstance(error.__cause__, UnsafeName)
    assert str(folder / "m" / "sub") in error.message
    assert {result.path for result in error.report.files if result.error is None} == {"fine.txt"}
    after = user_files(folder)
    assert after.pop("m/fine.txt")[2] == b"fine"
    assert after == before


@pytest.mark.fault("a folder of the target becomes a link in the middle", LEADS_OUT, number=89)
@pytest.mark.parametrize("path", ["sub/w.bin", "sub/s.txt"], ids=["large", "small"])
def test_a_folder_that_becomes_a_link_is_not_entered(folder: Path, path: str) -> None:
    """It is looked at once more before the final name is given."""
    outside = folder / "outside"
    outside.mkdir()

    def swap() -> None:
        sub = folder / "m" / "sub"
        if sub.is_dir():
            sub.rmdir()
        sub.symlink_to(outside)

    network = site({path: three()[path]}, fault=at_first_byte(swap))

    error = refusal(network, folder)

    assert network.asked
    assert isinstance(error, UnsafeName)
    assert list(outside.iterdir()) == []


@pytest.mark.fault(
    "our own folder in the target is a link", "refused; it is not entered", number=89
)
@pytest.mark.parametrize("data", [LARGE, SMALL], ids=["large", "small"])
def test_parts_are_not_put_behind_a_link(folder: Path, data: bytes) -> None:
    """`.modelhaul` of a target that somebody else prepared may lead to anything."""
    outside = folder / "outside"
    make_folder(outside)
    (folder / "m" / ".modelhaul").symlink_to(outside)
    before = user_files(folder)
    network = site({"w.bin": data})

    error = refusal(network, folder)

    assert isinstance(error, UnsafeName)
    assert str(folder / "m" / ".modelhaul") in error.message
    assert network.asked == []
    assert user_files(folder) == before


# -- the names of a listing ------------------------------------------------------------------------

ESCAPES = "that file is refused by name and reason, the others come, nothing is outside the target"

#: Path in the listing: what is said of it. Every one may be a large, a small or an empty file.
HOSTILE = {
    "../climbs.txt": "climbs out",
    "../../../climbs.txt": "climbs out",
    "sub/../../climbs.txt": "climbs out",
    "sub/..": "climbs out",
    "./here.txt": "climbs out",
    "/{outside}/file.txt": "absolute path",
    "//file.txt": "absolute path",
    "sub//empty-part.txt": "empty part",
    "ends/": "empty part",
    "C:\\drive.txt": "backslash",
    "..\\climbs.txt": "backslash",
    "sub\\..\\..\\climbs.txt": "backslash",
    "nul\0byte.txt": "control character",
    "new\nline.txt": "control character",
    "escape\x1b[31m.txt": "control character",
    "c1\x85control.txt": "control character",
    "del\x7f.txt": "control character",
    "l" * 256: "longer than 255 bytes",
    "\u6a21" * 86: "longer than 255 bytes",
    "deep/" * 801 + "f": "longer than 4000 bytes",
    ".git/hooks/post-checkout": "reaches into a .git",
    "sub/.GIT/config": "reaches into a .git",
    ".g\u200cit/config": "reaches into a .git",
    "git~1/config": "reaches into a .git",
    ".modelhaul/evil.part": "folder of our own state",
    ".MODELHAUL/evil.part": "folder of our own state",
}


def asked_for(network: FakeNetwork) -> set[str]:
    """Paths of which bytes were asked for."""
    return {unquote(one.url.rpartition("FilePath=")[2]) for one in network.asked}


def listed(data: bytes, outside: Path) -> dict[str, bytes]:
    """The hostile listing, and two files that are what they should be."""
    here = str(outside).lstrip("/")
    named = {path.replace("{outside}", here): data for path in HOSTILE}
    return {"fine.txt": b"fine", **named, "sub/fine.bin": LARGE}


@pytest.mark.fault("a name in the listing leads out of the target", ESCAPES, number=(96, 100))
@pytest.mark.parametrize("data", [LARGE[: 2 << 20], SMALL, b""], ids=["large", "small", "empty"])
@pytest.mark.parametrize("plain", [True, False], ids=["folder", "cache"])
def test_a_hostile_name_costs_its_own_file_only(folder: Path, data: bytes, plain: bool) -> None:
    """Each is refused with its reason before a byte of it is asked for."""
    outside = folder / "outside"
    outside.mkdir()
    network = site(listed(data, outside))

    error = refusal(network, folder, plain=plain)

    assert isinstance(error, Incomplete)
    refused = {result.path: result.error for result in error.report.files if result.error}
    reasons = [str(refused[path]) for path in listed(data, outside) if path in refused]
    assert len(reasons) == len(HOSTILE)
    assert all(why in said for why, said in zip(HOSTILE.values(), reasons, strict=True))
    assert all(type(one) is UnsafeName for one in refused.values())
    assert asked_for(network) == {"fine.txt", "sub/fine.bin"}
    target = Path(error.report.path)
    files = {path for path, what in user_files(folder).items() if what[0] != stat.S_IFDIR}
    assert {str(folder / path) for path in files} == {
        str(target / "fine.txt"), str(target / "sub" / "fine.bin"),
    }  # fmt: skip
    assert list(outside.iterdir()) == []


@pytest.mark.fault("a name is longer than this file system holds", ESCAPES, number=98)
@pytest.mark.parametrize("data", [LARGE, SMALL], ids=["large", "small"])
@pytest.mark.parametrize("there", [True, False], ids=["folder is there", "folder is new"])
def test_a_path_that_does_not_fit_behind_the_target_costs_its_own_file_only(
    folder: Path, data: bytes, there: bool
) -> None:
    """Short enough by itself, too long below this target: what came later is not lost for it."""
    folder = folder / ("t" * 200)
    above = "/".join(["d" * 200] * 18)
    long = f"{above}/{'f' * 250}"
    (folder / "m" / (above if there else "")).mkdir(parents=True)
    network = site({long: data, "fine.txt": b"fine"})

    error = refusal(network, folder)

    assert isinstance(error, Incomplete)
    assert isinstance(error.__cause__, UnsafeName)
    assert "too long for this file system" in error.message
    assert asked_for(network) == {"fine.txt"}
    assert (folder / "m" / "fine.txt").read_bytes() == b"fine"


#: Names that are odd and nobody's business: they are stored as they are.
ODD = [
    "CON", "nul.txt", "aux/com1.bin", "trailing dot.", "trailing space ", " leading space",
    "-rf", "--force", "~", "$HOME", "`id`", "a&b|c;d", "100%.txt", "%2F", "%2e%2e%2fx", "a+b",
    "what?.txt", "#1", "a:b", "<>*\"'", "...", ".hidden", ".gitignore", ".gitattributes",
    "\u6a21\u578b.bin", "\U0001f600", "\u202egpj.exe", "e\u0301 and \u00e9", "n" * 255,
    "/".join(["x"] * 128),
]  # fmt: skip


@pytest.mark.fault("odd names that are allowed", "stored exactly as they are", number=(96, 98, 99))
@pytest.mark.parametrize("data", [LARGE[: 2 << 20], SMALL], ids=["large", "small"])
def test_odd_names_are_kept_to_the_letter(folder: Path, data: bytes) -> None:
    """What only Windows cannot store is stored here; nothing is quoted twice, nothing guessed."""
    files = {path: data[:-1] + bytes([at]) for at, path in enumerate(ODD)}

    bring(site(files), folder)

    found = {path.removeprefix("m/"): what[2] for path, what in user_files(folder).items()}
    assert {path: found.get(path) for path in files} == files
    assert not (folder / "m" / ".modelhaul").exists()


PAIR = "both are refused and named, the others come"


@pytest.mark.fault("a path is listed as a file and as a folder", PAIR, number=101)
@pytest.mark.parametrize("order", [1, -1])
def test_a_path_cannot_be_both_file_and_folder(folder: Path, order: int) -> None:
    """Whichever comes first in the listing: choosing one would be a guess."""
    paths = ["a", "a/b.bin", "a/c/d.bin", "fine.txt"][::order]

    error = refusal(site({path: SMALL + path.encode() for path in paths}), folder)

    assert isinstance(error, Incomplete)
    refused = {result.path for result in error.report.files if result.error}
    assert refused == {"a", "a/b.bin", "a/c/d.bin"}
    assert all(type(cause) is UnsafeName for cause in error.report.causes)
    assert set(user_files(folder)) == {"m", "m/fine.txt"}


FOLDED = {
    "Model.bin": LARGE,
    "model.bin": LARGE[:-1],
    "caf\u00e9.txt": SMALL,
    "cafe\u0301.txt": SMALL + b"2",
    "Sub/one.txt": SMALL,
    "sub/two.txt": SMALL + b"2",
    "stra\u00dfe.txt": b"1",
    "STRASSE.txt": b"2",
    "fine.txt": b"fine",
}
FOLDING = "both are refused and named where the file system folds names, else both are stored"


@pytest.mark.fault("names differ in case or Unicode form only", FOLDING, number=97)
def test_names_that_differ_in_case_or_form_are_two_files_here(folder: Path) -> None:
    """Linux takes any bytes: nothing is refused for the sake of other systems."""
    bring(site(FOLDED), folder)

    found = {path.removeprefix("m/"): what[2] for path, what in user_files(folder).items()}
    assert {path: found.get(path) for path in FOLDED} == FOLDED


@pytest.mark.fault("the file system folds case and Unicode form", FOLDING, number=97)
def test_names_that_the_file_system_folds_are_refused_in_pairs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second would silently replace the first; this one stands in for a disk that folds."""
    monkeypatch.setattr(osfile, "folds_names", lambda folder: True)

    check_folding(folder)


@pytest.mark.fault("the file system folds case and Unicode form", FOLDING, number=97)
@pytest.mark.root
def test_a_real_disk_that_folds_is_recognised(folding_disk: Path) -> None:
    """ext4 with casefold, where this kernel has it."""
    (folding_disk / "m").mkdir(exist_ok=True)

    check_folding(folding_disk)


def check_folding(folder: Path) -> None:
    """A download of the names to a disk that folds them."""
    error = refusal(site(FOLDED), folder)

    assert isinstance(error, Incomplete)
    refused = {result.path: str(result.error) for result in error.report.files if result.error}
    assert set(refused) == set(FOLDED) - {"fine.txt", "Sub/one.txt", "sub/two.txt"}
    assert "cannot tell it from Model.bin" in refused["model.bin"]
    assert "cannot tell it from model.bin" in refused["Model.bin"]
    files = {path for path, what in user_files(folder).items() if what[0] == stat.S_IFREG}
    assert {path.casefold() for path in files} == {"m/fine.txt", "m/sub/one.txt", "m/sub/two.txt"}


@pytest.fixture
def folding_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system that folds names."""
    if os.geteuid() != 0:
        pytest.skip("a disk that folds names has to be mounted, which needs root")
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed")
    image, point = tmp_path / "image", tmp_path / "folding"
    image.touch()
    os.truncate(image, 32 << 20)
    point.mkdir()
    make = ["mkfs.ext4", "-q", "-O", "casefold", "-E", "encoding=utf8", str(image)]
    done = subprocess.run(make, capture_output=True, text=True)
    if done.returncode == 0:
        done = subprocess.run(
            ["mount", "-o", "loop", str(image), str(point)], capture_output=True, text=True
        )
    if done.returncode != 0:
        pytest.skip("this kernel or mkfs has no casefold")
    try:
        folder = point / "user"
        folder.mkdir()
        subprocess.run(["chattr", "+F", str(folder)], check=True)
        yield folder
    finally:
        subprocess.run(["umount", str(point)], check=True)


SIZES = "refused: a plan could not be trusted"


@pytest.mark.fault("the listing states an impossible size", SIZES, number=104)
@pytest.mark.parametrize("size", [-1, 10**30, "12", 1.5, True, [12]])
def test_an_impossible_size_is_refused(folder: Path, size: object) -> None:
    """Nothing is fetched or made."""
    network = site({"w.bin": SMALL})
    listing = enveloped({"Files": [{"Path": "w.bin", "Type": "blob", "Size": size}]})
    (url,) = [url for url in network.answers if url.endswith("/repo/files")]
    network.answers[url] = lambda url: listing

    error = refusal(network, folder)

    assert error.exit_code == 7
    assert "'w.bin' with an impossible size" in error.message
    assert network.asked == []
    assert set(user_files(folder)) == {"m"}


@pytest.mark.fault("the listing states a size that no disk has", "refused with numbers",
                   number=(76, 104))  # fmt: skip
def test_a_size_that_no_disk_has_is_no_reason_to_begin(folder: Path) -> None:
    """It is a possible number, so the free space decides."""
    network = site({"w.bin": SMALL})
    row = {"Path": "w.bin", "Type": "blob", "Size": 2**52, "Sha256": "0" * 64}
    (url,) = [url for url in network.answers if url.endswith("/repo/files")]
    network.answers[url] = lambda url: enveloped({"Files": [row]})

    error = refusal(network, folder)

    assert type(error) is DiskFull
    assert "4.50 PB needed" in error.message
    assert network.asked == []


# -- the real command ------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A fresh machine and a hub with a small and a large file."""
    with machine(tmp_path) as world:
        world.put("acme/one", {"fine.txt": b"fine", "w.bin": LARGE})
        yield world


@pytest.mark.command
@pytest.mark.fault("a name in the listing leads out of the target", ESCAPES, number=(96, 100))
def test_the_command_refuses_hostile_names_and_brings_the_rest(world: World) -> None:
    """A lying hub: exit 3, every name on stderr without its tricks, nothing outside."""
    rows = [
        {"Path": path, "Type": "blob", "Size": 3, "Sha256": "0" * 64}
        for path in listed(b"", world.work)
        if not path.startswith(("fine", "sub/fine"))
    ]
    rows.append({"Path": "fine.txt", "Type": "blob", "Size": 4, "Sha256": sha256(b"fine")})

    def lie(request: web.Request) -> web.StreamResponse | None:
        if not request.path.endswith("/repo/files"):
            return None
        return web.json_response({"Code": 200, "Success": True, "Data": {"Files": rows}})

    world.hub.fault = lie

    done = world.run("download", "acme/one", "--local-dir", "a/b/m")

    assert done.returncode == 3
    assert f"{len(HOSTILE)} of {len(rows)} files could not be had" in done.stderr
    assert done.stderr.count("refused to write") >= len(HOSTILE)
    assert all(char.isprintable() or char == "\n" for char in done.stderr)
    assert done.stdout == ""
    assert tree(world.work) == {"a/b/m/fine.txt": b"fine"}
    assert not [seen for seen in world.hub.files_asked() if "fine" not in str(seen.query)]


@pytest.mark.command
@pytest.mark.fault("a folder, a pipe and a device have final names", IN_THE_WAY, number=88)
@pytest.mark.parametrize("how", [[], ["--force"]], ids=["plain", "force"])
def test_the_command_leaves_alone_what_is_no_file(world: World, how: list[str]) -> None:
    """It says which, does not hang on any, and fetches nothing."""
    target = world.work / "m"
    target.mkdir()
    make_pipe(target / "fine.txt")
    make_folder(target / "w.bin")
    before = look(world.work)

    done = world.run("download", "acme/one", "--local-dir", "m", *how, timeout=20)

    assert done.returncode == 9
    assert "(and 1 more); nothing was fetched" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert look(world.work) == before
    assert world.hub.files_asked() == []


@pytest.mark.command
@pytest.mark.fault("our own folder is a link to the user's files", "not listed, not cleaned",
                   number=89)  # fmt: skip
@pytest.mark.parametrize("verb", ["parts", "clean"])
def test_clean_does_not_follow_a_link(world: World, verb: str) -> None:
    """What it leads to is not unfinished work of ours."""
    (world.work / "m").mkdir()
    (world.work / "papers").mkdir()
    (world.work / "papers" / "thesis.tex").write_text("years of work")
    (world.work / "m" / ".modelhaul").symlink_to(world.work / "papers")
    before = look(world.work)

    done = world.run(verb, "m")

    assert done.returncode == 9
    assert "is a symbolic link" in done.stderr
    assert look(world.work) == before

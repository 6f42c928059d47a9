"""What stands where a file should go, and what names a hub may send: nothing leaves the target.

Each case looks at everything around the target afterwards, not only at what it expects there.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from modelhaul import Incomplete, Occupied, UnsafeName
from tests.engine.harness import payload
from tests.faults.runs import bring, refusal
from tests.support.network import Asked, Fault
from tests.support.site import site

LARGE = payload(3 << 20)
SMALL = b"a small file\n"


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
    return pytest.param(make, marks=pytest.mark.fault(what, promise, number=rows), id=what)


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

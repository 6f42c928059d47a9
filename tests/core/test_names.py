"""Names that a server sends: what is refused, what is not, and which cannot stand together."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhaul.core.names import RESERVED_FOLDER, collisions, fault
from tests.support.properties import thorough

# 85 characters of 3 bytes are 255 bytes.
WIDE = "漢"


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize(
    "path",
    [
        "config.json",
        "model-00001-of-00163.safetensors",
        "deep/er/and/deeper/file",
        "name with spaces.txt",
        "ünïcödé/漢字/🤗.bin",
        ".gitattributes",
        ".gitignore",
        ".github/workflows/x.yml",
        "git/config",
        "x.git",
        ".mdl",
        "...a",
        "..a/b",
        "a..b/c",
        "-rf",
        "~",
        "$HOME",
        "%2e%2e/x",
        f"deep/{RESERVED_FOLDER}/x",
        f"{RESERVED_FOLDER}.txt",
        "console.py",
        "auxiliary/com.txt",
        "a" * 255,
        WIDE * 85,
        "/".join(["a" * 249] * 16),
        "/".join("a" * 128),
    ],
)
def test_ordinary_names_are_fine(path: str, windows: bool) -> None:
    """What real repositories hold, and what only looks dangerous."""
    assert fault(path, windows=windows) is None


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "empty"),
        ("/etc/passwd", "absolute"),
        ("//server/share", "absolute"),
        ("..", "climbs"),
        ("../x", "climbs"),
        ("a/../../x", "climbs"),
        ("a/..", "climbs"),
        (".", "climbs"),
        ("./x", "climbs"),
        ("a/./b", "climbs"),
        ("a//b", "empty part"),
        ("a/", "empty part"),
        ("a\\b", "backslash"),
        ("..\\x", "backslash"),
        ("\\\\server\\share", "backslash"),
        ("a\0b", "control"),
        ("a\nb", "control"),
        ("a\x1b[2Jb", "control"),
        ("a\x7fb", "control"),
        ("a\x9bb", "control"),
        (".git", ".git"),
        (".git/hooks/post-checkout", ".git"),
        (".GIT/config", ".git"),
        (".gIt/config", ".git"),
        ("sub/.git/config", ".git"),
        (".git./config", ".git"),
        (".git.. /config", ".git"),
        (".git ", ".git"),
        (RESERVED_FOLDER, "our own state"),
        (f"{RESERVED_FOLDER}/x.part", "our own state"),
        (f"{RESERVED_FOLDER.upper()}/x", "our own state"),
        ("a" * 256, "255 bytes"),
        (WIDE * 85 + "a", "255 bytes"),
        ("x/" + "é" * 128, "255 bytes"),
        ("/".join(["a" * 249] * 15 + ["a" * 251]), "4000 bytes"),
        ("/".join(["漢" * 80] * 17), "4000 bytes"),
        ("/".join("a" * 129), "128 parts"),
        ("\ud800", "Unicode"),
        ("a/caf\udce9", "Unicode"),
    ],
)
def test_hostile_names_are_refused(path: str, reason: str, windows: bool) -> None:
    """On every system, with a reason that says what is wrong."""
    why = fault(path, windows=windows)

    assert why is not None
    assert reason in why


@pytest.mark.parametrize(
    "path",
    [
        "C:/x",
        "c:x",
        "C:",
        "file.txt:stream",
        "aux",
        "aux.py",
        "models/aux.py",
        "AUX.tar.gz",
        "con",
        "Con.txt",
        "prn",
        "nul",
        "NUL.json",
        "com1",
        "com9.bin",
        "COM0",
        "lpt¹",
        "lpt3.x",
        "nul .txt",
        "aux  .py",
        "models/com1 .tar.gz",
        "conin$",
        "CONOUT$",
        "a.",
        "a ",
        "a./b",
        "a /b",
        "what?.txt",
        "a*b",
        "a<b",
        "a>b",
        'a"b',
        "a|b",
    ],
)
def test_names_that_only_windows_cannot_store(path: str) -> None:
    """Refused there and allowed elsewhere: repositories do hold `aux.py`."""
    assert fault(path, windows=True) is not None
    assert fault(path) is None


@pytest.mark.parametrize(
    ("path", "refused"),
    [
        (".msc", True),
        (".MSC", True),
        (".mv", True),
        (".msc/x", True),
        (".MV/deep/x", True),
        ("sub/.msc", False),
        ("sub/.msc/x", False),
        (".msc2", False),
        (".msc2/x", False),
    ],
)
def test_files_of_the_layout_at_the_top_are_refused(path: str, refused: bool) -> None:
    """The cache keeps its own books under these names, in any case, and only at the top.

    A folder of such a name would stand where the book is to be.
    """
    why = fault(path, reserved=(".msc", ".mv"))

    assert (why is not None) == refused
    assert fault(path) is None


@pytest.mark.parametrize(
    ("path", "refused"),
    [
        (".cache/huggingface", True),
        (".cache/HuggingFace/download/x.metadata", True),
        (".cache", True),
        (".cache/other", False),
        (".cache/huggingface2", False),
        (".cac", False),
        ("sub/.cache/huggingface/x", False),
    ],
)
def test_files_in_a_folder_of_the_layout_are_refused(path: str, refused: bool) -> None:
    """And a file where a folder above it has to be."""
    assert (fault(path, reserved=(".cache/huggingface",)) is not None) == refused


@thorough
@given(path=st.text(st.sampled_from("./\\aA:\0 ~\u202e"), max_size=12))
def test_a_name_without_fault_stays_below_its_folder(path: str) -> None:
    """Followed part by part, it never leaves the target, and names a file in it."""
    if fault(path) is not None:
        return

    depth = 0
    for part in path.split("/"):
        depth += {"": 0, ".": 0, "..": -1}.get(part, 1)
        assert depth > 0
    assert "\0" not in path
    assert "\\" not in path


@thorough
@given(path=st.text(max_size=40), windows=st.booleans())
def test_any_text_gets_a_verdict(path: str, windows: bool) -> None:
    """Nothing a server sends makes the judge fall over; Windows is never more lenient."""
    why = fault(path, windows=windows)

    assert why is None or len(why) > 5
    if windows and why is None:
        assert fault(path) is None


# -- names that cannot stand together --------------------------------------------------------------


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize(
    "paths",
    [
        [],
        ["a"],
        ["a", "b", "c/a", "c/b"],
        ["a/b/c", "a/b/d", "a/e"],
        ["a", "ab", "a.b"],
        ["a-b", "a/b"],
    ],
)
def test_these_can_stand_together(paths: list[str], fold: bool) -> None:
    """Different files in shared folders are no collision."""
    assert collisions(paths, fold=fold) == {}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("README.md", "readme.md"),
        ("Sub/x", "sub/x"),
        ("Sub/X", "sUB/x"),
        ("é", "e\u0301"),
        ("É/x", "e\u0301/x"),
        ("\u212b", "å"),
        ("straße", "STRASSE"),
        ("\u03c3", "\u03c2"),
        ("ﬁle", "FILE"),
    ],
)
def test_names_that_differ_in_case_or_form_collide_where_that_is_folded(
    one: str, other: str
) -> None:
    """Both are refused, each names the other; elsewhere both are fine."""
    found = collisions([one, "else", other], fold=True)

    assert set(found) == {one, other}
    assert other in found[one]
    assert one in found[other]
    assert collisions([one, "else", other], fold=False) == {}


@thorough
@given(
    name=st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1)
)
def test_the_forms_of_one_name_collide(name: str) -> None:
    """A file system that folds stores one file for all normal forms of a name."""
    forms = {unicodedata.normalize(form, name) for form in ("NFC", "NFD")} | {name}

    found = collisions(sorted(forms), fold=True)

    assert set(found) == (forms if len(forms) > 1 else set())


@thorough
@given(
    path=st.lists(
        st.text(st.sampled_from("aGg1._-~ :/\\é\u200b\n"), max_size=6)
        | st.sampled_from([".git", "git~1", "..", "con", RESERVED_FOLDER, "b" * 255, "b" * 256]),
        max_size=4,
    ).map("/".join)
)
def test_the_short_way_for_harmless_names_refuses_what_the_long_way_does(path: str) -> None:
    """A layout that keeps names for itself has every name judged in full."""
    assert fault(path) == fault(path, reserved=("kept for itself",))


def test_a_name_that_the_layout_keeps_is_refused_however_harmless() -> None:
    """It is the layout that says which; at the top only."""
    assert fault("book", reserved=("book",)) is not None
    assert fault("sub/book", reserved=("book",)) is None


@pytest.mark.parametrize("fold", [False, True])
def test_a_path_of_very_many_parts_is_judged_too(fold: bool) -> None:
    """As many as the longest path can have; a listing may hold it."""
    deep = "/".join(["a"] * 2000)

    assert set(collisions([deep, "b"], fold=fold)) == set()
    assert set(collisions([deep, "a/a"], fold=fold)) == {deep, "a/a"}


@pytest.mark.parametrize("fold", [False, True])
def test_a_path_that_is_listed_twice_is_refused(fold: bool) -> None:
    """Which of the two contents is meant nobody can say."""
    assert set(collisions(["a", "b", "a"], fold=fold)) == {"a"}


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize(
    ("paths", "refused"),
    [
        (["a", "a/b"], {"a", "a/b"}),
        (["a/b", "a"], {"a", "a/b"}),
        (["a/b/c/d", "a/b"], {"a/b/c/d", "a/b"}),
        (["a", "a/b", "a/c", "d"], {"a", "a/b", "a/c"}),
        (["a/b", "a/b/c", "a/d"], {"a/b", "a/b/c"}),
    ],
)
def test_a_path_cannot_be_a_file_and_a_folder(
    paths: list[str], refused: set[str], fold: bool
) -> None:
    """File and all below it are refused: choosing one would be a guess."""
    found = collisions(paths, fold=fold)

    assert set(found) == refused
    assert all("listed as a file" in why for why in found.values())


def test_a_file_and_a_folder_that_differ_in_case_collide_where_that_is_folded() -> None:
    """`A` and `a/b` are one name there, and two elsewhere."""
    paths = ["A", "a/b"]

    assert set(collisions(paths, fold=True)) == {"A", "a/b"}
    assert collisions(paths, fold=False) == {}


def same_name(name: str, fold: bool) -> str:
    """The model's idea of when a folder takes two names for one (Unicode, definition D145)."""
    if not fold:
        return name
    folded = unicodedata.normalize("NFD", name).casefold()
    return unicodedata.normalize("NFD", folded)


def conflict(one: str, other: str, fold: bool) -> bool:
    """Whether a folder could not hold both, walking down part by part."""
    ours = [same_name(part, fold) for part in one.split("/")]
    theirs = [same_name(part, fold) for part in other.split("/")]
    shared = min(len(ours), len(theirs))
    return ours[:shared] == theirs[:shared]


names = st.sampled_from(["a", "A", "b", "é", "E\u0301", "ß", "SS"])
paths = st.lists(names, min_size=1, max_size=3).map("/".join)


@thorough
@given(listing=st.lists(paths, max_size=8), fold=st.booleans())
def test_exactly_the_paths_in_a_conflict_are_refused(listing: list[str], fold: bool) -> None:
    """Whoever is not refused fits beside every other, and nobody is refused for nothing."""
    found = collisions(listing, fold=fold)

    expected = {
        one
        for at, one in enumerate(listing)
        for also, other in enumerate(listing)
        if at != also and conflict(one, other, fold)
    }
    assert set(found) == expected

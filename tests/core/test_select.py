"""Which files of a listing are wanted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhaul.core.repo import RemoteFile
from modelhaul.core.select import matcher, select
from modelhaul.errors import NothingMatched
from tests.support.properties import thorough

LISTING = [
    RemoteFile(path, 1)
    for path in (
        ".gitattributes",
        ".hidden/notes.txt",
        "README.md",
        "config.json",
        "model-00001.safetensors",
        "model-00002.safetensors",
        "onnx/config.json",
        "onnx/deep/model.onnx",
        "pytorch_model.bin",
        "tokenizer.json",
    )
]


def paths(*include: str, exclude: tuple[str, ...] = (), names: tuple[str, ...] = ()) -> list[str]:
    """The paths that are selected from LISTING."""
    return [file.path for file in select(LISTING, include=include, exclude=exclude, names=names)]


def test_without_a_wish_everything_is_wanted() -> None:
    """In the order of the listing."""
    assert select(LISTING) == tuple(LISTING)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("config.json", ["config.json"]),
        ("./config.json", ["config.json"]),
        ("*.md", ["README.md"]),
        ("*.json", ["config.json", "onnx/config.json", "tokenizer.json"]),
        ("onnx/*", ["onnx/config.json", "onnx/deep/model.onnx"]),
        ("onnx/", ["onnx/config.json", "onnx/deep/model.onnx"]),
        ("./onnx/", ["onnx/config.json", "onnx/deep/model.onnx"]),
        ("onnx/deep/", ["onnx/deep/model.onnx"]),
        ("*/config.json", ["onnx/config.json"]),
        ("model-0000?.safetensors", ["model-00001.safetensors", "model-00002.safetensors"]),
        ("model-0000[2-9].safetensors", ["model-00002.safetensors"]),
        ("model-0000[!2].safetensors", ["model-00001.safetensors"]),
        (".*", [".gitattributes", ".hidden/notes.txt"]),
        (".*\\.bin", ["pytorch_model.bin"]),
        (".*\\.json", ["config.json", "onnx/config.json", "tokenizer.json"]),
    ],
)
def test_a_pattern_is_the_shell_s_over_the_whole_path(pattern: str, expected: list[str]) -> None:
    """`*` crosses `/`, `dir/` means all below, and ModelScope's `.*\\.bin` means `*.bin`."""
    assert paths(pattern) == expected


@pytest.mark.parametrize("pattern", ["readme.md", "*.JSON", "onnx", "config", "json", "onnx/deep"])
def test_a_pattern_that_matches_nothing_is_an_error(pattern: str) -> None:
    """Case counts, a part of a path is no match; the error repeats the pattern."""
    with pytest.raises(NothingMatched) as caught:
        paths(pattern)

    assert repr(pattern) in caught.value.message
    assert caught.value.hint is not None


def test_one_pattern_that_matches_does_not_excuse_another() -> None:
    """A typo beside a good pattern would leave files out in silence."""
    with pytest.raises(NothingMatched, match="nothing-like-it"):
        paths("*.json", "nothing-like-it/*")


def test_patterns_add_up() -> None:
    """Each pattern takes its files, the listing gives the order."""
    assert paths("tokenizer.json", "*.md") == ["README.md", "tokenizer.json"]


def test_names_and_patterns_add_up() -> None:
    """A name is exact, a pattern is not."""
    found = paths("*.md", names=("config.json", "./pytorch_model.bin"))

    assert found == ["README.md", "config.json", "pytorch_model.bin"]


@pytest.mark.parametrize("name", ["*.json", "Config.json", "onnx/", ""])
def test_a_name_that_is_not_listed_is_an_error(name: str) -> None:
    """Names are no patterns."""
    with pytest.raises(NothingMatched) as caught:
        paths(names=(name,))

    assert repr(name) in caught.value.message


def test_a_name_that_is_nearly_right_is_guessed_at() -> None:
    """The hint names the file that was probably meant."""
    with pytest.raises(NothingMatched) as caught:
        paths(names=("conifg.json",))

    assert caught.value.hint == "did you mean 'config.json'?"


def test_exclude_wins_over_patterns_and_names() -> None:
    """What was asked for and excluded is excluded."""
    found = paths("*.json", exclude=("onnx/", "tok*"), names=("README.md", "tokenizer.json"))

    assert found == ["README.md", "config.json"]


def test_exclude_alone_takes_away_from_everything() -> None:
    """`.*` means hidden files, not all files."""
    found = paths(exclude=(".*", "*.safetensors", "onnx/*"))

    assert found == ["README.md", "config.json", "pytorch_model.bin", "tokenizer.json"]


def test_an_exclude_that_matches_nothing_is_no_error() -> None:
    """What should be left out is left out."""
    assert len(paths(exclude=("*.gguf",))) == len(LISTING)


def test_nothing_left_is_an_error() -> None:
    """A run that fetches nothing is not what anybody meant."""
    with pytest.raises(NothingMatched, match="excluded"):
        paths("*.md", exclude=("*",))


def test_an_empty_repository_has_nothing_and_that_is_fine() -> None:
    """It is an error only to ask for something in it."""
    assert select([]) == ()
    with pytest.raises(NothingMatched):
        select([], include=["*"])


def test_empty_patterns_are_not_there() -> None:
    """An option that was given an empty value excludes nothing."""
    assert len(paths(exclude=("",))) == len(LISTING)


names = st.text(st.sampled_from("ab/.*?[]!-\\"), min_size=1, max_size=6)


@thorough
@given(
    listed=st.lists(names, max_size=6, unique=True),
    include=st.lists(names, max_size=3),
    exclude=st.lists(names, max_size=3),
)
def test_a_selection_is_made_of_the_listing(
    listed: list[str], include: list[str], exclude: list[str]
) -> None:
    """Whatever the patterns, what is selected is listed, in order, included and not excluded."""
    files = [RemoteFile(path, 1) for path in listed]

    try:
        chosen = select(files, include=include, exclude=exclude)
    except NothingMatched:
        return

    assert [file for file in files if file in chosen] == list(chosen)
    for file in files:
        included = not include or any(matcher(pattern)(file.path) for pattern in include)
        excluded = any(matcher(pattern)(file.path) for pattern in exclude)
        assert (file in chosen) == (included and not excluded)


@thorough
@given(path=st.text(st.sampled_from("ab./-_ é"), min_size=1, max_size=10))
def test_a_path_without_wildcards_matches_itself_only(path: str) -> None:
    """A plain path is its own pattern."""
    path = path.removeprefix("./").rstrip("/") or "a"
    if path.startswith("./"):
        return

    matches = matcher(path)

    assert matches(path)
    assert not matches(path + "a")
    assert not matches("a" + path)
    assert not matches(path + "\n")

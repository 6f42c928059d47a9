"""Every spelling of the guides becomes the one that the option parser knows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhaul.cli.spelling import is_like_repo, normal


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        pytest.param("download o/n", "download o/n", id="nothing-to-do"),
        pytest.param(
            "verify https://modelscope.cn/models/o/n --local_dir d",
            "verify ms:o/n --repo-type model --endpoint https://modelscope.cn --local-dir d",
            id="verify",
        ),
        pytest.param(
            "verify https://huggingface.co/o/n/tree/v1 --local_dir d",
            "verify hf:o/n --repo-type model --revision v1 --hub huggingface --local-dir d",
            id="verify-hugging-face",
        ),
        pytest.param("", "", id="nothing-at-all"),
        pytest.param("--local_dir d", "--local-dir d", id="underscores"),
        pytest.param("--local-dir d", "--local-dir d", id="dashes"),
        pytest.param("--local_dir=my_dir", "--local-dir=my_dir", id="value-keeps-underscores"),
        pytest.param(
            "--max_workers 8 --cache_dir c", "--max-workers 8 --cache-dir c", id="several"
        ),
        pytest.param("my_org/my_model my_file.bin", "my_org/my_model my_file.bin", id="names"),
        pytest.param("--include a", "--include a", id="one-pattern"),
        pytest.param("--include a b c", "--include a --include b --include c", id="patterns"),
        pytest.param("--include a,b", "--include a --include b", id="commas"),
        pytest.param("--include=a,b", "--include a --include b", id="equals-and-commas"),
        pytest.param("--include=a b", "--include a --include b", id="equals-and-more"),
        pytest.param("--include a,b c,,d,", " ".join(f"--include {x}" for x in "abcd"), id="mixed"),
        pytest.param("--include a --exclude b c", "--include a --exclude b --exclude c", id="both"),
        pytest.param("--include a --include b", "--include a --include b", id="repeated"),
        pytest.param("--include a b -q", "--include a --include b -q", id="short-option-ends-it"),
        pytest.param(
            "--include a b --local_dir d x",
            "--include a --include b --local-dir d x",
            id="option-ends-it",
        ),
        pytest.param("--include=-x", "--include -x", id="value-with-a-dash"),
        pytest.param("--include=--a_b", "--include --a_b", id="value-like-an-option"),
        pytest.param("--include", "--include", id="value-missing"),
        pytest.param("--include --quiet", "--include --quiet", id="value-missing-before-option"),
        pytest.param("-o my_file", "-o my_file", id="short-options"),
        pytest.param("-", "-", id="a-single-dash"),
        pytest.param("-- --local_dir", "-- --local_dir", id="behind-two-dashes"),
        pytest.param("--include a -- b,c d", "--include a -- b,c d", id="two-dashes-end-it"),
        pytest.param(
            "download https://modelscope.cn/models/o/n x.bin",
            "download ms:o/n --repo-type model --endpoint https://modelscope.cn x.bin",
            id="page",
        ),
        pytest.param(
            "download https://www.modelscope.ai/datasets/o/n.1/files?a=b#c --local_dir d",
            "download ms:o/n.1 --repo-type dataset --endpoint https://www.modelscope.ai"
            " --local-dir d",
            id="page-of-a-dataset",
        ),
        pytest.param(
            "download --model https://modelscope.cn/models/o/n/",
            "download --model ms:o/n --endpoint https://modelscope.cn",
            id="page-as-value",
        ),
        pytest.param(
            "download --model=https://modelscope.cn/models/o/n/summary",
            "download --model=ms:o/n --endpoint https://modelscope.cn",
            id="page-as-value-with-equals",
        ),
        pytest.param(
            "download https://modelscope.cn/models/o/n --endpoint http://m",
            "download ms:o/n --repo-type model --endpoint http://m",
            id="page-with-a-mirror",
        ),
        pytest.param(
            "download o/n --source https://huggingface.co/o/n/tree/v1 --revision v2",
            "download o/n --source hf:o/n@v1 --revision v2",
            id="page-as-source",
        ),
        pytest.param(
            "download o/n --repo_type dataset --source https://huggingface.co/datasets/o/n",
            "download o/n --repo-type dataset --source hf:o/n",
            id="page-of-a-dataset-as-source",
        ),
        pytest.param(
            "download hf:o/n --source=https://www.modelscope.cn/models/o/n/summary",
            "download hf:o/n --source=ms:o/n",
            id="page-as-source-with-equals",
        ),
        *(
            pytest.param(text, text, id=name)
            for text, name in [
                ("download o/n --source https://huggingface.co/datasets/o/n", "source-of-a-kind"),
                ("download o/n --source https://modelscope.ai/models/o/n", "source-elsewhere"),
                ("download o/n --source https://huggingface.co/o/n/tree/v1/sub", "source-folder"),
                ("get https://modelscope.cn/models/o/n", "page-for-another-verb"),
                ("download https://evil.test/models/o/n", "page-of-another-site"),
                ("download https://modelscope.cn.evil.test/models/o/n", "page-of-a-like-site"),
                ("download https://modelscope.cn/models/o/n/resolve/master/w", "page-of-a-file"),
                ("download -- https://modelscope.cn/models/o/n", "page-behind-two-dashes"),
                ("download https://huggingface.co.evil.test/o/n", "like-hugging-face"),
                ("download https://evil.test/huggingface.co/o/n", "below-another-site"),
                ("download http://huggingface.co/o/n", "hugging-face-in-the-clear"),
                ("download https://huggingface.co/models", "list-of-models"),
                ("download https://huggingface.co/datasets/", "list-of-datasets"),
                ("download https://huggingface.co/spaces/o/n/x", "page-of-nothing"),
                ("download o/n --endpoint https://hf.co/o/n", "page-as-endpoint"),
                ("download hf:o/n", "prefix"),
                ("download --model hf:o/n", "prefix-as-value"),
                ("get https://huggingface.co/o/n", "hugging-face-for-another-verb"),
            ]
        ),
    ],
)
def test_spellings(typed: str, meant: str) -> None:
    """Underscores, lists behind one option, commas; `--` ends everything."""
    assert normal(typed.split()) == meant.split()


HUB = "--hub huggingface"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("https://huggingface.co/o/n", f"hf:o/n --repo-type model {HUB}"),
        ("https://huggingface.co/o/n/", f"hf:o/n --repo-type model {HUB}"),
        ("https://www.huggingface.co/o/n?library=x#y", f"hf:o/n --repo-type model {HUB}"),
        ("https://hf.co/o/n.1-B", f"hf:o/n.1-B --repo-type model {HUB}"),
        ("https://huggingface.co/gpt2", f"hf:gpt2 --repo-type model {HUB}"),
        ("https://huggingface.co/datasets/o/n", f"hf:o/n --repo-type dataset {HUB}"),
        ("https://huggingface.co/datasets/squad", f"hf:squad --repo-type dataset {HUB}"),
        ("https://huggingface.co/spaces/o/n", f"hf:o/n --repo-type space {HUB}"),
        ("https://huggingface.co/o/n/discussions/7", f"hf:o/n --repo-type model {HUB}"),
        ("https://huggingface.co/o/n/tree/main", f"hf:o/n --repo-type model --revision main {HUB}"),
        (
            "https://huggingface.co/gpt2/tree/main",
            f"hf:gpt2 --repo-type model --revision main {HUB}",
        ),
        (
            "https://huggingface.co/o/n/tree/refs%2Fpr%2F1",
            f"hf:o/n --repo-type model --revision refs/pr/1 {HUB}",
        ),
        (
            "https://huggingface.co/o/n/tree/refs/pr/1",
            f"hf:o/n --repo-type model --revision refs/pr/1 {HUB}",
        ),
        (
            "https://huggingface.co/datasets/o/n/tree/v1/a/b%20[c],d",
            f"hf:o/n --include a/b_[[]c]?d/ --repo-type dataset --revision v1 {HUB}",
        ),
        (
            "https://huggingface.co/o/n/blob/main/sub/w.bin x.bin",
            f"hf:o/n sub/w.bin --repo-type model --revision main {HUB} x.bin",
        ),
        (
            "https://huggingface.co/o/n/resolve/v1/w.bin?download=true",
            f"hf:o/n w.bin --repo-type model --revision v1 {HUB}",
        ),
        (
            "https://huggingface.co/o/n/tree/a --revision b",
            f"hf:o/n --repo-type model {HUB} --revision b",
        ),
        (
            "https://huggingface.co/o/n/tree/main/sub x.bin",
            f"hf:o/n --include sub/ --repo-type model --revision main {HUB} x.bin",
        ),
        (
            "https://huggingface.co/o/n --hub modelscope",
            "hf:o/n --repo-type model --hub modelscope",
        ),
        (
            "--model https://huggingface.co/o/n x.bin",
            "--model hf:o/n --hub huggingface x.bin",
        ),
        ("--dataset=https://huggingface.co/datasets/o/n", "--dataset=hf:o/n --hub huggingface"),
        ("hf://o/n", f"hf:o/n --repo-type model {HUB}"),
        ("hf://gpt2", f"hf:gpt2 --repo-type model {HUB}"),
        ("hf://datasets/o/n@v1/a/w.bin", f"hf:o/n a/w.bin --repo-type dataset --revision v1 {HUB}"),
        ("hf://spaces/o/n@refs/pr/1", f"hf:o/n --repo-type space --revision refs/pr/1 {HUB}"),
        ("hf://models/o/n@a%2Fb", f"hf:o/n --repo-type model --revision a/b {HUB}"),
    ],
)
def test_pages_of_hugging_face_and_its_addresses(typed: str, meant: str) -> None:
    """Repository, kind, revision, and the file or folder that is shown; what is given wins.

    The prefix stays, so that no other hub is asked for what was pasted from this one.
    """
    expected = [word.replace("_", " ") for word in meant.split()]

    assert normal(["download", *typed.split()]) == ["download", *expected]


@pytest.mark.parametrize(
    ("word", "repo"),
    [
        ("Qwen/Qwen3-8B", True),
        ("Qwen/Qwen2.5-0.5B", True),
        ("o/n", True),
        ("sub/model.safetensors", False),
        ("sub/a.json", False),
        ("config.json", False),
        ("a/b/c", False),
        ("sub/*", False),
        ("", False),
        (None, False),
    ],
)
def test_a_repository_is_told_from_a_file(word: str | None, repo: bool) -> None:
    """For hints only: `sub/LICENSE` looks like one, and is a file all the same."""
    assert is_like_repo(word) is repo


def test_patterns_keep_their_blanks_inside() -> None:
    """Only blanks around a value of a list are dropped."""
    assert normal(["--include", "a b.bin, c d.bin"]) == [
        "--include",
        "a b.bin",
        "--include",
        "c d.bin",
    ]


def test_the_arguments_may_be_any_iterable() -> None:
    """They are taken once."""
    assert normal(iter(["--local_dir", "d"])) == ["--local-dir", "d"]


_WORDS = st.text(st.characters(codec="utf-8", exclude_characters="-"), min_size=1, max_size=8)


@given(st.lists(_WORDS), st.lists(st.text(max_size=8)))
def test_words_and_what_is_behind_two_dashes_are_left_alone(
    words: list[str], behind: list[str]
) -> None:
    """No name of a repository or file is ever changed."""
    assert normal([*words, "--", *behind]) == [*words, "--", *behind]


@given(st.lists(_WORDS.filter(lambda word: "," not in word and word.strip() == word), min_size=1))
def test_every_pattern_arrives(patterns: list[str]) -> None:
    """As many options as patterns, in their order; with commas it is the same."""
    expected = [part for pattern in patterns for part in ("--include", pattern)]

    assert normal(["--include", *patterns]) == expected
    assert normal(["--include", ",".join(patterns)]) == expected
    assert normal([f"--include={','.join(patterns)}"]) == expected


@given(
    st.lists(st.sampled_from(["--include", "--exclude", "--local_dir", "-q", "a", "b_c", "--x=y"]))
)
def test_a_normal_spelling_stays_as_it_is(arguments: list[str]) -> None:
    """Doing it twice changes nothing."""
    once = normal(arguments)

    assert normal(once) == once

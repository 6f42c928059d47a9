"""Options that verbs share, and what the command says to arguments that make no sense."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import get_type_hints

import pytest

from modelhaul.cli.download import download
from modelhaul.cli.main import main
from modelhaul.cli.options import changed_settings, choose_view
from modelhaul.cli.output import View
from modelhaul.cli.progress import TerminalView
from modelhaul.cli.verify import verify
from modelhaul.cli.views import JsonView, PlainView
from modelhaul.errors import UsageError
from modelhaul.settings import Settings
from modelhaul.version import __version__

#: A folder that is there and holds no repository.
HERE = str(Path(__file__).parent)


def test_a_repository_is_named_alike_for_every_verb() -> None:
    """What `download` takes to say which files of which repository, `verify` takes too."""
    one, other = (get_type_hints(verb, include_extras=True) for verb in (download, verify))

    own = {"repo", "local_dir", "source", "max_workers", "dry_run", "force"}
    assert {name: other.get(name) for name in one.keys() - own} == {
        name: one[name] for name in one.keys() - own
    }
    assert "hub" in one


def test_without_options_the_environment_decides() -> None:
    """Nothing is changed that nobody asked for."""
    assert changed_settings(None, None) == Settings.from_environment()
    assert changed_settings(None, None, files_at_once=None) == Settings.from_environment()


def test_connections_are_for_all_hosts_and_for_each() -> None:
    """Who says 100 means 100, also when there is one host only."""
    settings = changed_settings(100, None)

    assert (settings.connections, settings.host_connections) == (100, 100)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("50MB", 50e6),
        ("400Mbit", 50e6),
        ("1.5GiB/s", 1.5 * 2**30),
        ("65536", 65536.0),
        ("8 k", 8e3),
    ],
)
def test_a_rate_has_a_unit(text: str, rate: float) -> None:
    """Bytes or bits, decimal or binary."""
    assert changed_settings(None, text).limit_rate == rate


@pytest.mark.parametrize("text", ["", "fast", "0", "-5MB", "5 apples", "1e3"])
def test_a_rate_that_is_none_is_refused(text: str) -> None:
    """With an example of one."""
    with pytest.raises(UsageError) as caught:
        changed_settings(None, text)

    assert "50MB" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ((0, {}), "connections"),
        ((10**6, {}), "connections"),
        ((None, {"files_at_once": 0}), "files_at_once"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_by_name(
    changes: tuple[int | None, dict[str, int]], says: str
) -> None:
    """No connections, or a million, are a typing error."""
    connections, others = changes

    with pytest.raises(UsageError, match=f"^{says}: must be more than 0"):
        changed_settings(connections, None, **others)


class Tty(io.StringIO):
    """Somebody is looking."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stderr", "quiet", "as_json", "kind"),
    [
        (Tty(), False, False, TerminalView),
        (io.StringIO(), False, False, PlainView),
        (None, False, False, PlainView),
        (Tty(), True, False, View),
        (Tty(), False, True, JsonView),
        (Tty(), True, True, JsonView),
    ],
)
def test_who_looks_decides_what_is_shown(
    stderr: io.StringIO | None, quiet: bool, as_json: bool, kind: type[View]
) -> None:
    """Bars for a terminal, lines for a file, JSON for a program, nothing if told so."""
    with contextlib.redirect_stderr(stderr):
        view = choose_view(quiet=quiet, as_json=as_json)

    assert type(view) is kind


# -- the command -------------------------------------------------------------------------------


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
    """Exit code, stdout and stderr of a command that ends before it does anything."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    output = capsys.readouterr()
    return caught.value.code, output.out, output.err


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_is_a_result(capsys: pytest.CaptureFixture[str], option: str) -> None:
    """On stdout, with exit code 0."""
    assert told(capsys, option) == (0, f"modelhaul {__version__}\n", "")


def test_help_names_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    """And the exit codes, which scripts need."""
    code, out, _ = told(capsys, "--help")

    assert code == 0
    assert all(verb in out for verb in ("download", "get", "verify", "serve", "parts", "clean"))
    assert "130" in out


@pytest.mark.parametrize(
    ("verb", "words"),
    [("download", "[FILE]..."), ("verify", "[FILE]..."), ("get", "[MIRROR]...")],
)
def test_the_help_shows_which_word_may_be_several(
    capsys: pytest.CaptureFixture[str], verb: str, words: str
) -> None:
    """In its first line, by the dots that every manual has."""
    _, out, _ = told(capsys, verb, "--help")

    assert out.splitlines()[0].endswith(f" {words}")


@pytest.mark.parametrize("verb", ["parts", "clean"])
def test_where_nothing_unfinished_was_found_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verb: str
) -> None:
    """Both caches, or the folder that was named."""
    one, other, named = tmp_path / "ms", tmp_path / "hf", tmp_path / "m"
    named.mkdir()
    monkeypatch.setenv("MODELSCOPE_CACHE", str(one))
    monkeypatch.setenv("HF_HUB_CACHE", str(other))

    by_default, of_folder = told(capsys, verb), told(capsys, verb, str(named))

    assert by_default == (0, "", f"nothing unfinished in {one} and {other}\n")
    assert of_folder == (0, "", f"nothing unfinished in {named}\n")


@pytest.mark.parametrize("columns", ["80", "100"])
def test_no_line_of_the_help_is_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    """The first sentence about a verb fits beside its name."""
    monkeypatch.setenv("COLUMNS", columns)

    _, out, _ = told(capsys, "--help")

    assert "..." not in out.partition("Commands:")[2]


def test_no_verb_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    """The help is the error message."""
    code, out, err = told(capsys)

    assert (code, out) == (2, "")
    assert err.startswith("Usage:")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fetch"], "fetch"),
        (["download", "--nonsense"], "--nonsense"),
        (["download", "o/n", "--connections", "many"], "--connections"),
        (["download", "o/n", "--revision"], "--revision"),
        (["serve", "d", "--port", "70000"], "--port"),
        (["get"], "URL"),
        (["get", "--nonsense"], "--nonsense"),
        (["clean", "--json"], "--json"),
        (["verify", "o/n", "--force"], "--force"),
    ],
)
def test_what_the_parser_does_not_know_is_named(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    """Exit code 2, two lines on stderr, nothing on stdout."""
    code, out, err = told(capsys, *arguments)

    assert (code, out) == (2, "")
    assert says in err.splitlines()[0]
    assert err.splitlines()[0].startswith("modelhaul: ")
    verb = "" if arguments == ["fetch"] else f" {arguments[0]}"
    assert err.splitlines()[1] == f"  try: modelhaul{verb} --help"


@pytest.mark.fault(
    "options that make no sense", "exit 2 and the reason, before anything is done", number=122
)
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["download"], "no repository given"),
        (["download", "--include", "*.json", "o/n"], "put o/n first"),
        (["download", "o/n", "--local-dir", "a", "--cache-dir", "b"], "give one of them"),
        (["download", "https://h.test/models/o/n"], "not a repository name"),
        (["download", "o"], "not a repository name"),
        (["download", "../x"], "not a repository name"),
        (["download", "o/n", "--revision", "../x"], "not a revision"),
        (["download", "o/n", "--repo-type", "space"], "from Hugging Face only"),
        (["download", "hf:o/n", "--repo-type", "kernel"], "--repo-type: 'kernel'"),
        (["download", "o/n", "--hub", "github"], "not a hub: 'github'"),
        (["download", "hf:o/n", "--hub", "modelscope"], "is of another hub"),
        (["download", "https://huggingface.co/o/n", "--hub", "ms"], "is of another hub"),
        (["download", "--model", "o/n", "--dataset", "o/n"], "give one of them"),
        (["download", "o/n", "--limit-rate", "fast"], "not a size: 'fast'"),
        (["download", "o/n", "--connections", "0"], "connections: must be more than 0"),
        (["download", "o/n", "--endpoint", "ftp://x"], "not an http or https URL"),
        (["download", "o/n", "--source", "/tmp"], "a folder on this disk is no source"),
        (["download", "o/n", "--source", "file:///tmp"], "a folder on this disk is no source"),
        (["download", "o/n", "--source", "h.test"], "https:// is missing: https://h.test"),
        (["download", "o/n", "--source", "hf:o/n", "https://h.test"], "repeat --source before"),
        (["download", "o/n", "--source", "hf:o/n", "ms:o/n@v1"], "repeat --source before"),
        (["download", "o/n", "--source", "auto", "https://u:TOPSECRET@h.test"], "repeat --source"),
        (["verify"], "no repository given"),
        (["verify", "no/such/folder"], "is not a folder"),
        (["verify", "folder"], "is not a folder"),
        (["verify", HERE], "does not say which repository it holds"),
        (["verify", HERE, "--local-dir", "a"], "needs no other place"),
        (["verify", "o/n", "--local-dir", "a", "--cache-dir", "b"], "give one of them"),
        (["get", "h.test/x"], "not an http or https URL"),
        (["get", "https://h.test/"], "no file name in"),
        (["get", "https://h.test/x", "--sha256", "abc"], "64 hexadecimal digits"),
        (["get", "https://h.test/x", "--header", "TOPSECRET"], "'Name: value'"),
        (["serve", "no/such/folder"], "is not a folder"),
        (["parts", "no/such/folder"], "is not a folder"),
        (["clean", "no/such/folder"], "is not a folder"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_done(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    """Exit code 2, a message, nothing on stdout; no secret in it."""
    code, out, err = told(capsys, *arguments)

    assert (code, out) == (2, "")
    assert says in err
    assert err.startswith("modelhaul: ")
    assert "TOPSECRET" not in err
    assert "Traceback" not in err

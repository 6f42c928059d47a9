"""Every spelling of the hubs' guides, turned into the one that the option parser knows.

Three things the parser cannot do: an option that takes several values (`--include a b c`),
underscores for dashes (`--local_dir`), and a page of the site for a repository's name. All are
settled here, before it sees the arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from glob import escape
from urllib.parse import unquote

#: Options that take all values up to the next option.
_GREEDY = frozenset({"--include", "--exclude"})
#: Options of several words: either dash or underscore. Others are left alone, for what looks like
#: an option may be the value of one.
_WORDS = frozenset({
    "--cache-dir", "--dry-run", "--limit-rate", "--local-dir", "--max-workers", "--repo-type",
    "--request-log",
})  # fmt: skip
#: Pages of the official sites only: a token goes to the site, and a link that was pasted is no
#: decision to trust another one, as --endpoint is.
_MODELSCOPE_PAGE = re.compile(
    r"(?P<site>https://(?:www\.)?modelscope\.(?:cn|ai))/(?P<kind>model|dataset)s/"
    r"(?P<repo>[\w.-]+/[\w.-]+)(?:/(?:summary|files|feedback)?)?(?:[?#].*)?",
    re.ASCII,
)
#: A name, or an owner and a name; what stands before it says the kind.
_HF_REPO = (
    r"(?:(?P<kind>model|dataset|space)s/)?"
    r"(?!(?:models|datasets|spaces)(?:/|$))(?P<repo>[\w.-]+(?:/[\w.-]+)?)"
)
#: These may hold a slash; in other revisions it is written %2F.
_HF_REVISION = r"(?P<revision>refs/(?:pr|convert)/[^/?#]+|[^/?#]+)"
_HF_PAGE = re.compile(
    rf"https://(?:www\.)?(?:huggingface\.co|hf\.co)/{_HF_REPO}"
    rf"(?:/(?P<view>tree|blob|resolve|raw)/{_HF_REVISION}(?:/(?P<path>[^?#]*))?)?"
    r"(?:/|/discussions(?:/\d+)?)?(?:[?#].*)?",
    re.ASCII,
)
#: As huggingface_hub spells places.
_HF_ADDRESS = re.compile(
    rf"hf://{_HF_REPO}(?:@{_HF_REVISION})?(?:/(?P<path>.*))?(?P<view>)", re.ASCII
)
_NAMING = ("--model", "--dataset")
_SOURCE = "--source"
#: Where `ms:` leads.
_USUAL = "modelscope.cn"
_REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_SUFFIX = re.compile(r"\.[a-z][a-z0-9_]*$")


def normal(arguments: Iterable[str]) -> list[str]:
    """The arguments as the option parser wants them.

    `--local_dir D` becomes `--local-dir D`; `--include a b` becomes `--include a --include b`;
    a value with commas is several values; `download https://modelscope.cn/datasets/o/n` becomes
    `download ms:o/n --repo-type dataset --endpoint https://modelscope.cn`. Nothing behind `--` is
    touched.
    """
    result: list[str] = []
    rest = _without_pages(list(arguments))
    greedy: str | None = None
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            return [*result, argument, *rest]
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            if name.replace("_", "-") in _WORDS:
                name = name.replace("_", "-")
            greedy = name if name in _GREEDY else None
            if greedy is None:
                result.append(name + equals + value)
            elif equals:
                result += _values(greedy, value)
            elif not rest or _is_option(rest[0]):
                result.append(name)  # no value: the parser says what is missing
        elif _is_option(argument):
            greedy = None
            result.append(argument)
        elif greedy is not None:
            result += _values(greedy, argument)
        else:
            result.append(argument)
    return result


def is_like_repo(text: str | None) -> bool:
    """Whether a word looks more like `owner/name` than like a file (`sub/model.bin`)."""
    return text is not None and _REPO.fullmatch(text) is not None and not _SUFFIX.search(text)


def _without_pages(arguments: list[str]) -> list[str]:
    """Pages of the sites turned into repositories, for the verbs that take one."""
    if arguments[:1] not in (["download"], ["verify"]):
        return arguments
    given = {argument.partition("=")[0] for argument in arguments}
    kind = _kind(arguments)
    result: list[str] = []
    for at, argument in enumerate(arguments):
        if argument == "--":
            return result + arguments[at:]
        name, equals, value = argument.partition("=")
        if name == _SOURCE and equals:
            result.append(f"{name}={_as_source(value, kind)}")
            continue
        if arguments[at - 1] == _SOURCE:
            result.append(_as_source(argument, kind))
            continue
        inside = bool(equals) and name in _NAMING
        before = arguments[at - 1]
        page = _page(value if inside else argument)
        if page is None or before == "--endpoint":
            result.append(argument)
            continue
        result += [f"{name}={page.repo}" if inside else page.repo, *page.words]
        if not inside and before not in _NAMING:
            result += ["--repo-type", page.kind]
        # What was given wins, wherever it stands: a mirror has the same repositories.
        for option, setting in page.options:
            if option not in given:
                result += [option, setting]
    return result


def _kind(arguments: list[str]) -> str:
    """What the command is about, as far as it is said in words."""
    words = {word for argument in arguments for word in argument.split("=")}
    return next((kind for kind in ("dataset", "space") if {kind, f"--{kind}"} & words), "model")


def _as_source(text: str, kind: str) -> str:
    """A page as `--source` takes it: where else files are, and nothing of what is wanted."""
    page = _page(text)
    if page is None or page.words or page.kind != kind:
        return text  # a folder of files, perhaps
    options = dict(page.options)
    if not options.get("--endpoint", _USUAL).endswith(_USUAL):
        return text  # a site of its own: that is an address, and no hub's usual one
    revision = options.get("--revision")
    return page.repo if revision is None else f"{page.repo}@{revision}"


@dataclass(frozen=True, slots=True)
class _Page:
    """What a page of a site is of.

    Attributes:
        repo: with the prefix of its hub, so that it is taken for no other's.
        kind: what --repo-type says.
        words: a file, or a pattern for a folder. The options behind it end the list of patterns.
        options: each with its value; what the user gave wins over them.
    """

    repo: str
    kind: str
    words: tuple[str, ...]
    options: tuple[tuple[str, str], ...]


def _page(text: str) -> _Page | None:
    """The page at an address; None if it is none, or of a site that nobody named."""
    if (match := _MODELSCOPE_PAGE.fullmatch(text)) is not None:
        site = ("--endpoint", match["site"])
        return _Page(f"ms:{match['repo']}", match["kind"], (), (site,))
    if (match := _HF_PAGE.fullmatch(text) or _HF_ADDRESS.fullmatch(text)) is None:
        return None
    path = unquote(match["path"] or "").strip("/")
    words: tuple[str, ...] = ()
    if path:
        # Commas stand between patterns.
        folder = escape(path).replace(",", "?") + "/"
        words = ("--include", folder) if match["view"] == "tree" else (path,)
    hub, revision = ("--hub", "huggingface"), match["revision"]
    options = (hub,) if revision is None else (("--revision", unquote(revision)), hub)
    return _Page(f"hf:{match['repo']}", match["kind"] or "model", words, options)


def _is_option(argument: str) -> bool:
    return argument.startswith("-") and len(argument) > 1


def _values(option: str, text: str) -> list[str]:
    """The values in one word. An empty one stays: no pattern at all would mean everything."""
    values = [value.strip() for value in text.split(",") if value.strip()] or [""]
    return [word for value in values for word in (option, value)]

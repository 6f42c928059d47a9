"""Every spelling of the ModelScope guides, turned into the one that the option parser knows.

Three things the parser cannot do: an option that takes several values (`--include a b c`),
underscores for dashes (`--local_dir`), and a page of the site for a repository's name. All are
settled here, before it sees the arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

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
_PAGE = re.compile(
    r"(https://(?:www\.)?modelscope\.(?:cn|ai))/(model|dataset)s/([\w.-]+/[\w.-]+)"
    r"(?:/(?:summary|files|feedback)?)?(?:[?#].*)?",
    re.ASCII,
)
_REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_SUFFIX = re.compile(r"\.[a-z][a-z0-9_]*$")


def normal(arguments: Iterable[str]) -> list[str]:
    """The arguments as the option parser wants them.

    `--local_dir D` becomes `--local-dir D`; `--include a b` becomes `--include a --include b`;
    a value with commas is several values; `download https://modelscope.cn/datasets/o/n` becomes
    `download o/n --repo-type dataset --endpoint https://modelscope.cn`. Nothing behind `--` is
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
    """Pages of the site turned into repositories, for the verbs that take one."""
    if arguments[:1] not in (["download"], ["verify"]):
        return arguments
    result: list[str] = []
    for at, argument in enumerate(arguments):
        if argument == "--":
            return result + arguments[at:]
        named, equals, value = argument.rpartition("=")
        option = named if equals else arguments[at - 1]
        page = _PAGE.fullmatch(value if named in ("--model", "--dataset") else argument)
        if page is None:
            result.append(argument)
            continue
        site, kind, repo = page.groups()
        if option in ("--model", "--dataset"):
            result.append(f"{named}{equals}{repo}")
        else:
            result += [repo, "--repo-type", kind]
        # A site that was given wins, wherever it stands: a mirror has the same repositories.
        if not any(word.partition("=")[0] == "--endpoint" for word in arguments):
            result += ["--endpoint", site]
    return result


def _is_option(argument: str) -> bool:
    return argument.startswith("-") and len(argument) > 1


def _values(option: str, text: str) -> list[str]:
    """The values in one word. An empty one stays: no pattern at all would mean everything."""
    values = [value.strip() for value in text.split(",") if value.strip()] or [""]
    return [word for value in values for word in (option, value)]

"""Every spelling of the ModelScope guides, turned into the one that the option parser knows.

Two things the parser cannot do: an option that takes several values (`--include a b c`), and
underscores for dashes (`--local_dir`). Both are settled here, before it sees the arguments.
"""

from __future__ import annotations

from collections.abc import Iterable

#: Options that take all values up to the next option.
_GREEDY = frozenset({"--include", "--exclude"})
#: Options of several words: either dash or underscore. Others are left alone, for what looks like
#: an option may be the value of one.
_WORDS = frozenset({
    "--cache-dir", "--dry-run", "--limit-rate", "--local-dir", "--max-workers", "--repo-type",
    "--request-log",
})  # fmt: skip


def normal(arguments: Iterable[str]) -> list[str]:
    """The arguments as the option parser wants them.

    `--local_dir D` becomes `--local-dir D`; `--include a b` becomes `--include a --include b`;
    a value with commas is several values. Nothing behind `--` is touched.
    """
    result: list[str] = []
    rest = list(arguments)
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


def _is_option(argument: str) -> bool:
    return argument.startswith("-") and len(argument) > 1


def _values(option: str, text: str) -> list[str]:
    """The values in one word. An empty one stays: no pattern at all would mean everything."""
    values = [value.strip() for value in text.split(",") if value.strip()] or [""]
    return [word for value in values for word in (option, value)]

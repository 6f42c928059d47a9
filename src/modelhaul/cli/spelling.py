"""Every spelling of the ModelScope guides, turned into the one that the option parser knows.

Two things the parser cannot do: an option that takes several values (`--include a b c`), and
underscores for dashes (`--local_dir`). Both are settled here, before it sees the arguments.
"""

from __future__ import annotations

from collections.abc import Iterable

#: Options that take all values up to the next option.
_GREEDY = frozenset({"--include", "--exclude"})


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
            name = name.replace("_", "-")
            greedy = name if name in _GREEDY else None
            if greedy is None:
                result.append(name + equals + value)
            elif equals:
                result += _values(greedy, value)
            elif not rest or rest[0].startswith("-"):
                result.append(name)  # no value: the parser says what is missing
        elif argument.startswith("-") and len(argument) > 1:
            greedy = None
            result.append(argument)
        elif greedy is not None:
            result += _values(greedy, argument)
        else:
            result.append(argument)
    return result


def _values(option: str, text: str) -> list[str]:
    found = []
    for value in text.split(","):
        if value.strip():
            found += [option, value.strip()]
    return found

"""The direction of imports: cli, server -> use cases -> engine -> hubs, store -> net -> core.

A module may import from its own floor and from those below it. Late imports count like any other:
they are there for start-up time, not for going around.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import modelhaul

ROOT = Path(modelhaul.__file__).parent

# From the top down; each entry is a floor.
FLOORS: list[set[str]] = [
    {"__main__"},
    {"cli"},
    {"server", "__init__"},
    {"client"},
    {"usecases"},
    {"engine"},
    {"hubs", "store"},
    {"net"},
    {"settings"},
    {"core"},
    {"report", "events"},
    {"errors"},
    {"version"},
]

# What core may use of the standard library: nothing that waits, reads a clock, rolls dice or
# touches the system.
CORE_MAY = {
    "__future__", "bisect", "collections", "dataclasses", "difflib", "enum", "fnmatch",
    "ipaddress", "re", "struct", "typing", "unicodedata", "urllib", "zlib",
}  # fmt: skip

# Third-party packages, and where they may enter.
HOMES = {
    "aiohttp": ("net.http", "server"),
    "aiohttp_socks": ("net.http",),
    "aiohappyeyeballs": ("net.fast",),
    "h11": ("net.fast", "net.connection"),
    "zlib_ng": ("engine", "store"),
    "yarl": ("net.http",),
    "typer": ("cli",),
    "rich": ("cli",),
    "aiofiles": ("store", "server"),
    "anyio": ("cli", "server", "client", "usecases", "engine", "hubs", "net"),
}


def modules() -> dict[str, Path]:
    """Every module of the package by its name below `modelhaul`."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__") or "__init__"
        found[name] = path
    return found


def imports(path: Path) -> Iterator[str]:
    """Full names of what a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            if node.module == "modelhaul":
                yield from (f"modelhaul.{alias.name}" for alias in node.names)
            else:
                yield node.module


def floor(name: str) -> int:
    """The floor of a module; 0 is the top."""
    top = name.split(".")[0]
    for number, names in enumerate(FLOORS):
        if top in names:
            return number
    raise AssertionError(f"{name} has no floor: give it one in this test and in the tour")


ALL = modules()


@pytest.mark.parametrize("name", ALL)
def test_imports_go_down(name: str) -> None:
    """No module imports from a floor above its own."""
    for imported in imports(ALL[name]):
        if not imported.startswith("modelhaul."):
            continue
        other = imported.removeprefix("modelhaul.")
        assert floor(other) >= floor(name), f"{name} imports {imported}, which is above it"


def test_there_is_no_cycle() -> None:
    """Modules can be put in an order in which each imports only earlier ones."""
    graph = {
        name: {
            other
            for imported in imports(path)
            if (other := imported.removeprefix("modelhaul.")) in ALL and other != name
        }
        for name, path in ALL.items()
    }
    while graph:
        free = {name for name, needs in graph.items() if not needs & graph.keys()}
        assert free, f"an import cycle among {sorted(graph)}"
        graph = {name: needs for name, needs in graph.items() if name not in free}


@pytest.mark.parametrize("name", [name for name in ALL if name.split(".")[0] == "core"])
def test_core_is_pure(name: str) -> None:
    """core/ knows only values, errors and a short list of the standard library."""
    for imported in imports(ALL[name]):
        top = imported.split(".")[0]
        assert top in CORE_MAY or imported.startswith(("modelhaul.core", "modelhaul.errors")), (
            f"{name} imports {imported}"
        )


@pytest.mark.parametrize("package", HOMES)
def test_third_party_packages_enter_where_they_belong(package: str) -> None:
    """aiohttp in net/http.py and server/, typer and rich in cli/, and so on."""
    users = {
        name
        for name, path in ALL.items()
        if any(imported.split(".")[0] == package for imported in imports(path))
    }

    strays = {
        name
        for name in users
        if not any(name == home or name.startswith(f"{home}.") for home in HOMES[package])
    }

    assert users, f"{package} is not used any more"
    assert strays == set()


def test_the_environment_is_read_in_one_place() -> None:
    """os.environ and os.getenv appear in settings.py only, and where the loop is chosen."""
    readers = {
        name
        for name, path in ALL.items()
        if any(word in path.read_text() for word in ("os.environ", "os.getenv"))
    }

    assert readers == {"settings", "cli.session"}


def test_the_public_names_are_those_of_all() -> None:
    """`__all__` lists what the package exports, each name once and really there."""
    names = modelhaul.__all__

    assert len(set(names)) == len(names)
    assert all(hasattr(modelhaul, name) for name in names)

"""`probe`: what sources say of their files, asked a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from modelhaul.core.repo import RemoteFile, Source
from modelhaul.errors import ConnectFailed
from modelhaul.net.api import ATTEMPTS, Patience
from modelhaul.usecases.probe import pin
from tests.engine.harness import ORIGIN, source
from tests.support.network import Asked, FakeNetwork, Fault, Served
from tests.support.virtual import virtual


def sources(file: RemoteFile) -> tuple[Source, ...]:
    return (source(f"{ORIGIN}/{file.path}"),)


def served(count: int, **changes: object) -> FakeNetwork:
    """Files f0, f1 and so on, of as many bytes as their number says, and a bit."""
    files = {
        f"{ORIGIN}/f{at}": Served(bytes(at + 1), headers={"etag": f'"{at}"'}) for at in range(count)
    }
    return FakeNetwork(files, **changes)  # type: ignore[arg-type]


def listed(count: int, size: Callable[[int], int | None] = lambda at: at + 1) -> list[RemoteFile]:
    """The same files as a hub without digests lists them."""
    return [RemoteFile(f"f{at}", size(at)) for at in range(count)]


def pinned(
    network: FakeNetwork, files: Sequence[RemoteFile], *, at_once: int = 8, most: int = 1000
) -> list[RemoteFile]:
    """The files after their sources were asked."""
    patience = Patience(notify=lambda reason, seconds: None, chance=lambda: 0.5)

    async def main() -> list[RemoteFile]:
        return list(await pin(network, files, sources, patience, at_once=at_once, most=most))

    return virtual(main)


def test_size_and_validator_are_filled_in() -> None:
    """In the order of the listing; a size that nobody stated comes from the source."""
    found = pinned(served(3), listed(3, lambda at: None if at == 1 else at + 1))

    assert found == [RemoteFile(f"f{at}", at + 1, validator=f'"{at}"') for at in range(3)]


def test_only_so_many_are_asked_at_once() -> None:
    """A listing of thousands does not become thousands of connections."""
    network = served(40)

    pinned(network, listed(40), at_once=5)

    assert network.most_active == 5
    assert len(network.asked) == 40


def test_the_largest_are_asked_about_where_there_are_too_many() -> None:
    """It costs a request each: the few that save the most bytes are worth it."""
    found = pinned(served(40), listed(40, lambda at: None if at == 3 else at + 1), most=3)

    assert [file.path for file in found if file.validator] == ["f3", "f38", "f39"]


def test_a_source_that_serves_another_size_is_not_believed() -> None:
    """The file stays as the hub lists it; the run will find out what is wrong."""
    files = listed(1, lambda at: 77)

    assert pinned(served(1), files) == files


@pytest.mark.parametrize(
    "fault",
    [Fault(error=ConnectFailed("nobody is there")), Fault(status=500), Fault(status=503)],
    ids=["dead", "broken", "busy"],
)
def test_an_origin_that_does_not_answer_is_given_up(fault: Fault) -> None:
    """Patience is spent on the first few, not on each of a thousand files."""
    network = served(100, fault=lambda asked: fault)
    files = listed(100)

    found = pinned(network, files, at_once=4)

    assert found == files
    assert len(network.asked) == 4 * ATTEMPTS


def test_files_with_trouble_of_their_own_do_not_spoil_the_others() -> None:
    """A few that cannot be asked about, here and there: the rest is known."""
    bad = {f"{ORIGIN}/f{at}" for at in range(0, 40, 4)}

    def fault(asked: Asked) -> Fault | None:
        return Fault(status=500) if asked.url in bad else None

    found = pinned(served(40, fault=fault), listed(40), at_once=2)

    assert sum(file.validator is not None for file in found) == 30


def test_a_redirect_is_followed_without_credentials() -> None:
    """As a download would: what the store says counts, and it learns nothing of us."""
    network = FakeNetwork(
        {
            f"{ORIGIN}/f": Served(redirect=lambda request: "https://store.test/x"),
            "https://store.test/x": Served(b"abc", headers={"etag": '"x"'}),
        }
    )
    patience = Patience(notify=lambda reason, seconds: None, chance=lambda: 0.5)

    async def main() -> Sequence[RemoteFile]:
        return await pin(
            network,
            [RemoteFile("f", 3)],
            lambda file: (source(f"{ORIGIN}/f", Authorization="secret"),),
            patience,
            at_once=1,
        )

    found = virtual(main)

    assert found[0].validator == '"x"'
    assert [dict(asked.headers) for asked in network.asked] == [{"Authorization": "secret"}, {}]

"""What is done about each file: every combination of what is there, and equal contents once."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhaul.core.plan import Action, FilePlan, Found, Plan, Presence, decide, share
from modelhaul.core.repo import RemoteFile
from tests.support.properties import thorough

SIZE = 100
FILE = RemoteFile("model.safetensors", SIZE, sha256=64 * "a")
UNKNOWN = RemoteFile("stream", None)
EVERYTHING = [
    (Presence(found=found, same=same, ours=ours, recorded=recorded), owned, force)
    for found, same, ours, recorded, owned, force in product(
        Found, (False, True), (False, True), (0, 30, 200), (False, True), (False, True)
    )
]
BLOCKED = (Found.FOLDER, Found.OTHER)
OTHERS = [case for case in EVERYTHING if not case[0].same]


def plan_of(presence: Presence, owned: bool, force: bool, file: RemoteFile = FILE) -> FilePlan:
    return decide(file, presence, owned=owned, force=force)


# -- one file --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("presence", "owned", "force"), [case for case in EVERYTHING if case[0].same]
)
def test_what_is_there_already_is_kept(presence: Presence, owned: bool, force: bool) -> None:
    """Equal content is never fetched, refused or replaced."""
    plan = plan_of(presence, owned, force)

    assert plan == FilePlan(file=FILE, action=Action.KEEP, reuse=SIZE)
    assert plan.fetch == 0


@pytest.mark.parametrize(
    ("presence", "owned", "force"), [case for case in OTHERS if case[0].found in BLOCKED]
)
def test_a_folder_in_the_way_is_refused_even_by_force(
    presence: Presence, owned: bool, force: bool
) -> None:
    """What is inside is not ours to judge; nothing is fetched for a place that cannot be had."""
    plan = plan_of(presence, owned, force)

    assert plan.action is Action.REFUSE
    assert presence.found.value in plan.reason
    assert (plan.fetch, plan.reuse, plan.replaces) == (0, 0, False)


@pytest.mark.parametrize(
    ("presence", "owned", "force"),
    [
        case
        for case in OTHERS
        if case[0].found in (Found.FILE, Found.LINK) and not (case[0].ours or case[1] or case[2])
    ],
)
def test_somebody_else_s_file_is_refused(presence: Presence, owned: bool, force: bool) -> None:
    """Not ours, not a cache, not forced: it stays as it is, and the plan says why."""
    plan = plan_of(presence, owned, force)

    assert plan.action is Action.REFUSE
    assert plan.reason
    assert (plan.fetch, plan.replaces) == (0, False)


@pytest.mark.parametrize(
    ("presence", "owned", "force"),
    [
        case
        for case in OTHERS
        if case[0].found in (Found.FILE, Found.LINK) and (case[0].ours or case[1] or case[2])
    ],
)
def test_a_file_that_may_be_replaced_is_fetched(
    presence: Presence, owned: bool, force: bool
) -> None:
    """Ours, in a cache, or by the user's word: any of the three is enough."""
    plan = plan_of(presence, owned, force)

    assert plan.action is Action.FETCH
    assert plan.replaces
    assert plan.reuse == min(presence.recorded, SIZE)
    assert plan.fetch == SIZE - plan.reuse


@pytest.mark.parametrize(
    ("presence", "owned", "force"), [case for case in OTHERS if case[0].found is Found.NOTHING]
)
def test_a_file_that_is_not_there_is_fetched(presence: Presence, owned: bool, force: bool) -> None:
    """Less what an unfinished part holds, and nothing gives way for it."""
    plan = plan_of(presence, owned, force)

    assert plan.action is Action.FETCH
    assert not plan.replaces
    assert plan.reuse == min(presence.recorded, SIZE)
    assert plan.fetch == SIZE - plan.reuse


def test_a_link_is_called_a_link() -> None:
    """The reason says what the user will find."""
    link = plan_of(Presence(found=Found.LINK), owned=False, force=False)
    file = plan_of(Presence(found=Found.FILE), owned=False, force=False)

    assert link.reason.startswith("a symbolic link")
    assert file.reason.startswith("a file")


@pytest.mark.parametrize("same", [False, True])
def test_an_unknown_size_counts_as_nothing(same: bool) -> None:
    """Sums stay sums of what is known."""
    plan = plan_of(Presence(same=same, recorded=30), owned=False, force=False, file=UNKNOWN)

    assert (plan.fetch, plan.reuse) == (0, 0)


# -- equal contents --------------------------------------------------------------------------------

files = st.builds(
    RemoteFile,
    path=st.just("x"),
    size=st.sampled_from([None, 0, 1, 2]),
    sha256=st.sampled_from([None, 64 * "a", 64 * "b"]),
)
plans = st.builds(
    FilePlan,
    file=files,
    action=st.sampled_from([Action.FETCH, Action.FETCH, Action.KEEP, Action.REFUSE]),
    reuse=st.integers(0, 1),
    replaces=st.booleans(),
)


def content(plan: FilePlan) -> tuple[str, int] | None:
    """What makes two files one download; None if nothing does."""
    file = plan.file
    return (file.sha256, file.size) if file.sha256 and file.size else None


@thorough
@given(before=st.lists(plans, max_size=10))
def test_each_content_is_fetched_once_or_not_at_all(before: list[FilePlan]) -> None:
    """One that is kept serves the others; else exactly one is fetched."""
    after = share(before)

    for key in {content(plan) for plan in before} - {None}:
        kept = [one for one in before if content(one) == key and one.action is Action.KEEP]
        wanted = [one for one in before if content(one) == key and one.action is Action.FETCH]
        fetched = [one for one in after if content(one) == key and one.action is Action.FETCH]
        copied = [one for one in after if content(one) == key and one.action is Action.COPY]
        assert len(fetched) == (1 if wanted and not kept else 0)
        assert len(fetched) + len(copied) == len(wanted)


@thorough
@given(before=st.lists(plans, max_size=10))
def test_sharing_changes_only_fetches_into_copies(before: list[FilePlan]) -> None:
    """Same files in the same order; a copy replaces what the fetch would have replaced."""
    after = share(before)

    assert len(after) == len(before)
    for old, new in zip(before, after, strict=True):
        if new is old:
            continue
        assert old.action is Action.FETCH
        assert content(old) is not None
        assert new == FilePlan(file=old.file, action=Action.COPY, replaces=old.replaces)
        assert new.fetch == 0


@thorough
@given(before=st.lists(plans, max_size=10))
def test_files_without_content_or_digest_are_never_shared(before: list[FilePlan]) -> None:
    """An empty file is made faster than copied, and without a digest nothing is known."""
    after = share(before)

    alone = [(old, new) for old, new in zip(before, after, strict=True) if content(old) is None]
    assert all(old is new for old, new in alone)


def test_the_first_of_equal_files_is_the_one_that_is_fetched() -> None:
    """The order of the listing decides, so that a plan is the same each time."""
    before = [
        FilePlan(file=RemoteFile(path, 9, sha256=64 * "c"), action=Action.FETCH)
        for path in ("a", "b", "c")
    ]

    after = share(before)

    assert [plan.action for plan in after] == [Action.FETCH, Action.COPY, Action.COPY]
    assert [plan.file.path for plan in after] == ["a", "b", "c"]


def test_a_kept_file_serves_copies_though_it_is_listed_last() -> None:
    """Nothing comes over the network for what is on this disk."""
    wanted = FilePlan(file=RemoteFile("a", 9, sha256=64 * "c"), action=Action.FETCH)
    kept = FilePlan(file=RemoteFile("b", 9, sha256=64 * "c"), action=Action.KEEP, reuse=9)

    after = share([wanted, kept])

    assert [plan.action for plan in after] == [Action.COPY, Action.KEEP]


def test_files_of_one_git_name_are_shared_too() -> None:
    """Whatever names the content; a SHA-256 and a git name are never taken for each other."""
    named = [
        FilePlan(file=RemoteFile("a", 9, git_sha1=40 * "c"), action=Action.FETCH),
        FilePlan(file=RemoteFile("b", 9, git_sha1=40 * "c"), action=Action.FETCH),
        FilePlan(file=RemoteFile("c", 9, sha256=64 * "c"), action=Action.FETCH),
    ]

    after = share(named)

    assert [plan.action for plan in after] == [Action.FETCH, Action.COPY, Action.FETCH]


def test_a_refused_file_serves_nobody() -> None:
    """What stands there is something else."""
    refused = FilePlan(file=RemoteFile("a", 9, sha256=64 * "c"), action=Action.REFUSE)
    wanted = FilePlan(file=RemoteFile("b", 9, sha256=64 * "c"), action=Action.FETCH)

    after = share([refused, wanted])

    assert after == [refused, wanted]


# -- sums ------------------------------------------------------------------------------------------


def test_the_sums_of_a_plan() -> None:
    """Sizes of all, bytes to come, bytes that are here; a refused file is neither."""
    plan = Plan(
        (
            FilePlan(file=RemoteFile("kept", 1), action=Action.KEEP, reuse=1),
            FilePlan(file=RemoteFile("copied", 20), action=Action.COPY),
            FilePlan(file=RemoteFile("twin", 50_000), action=Action.COPY),
            FilePlan(file=RemoteFile("continued", 300), action=Action.FETCH, reuse=100),
            FilePlan(file=RemoteFile("refused", 4000), action=Action.REFUSE, reuse=4000),
            FilePlan(file=RemoteFile("stream", None), action=Action.FETCH),
        )
    )

    assert len(plan) == 6
    assert [one.file.path for one in plan][:2] == ["kept", "copied"]
    assert (plan.size, plan.fetch, plan.reuse, plan.copy) == (54_321, 200, 101, 50_020)


@pytest.mark.parametrize(
    ("action", "gives_way"),
    [
        (Action.FETCH, True),
        (Action.COPY, True),
        (Action.KEEP, False),
        (Action.REFUSE, False),
    ],
)
def test_only_what_will_be_written_replaces_anything(action: Action, gives_way: bool) -> None:
    """Nothing gives way to a file that is kept or refused."""
    still = FilePlan(file=RemoteFile("other", 1), action=Action.FETCH)
    replacing = FilePlan(file=FILE, action=action, replaces=True)

    assert Plan((still, replacing)).replaces == gives_way
    assert not Plan((still,)).replaces

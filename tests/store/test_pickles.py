"""`store.pickles`: other people's pickles are read, never run."""

from __future__ import annotations

import builtins
import os
import pickle
import subprocess
from http.cookiejar import Cookie, DefaultCookiePolicy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhaul.store.pickles import MOST_BYTES, Inert, load_restricted
from tests.store.helpers import run_python

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
VALUE = {"a": [1, 2.5, None, True, "text"], "b": ({"c": -(2**70)}, ()), "": "\u00e9\udce9"}
BOOK = [{"Path": f"model-{at}.safetensors", "Revision": "c0ffee"} for at in range(3)]

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=12,
)


class Hostile:
    """Pickles as a call: a normal unpickler makes that call."""

    def __init__(self, call: Any, *args: object) -> None:
        self._reduced = (call, args)

    def __reduce__(self) -> Any:
        return self._reduced


class Persistent(pickle.Pickler):
    """Writes strings as references to something outside."""

    def persistent_id(self, obj: object) -> object:
        return obj if isinstance(obj, str) else None


# -- what is read --------------------------------------------------------------------------------


@given(plain, st.sampled_from(PROTOCOLS))
def test_plain_values_come_back(value: object, protocol: int) -> None:
    """None, numbers, texts, lists, tuples and dicts, of every protocol."""
    assert load_restricted(pickle.dumps(value, protocol)) == value


def test_a_value_that_holds_itself_can_be_read() -> None:
    """Pickles may refer back to what is not finished yet."""
    knot: list[object] = [1]
    knot.append(knot)

    value = load_restricted(pickle.dumps(knot))

    assert isinstance(value, list)
    assert value[1] is value


def test_a_value_nested_very_deeply_is_no_crash() -> None:
    """A hundred thousand levels: an answer or a ValueError, and the process lives."""
    code = """
    from modelhaul.store.pickles import load_restricted
    for opening, closing in ((b"]", b"a"), (b"}Nq", b""), (b"(", b"t")):
        deep = b"\\x80\\x02" + opening * 100_000 + closing * 99_999 + b"."
        try:
            print(type(load_restricted(deep)).__name__)
        except ValueError:
            print("ValueError")
    """

    answers = run_python(code).split()

    assert len(answers) == 3
    assert answers[0] == "list"


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_known_classes_become_inert_things(protocol: int) -> None:
    """They keep their attributes and none of their behaviour."""
    cookie = Cookie(
        *(0, "name", "value", None, False, "example.org", True, False, "/", True, False),
        *(None, False, None, None, {}),
    )
    data = pickle.dumps({"x": [cookie]}, protocol)

    value = load_restricted(data, {"http.cookiejar.Cookie": Inert})

    assert isinstance(value, dict)
    (thing,) = value["x"]
    assert type(thing) is Inert
    assert (thing.name, thing.value, thing.domain) == ("name", "value", "example.org")
    assert not hasattr(thing, "is_expired")


def test_items_and_odd_states_of_inert_things_do_no_harm() -> None:
    """Dict subclasses are pickled with items, slotted classes with a tuple as state."""
    name = "http.cookiejar.DefaultCookiePolicy"
    module, klass = name.rsplit(".", 1)
    begin = b"\x80\x02c" + f"{module}\n{klass}\n".encode() + b")\x81"

    with_item = load_restricted(begin + b"K\x01K\x02s.", {name: Inert})
    with_tuple = load_restricted(begin + b"N}\x86b.", {name: Inert})

    assert type(with_item) is Inert
    assert type(with_tuple) is Inert
    assert DefaultCookiePolicy.__name__ == klass


# -- what is not run -----------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickle_that_would_run_a_command_does_not(tmp_path: Path, protocol: int) -> None:
    """The very bytes that a normal unpickler obeys are refused."""
    witness = tmp_path / "ran"
    data = pickle.dumps([1, Hostile(os.system, f"touch {witness}")], protocol)

    with pytest.raises(ValueError, match="not allowed"):
        load_restricted(data)

    assert not witness.exists()
    pickle.loads(data)
    assert witness.exists()  # the weapon was loaded


@pytest.mark.parametrize(
    "weapon",
    [
        Hostile(builtins.eval, "1"),
        Hostile(builtins.exec, ""),
        Hostile(builtins.getattr, "", "join"),
        Hostile(builtins.__import__, "os"),
        Hostile(builtins.open, "/dev/null"),
        Hostile(subprocess.Popen, "true"),
        Hostile(os.remove, "/nonexistent"),
        Hostile(bytearray, 5),
        {1, 2},
        Path("x"),
        len,
    ],
)
def test_any_name_that_is_not_known_is_refused(weapon: object) -> None:
    """There is no list of bad names, only one of good ones."""
    with pytest.raises(ValueError, match="is not allowed here"):
        load_restricted(pickle.dumps(weapon, 3), {"http.cookiejar.Cookie": Inert})


@pytest.mark.parametrize(
    "name", ["Cookie.__init__", "Cookie.__init__.__globals__", "CookieJar", "cookie", ""]
)
def test_a_known_class_opens_no_way_to_others(name: str) -> None:
    """Dotted names reach into a class in protocol 4: only the whole name counts."""
    data = b"\x80\x04\x8c\x0ehttp.cookiejar\x8c" + bytes([len(name)]) + name.encode() + b"\x93."

    with pytest.raises(ValueError, match="not allowed"):
        load_restricted(data, {"http.cookiejar.Cookie": Inert})


def test_an_inert_class_cannot_be_changed_by_a_pickle() -> None:
    """State is set on things, not on the class that all of them share."""
    before = dict(vars(Inert))
    data = b"\x80\x02chttp.cookiejar\nCookie\n}X\x01\x00\x00\x00aK\x01sb."

    with pytest.raises(ValueError, match=r".+"):
        load_restricted(data, {"http.cookiejar.Cookie": Inert})

    assert dict(vars(Inert)) == before


def test_references_to_the_outside_are_refused(tmp_path: Path) -> None:
    """A persistent id means whatever the reader makes of it: we make nothing of it."""
    with (tmp_path / "f").open("wb") as file:
        Persistent(file, 4).dump(["outside"])

    with pytest.raises(ValueError, match="external references"):
        load_restricted((tmp_path / "f").read_bytes())


# -- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", [VALUE, BOOK], ids=["values", "book"])
def test_a_pickle_cut_at_any_byte_is_unreadable(value: object, protocol: int) -> None:
    """Every proper beginning raises ValueError and nothing else."""
    data = pickle.dumps(value, protocol)

    for cut in range(len(data)):
        with pytest.raises(ValueError, match=r".+"):
            load_restricted(data[:cut])

    assert load_restricted(data) == value


def test_any_changed_byte_gives_a_value_or_a_value_error() -> None:
    """Each byte in turn becomes each of some others; memory is limited, as damage can claim it."""
    code = """
    import pickle, resource
    from modelhaul.store.pickles import load_restricted
    from tests.store.test_pickles import BOOK, VALUE
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    read = refused = 0
    for protocol in (0, 2, 4):
        for value in (BOOK, VALUE):
            data = pickle.dumps(value, protocol)
            for at in range(len(data)):
                for change in (0x01, 0x20, 0x80, 0xff):
                    bad = bytearray(data)
                    bad[at] ^= change
                    try:
                        load_restricted(bytes(bad))
                        read += 1
                    except ValueError:
                        refused += 1
    print(read, refused)
    """

    read, refused = map(int, run_python(code).split())

    assert read > 100
    assert refused > 1000


@pytest.mark.parametrize("junk", [b"", b"\0", b"junk", b".", b"\x80\x63.", b"<html></html>" * 9])
def test_what_is_no_pickle_is_unreadable(junk: bytes) -> None:
    """Whatever stands in the file, there is one kind of error, with words in it."""
    with pytest.raises(ValueError, match=r".+"):
        load_restricted(junk)


# Each names a length or a memo slot in the thousands of millions, and does not live up to it.
CLAIMS = [
    *(b"Nr\xff\xff\xff\x7f.", b"Np2147483647\n.", b"Np99999999999999999999\n."),
    *(b"B\xff\xff\xff\x7f.", b"X\xff\xff\xff\x7f.", b"\x8b\xff\xff\xff\x7f."),
    *(b"\x8e" + b"\x7f" * 8 + b".", b"\x96" + b"\x7f" * 8 + b".", b"\x95" + b"\x7f" * 8 + b"N."),
]


def test_a_few_bytes_cannot_claim_gigabytes() -> None:
    """A damaged length or slot is an ordinary ValueError, found before memory is asked for."""
    code = """
    import resource
    from modelhaul.store.pickles import load_restricted
    from tests.store.test_pickles import CLAIMS
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    for claim in CLAIMS:
        try:
            print("read", load_restricted(b"\\x80\\x05" + claim))
        except ValueError as error:
            print("refused", error)
    """

    lines = run_python(code).splitlines()

    assert len(lines) == len(CLAIMS)
    assert [line for line in lines if not line.startswith("refused ")] == []
    assert [line for line in lines if "MemoryError" in line] == []


def test_a_pickle_of_absurd_size_is_not_looked_at() -> None:
    """No login and no book is that large."""
    data = pickle.dumps([]).ljust(MOST_BYTES + 1, b"\0")

    with pytest.raises(ValueError, match="larger than"):
        load_restricted(data)

    assert load_restricted(data[:MOST_BYTES]) == []


def test_a_kind_of_value_that_nobody_uses_is_refused() -> None:
    """Byte arrays say their length before their bytes; no tool keeps any."""
    with pytest.raises(ValueError, match="no place here"):
        load_restricted(pickle.dumps(bytearray(b"x"), 5))


def test_a_real_memo_is_no_absurd_one() -> None:
    """Values that are used again are remembered by number: large books have many."""
    names = [f"model-{at}.safetensors" for at in range(1000)]

    for protocol in PROTOCOLS:
        assert load_restricted(pickle.dumps([names, names], protocol)) == [names, names]

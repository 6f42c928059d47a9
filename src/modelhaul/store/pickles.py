"""Reading other people's pickles without running them.

The ModelScope tools keep their login and their cache index as pickles. `pickle.load` runs whatever
the file says; here only named classes are known, and those are replaced by inert stand-ins.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Mapping
from typing import Any

#: Logins take a kilobyte, the largest cache index (100,000 files) about ten million.
MOST_BYTES = 32 << 20


class Inert:
    """Stands in for a class of the pickle: holds the attributes, does nothing.

    It takes item assignment too, because dict subclasses are pickled that way.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.args = args

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)

    def __setitem__(self, key: object, value: object) -> None:
        """Ignored: a stand-in has no items."""


class _Restricted(pickle.Unpickler):
    def __init__(self, data: bytes, known: Mapping[str, type[Inert]]) -> None:
        super().__init__(io.BytesIO(data))
        self._known = known

    def find_class(self, module: str, name: str) -> type[Inert]:
        try:
            return self._known[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed here") from None

    def persistent_load(self, pid: object) -> Any:
        raise pickle.UnpicklingError("external references are not allowed here")


def load_restricted(data: bytes, known: Mapping[str, type[Inert]] | None = None) -> object:
    """The value in a pickle that uses only plain types and `known` classes (`module.name`).

    Raises:
        ValueError: damaged, or it names anything else.
    """
    try:
        _check_opcodes(data)
        value: object = _Restricted(data, known or {}).load()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except Exception as error:  # noqa: BLE001
        # The format is a program: a damaged one can fail with nearly any exception, and none of
        # them means more than "unreadable".
        raise ValueError(str(error) or type(error).__name__) from None
    return value


def _check_opcodes(data: bytes) -> None:
    """Refuse what would ask for memory out of all proportion.

    A few bytes can name a memo slot, or the length of a buffer, in the thousands of millions.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"larger than {MOST_BYTES} bytes")
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(data):
            raise ValueError("a memo slot beyond all bounds")
        if opcode.name == "BYTEARRAY8":
            raise ValueError("a kind of value that has no place here")

"""When to try again, how long to wait, when to stop. Time and chance come in as arguments.

There is no attempt counter per request. A run has one `Budget` that failures spend and progress
refills, so a line that is cut every megabyte goes on for ever while a server that never delivers is
given up soon; and each origin has a `Health` that spaces the attempts out.
"""

from __future__ import annotations

from enum import Enum, auto

MIB = 1 << 20

# Full jitter (Marc Brooker, "Exponential Backoff And Jitter", 2015) between 0 and these.
FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
# A server that wants a longer pause than this is left alone for the rest of the run.
LONGEST_PAUSE = 300.0


class Verdict(Enum):
    """What an HTTP status means for a request for bytes."""

    BODY = auto()
    REDIRECT = auto()
    RETRY = auto()  # the server's trouble: later, perhaps elsewhere
    SLOWER = auto()  # the server asks for less
    MISSING = auto()
    DENIED = auto()
    RANGE = auto()  # 416: our idea of the size is not the server's
    REFUSED = auto()  # anything else: asking again will not help


def verdict(status: int) -> Verdict:
    """What to do about `status` (RFC 9110 section 15, RFC 6585 for 429)."""
    if status in (200, 206):
        return Verdict.BODY
    if status in (301, 302, 303, 307, 308):
        return Verdict.REDIRECT
    if status in (429, 503):
        return Verdict.SLOWER
    if status in (408, 425) or status >= 500:
        return Verdict.RETRY
    if status in (404, 410):
        return Verdict.MISSING
    if status in (401, 402, 403, 407, 451):
        return Verdict.DENIED
    if status == 416:
        return Verdict.RANGE
    return Verdict.REFUSED


def backoff(attempt: int, chance: float) -> float:
    """Seconds to wait before attempt number `attempt` (1 is the first repeat).

    Args:
        attempt: how many attempts failed in a row.
        chance: a random number in `[0, 1)`.
    """
    return chance * min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(attempt, 20))


class Budget:
    """How many more failures a run may have; progress refills it.

    Begins small, so that a dead server is reported within about a minute, and grows to a ceiling,
    so that a run which has shown that it works survives a long bad patch.
    """

    __slots__ = ("_ceiling", "_earned", "left")

    def __init__(self, *, initial: int = 8, ceiling: int = 64) -> None:
        self.left = initial
        self._ceiling = ceiling
        self._earned = 0

    def spend(self) -> bool:
        """Take one; False if there is none left: the failure is final."""
        if self.left == 0:
            return False
        self.left -= 1
        return True

    def earn(self, recorded: int) -> None:
        """`recorded` bytes were newly recorded (never count refetched ones)."""
        self._earned += recorded
        gained, self._earned = divmod(self._earned, MIB)
        self.left = min(self._ceiling, self.left + gained)


class Health:
    """Whether an origin may be asked now.

    After failures in a row it is left alone for a growing, jittered time; what the server itself
    asks for with `Retry-After` wins over that.
    """

    __slots__ = ("_not_before", "reason", "strikes")

    def __init__(self) -> None:
        self.strikes = 0
        self.reason = ""
        self._not_before = 0.0

    def delay(self, now: float) -> float:
        """Seconds until it may be asked again; 0.0 if now."""
        return max(0.0, self._not_before - now)

    def good(self) -> None:
        """It answered a request: forget the failures."""
        self.strikes = 0

    def bad(self, now: float, *, chance: float, reason: str) -> bool:
        """A request to it failed.

        Failures of requests that were in flight together come together and count once; False if
        this one did not count.
        """
        if now < self._not_before:
            return False
        self.strikes += 1
        self.reason = reason
        self._not_before = now + max(0.1, backoff(self.strikes, chance))
        return True

    def pause(self, now: float, seconds: float, *, reason: str) -> None:
        """It asked to be left alone for `seconds`."""
        self.strikes += 1
        self.reason = reason
        self._not_before = max(self._not_before, now + seconds)

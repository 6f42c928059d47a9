"""How many connections to one host: up while it pays, back when it does not.

`Pace` is a pure function over reports: the driver tells it the counters of a host every so often,
it answers with a target. It compares the throughput before and after each of its own steps, and
nothing else: latency is not looked at (the controller of hf_xet does, and climbs into collapse).
`Throttle` is the opposite: the user's own limit, as a token bucket with debt.
"""

from __future__ import annotations

from dataclasses import dataclass

START = 8
SHORT_START = 32  # where many short requests are waiting
SHORT_EACH = 4  # of them for each connection, at least
GROWTH = 1.10  # doubling must pay at least this much, else it is undone
KEPT = 0.75  # of the rate, at least, must remain when a doubling is undone: half would be its share
DECREASE = 0.7  # after a refusal
SETTLE = 0.1  # seconds; shortest time over which a rate says anything
MOST_RETURNS = 3  # doublings that are undone and tried again after all
RETURN_SETTLE = 0.5  # seconds; a doubling is not undone twice for a moment's gap
PAUSE = 1.0  # seconds without a sample, or three times the settling: nobody was transferring
PROBE_EVERY = 2.0  # seconds between careful steps once doubling has stopped
PROBE_SETTLE = 1.0  # seconds; a careful step is small, so its rates have to be exact
ENOUGH = 20  # requests; a rate of fewer is noise
FORGIVE = 4.0  # seconds after which a ceiling set by a refusal is tried again; doubles each time
FORGIVE_MOST = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Counters of one host at one moment.

    Attributes:
        now: seconds, monotonic.
        received: payload bytes since the beginning.
        completed: requests answered in full since the beginning.
        active: connections in use.
        limited: something else than the number of connections held the host back since the last
            sample: no work, the disk, the user's limit.
        round_trip: seconds to the first byte, lately.
    """

    now: float
    received: int
    completed: int
    active: int
    limited: bool
    round_trip: float


@dataclass(frozen=True, slots=True)
class _Rates:
    """Bytes/s and requests/s over an interval, and how many requests that were."""

    bytes: float
    requests: float
    count: int


@dataclass(slots=True)
class _Trial:
    """A step that was taken and is to be judged: from `level` with these rates."""

    level: int
    before: _Rates

    def pays(self, factor: float, now: _Rates) -> bool:
        """Whether the rates are at least `factor` times what they were.

        A step up pays if either grows; a step down must cost neither.
        """
        by_bytes = now.bytes >= factor * self.before.bytes
        if min(self.before.count, now.count) < ENOUGH:
            return by_bytes
        by_requests = now.requests >= factor * self.before.requests
        return (by_bytes or by_requests) if factor >= 1 else (by_bytes and by_requests)


class Pace:
    """The connections that one host should have.

    Attributes:
        target: connections to keep open now, between 1 and the cap.
    """

    __slots__ = (
        "_cap",
        "_ceiling",
        "_ceiling_until",
        "_climbing",
        "_direction",
        "_forgive",
        "_known",
        "_next_probe",
        "_returning",
        "_returns",
        "_since",
        "_skip_until",
        "_trial",
        "target",
    )

    def __init__(self, *, cap: int, start: int = START) -> None:
        self._cap = cap
        self.target = max(1, min(start, cap))
        self._climbing = True
        self._known = False  # a rate was judged, or the host refused
        self._returning = False  # a doubling is being undone
        self._returns = 0
        self._trial: _Trial | None = None
        self._since: Sample | None = None
        self._skip_until = 0.0
        self._next_probe = 0.0
        self._direction = 1
        self._ceiling = cap
        self._ceiling_until = 0.0
        self._forgive = FORGIVE / 2

    def expect(self, requests: int) -> None:
        """So many short requests are waiting: begin wider, if nothing is known of the host yet.

        A short answer is over before doubling would have got anywhere, and brings so few bytes
        that many of them at once are no more than a few long ones. Each connection gets some of
        them, or opening it would not pay.
        """
        if not self._known:
            wide = min(SHORT_START, requests // SHORT_EACH, self._ceiling)
            self.target = max(self.target, wide)

    def observe(self, sample: Sample) -> None:
        """Take a sample and perhaps move the target."""
        if self._ceiling < self._cap and sample.now >= self._ceiling_until:
            # It was long enough ago: a little more, and faster each time if nothing happens.
            self._ceiling = min(self._cap, self._ceiling + max(1, self._ceiling // 2))
            self._ceiling_until = sample.now + self._forgive
            self._climbing = self._climbing or self._trial is None
        since = self._since
        # A rate counts only if exactly the connections that the target allows were busy: fewer had
        # nothing to do, more are left from before a step down.
        if since is None or sample.limited or sample.active != self.target:
            self._since = sample
            return
        least = RETURN_SETTLE if self._returning else SETTLE if self._climbing else PROBE_SETTLE
        settle = max(2 * sample.round_trip, least)
        if sample.now < self._skip_until:
            self._since = sample
            return
        elapsed = sample.now - since.now
        if elapsed > max(PAUSE, 3 * settle):  # between two runs of a client
            self._since = sample
            return
        if elapsed < settle:
            return
        self._known = True
        count = sample.completed - since.completed
        rates = _Rates((sample.received - since.received) / elapsed, count / elapsed, count)
        self._since = sample
        if self._climbing:
            self._climb(sample.now, settle, rates)
        else:
            self._probe(sample.now, settle, rates)

    def _climb(self, now: float, settle: float, rates: _Rates) -> None:
        trial = self._trial
        if self._returning and trial is not None:
            # The step back is judged as well. What was measured before the step up may have been
            # more than the line gives: buffers on the way deliver in a burst what they hold.
            self._returning, self._trial = False, None
            if self._returns <= MOST_RETURNS and not trial.pays(KEPT, rates):
                self._move(now, settle, trial.level)
            else:
                self._climbing = False
                self._next_probe = now + PROBE_EVERY
            return
        if trial is not None and not trial.pays(GROWTH, rates):
            self._returning = True
            self._returns += 1
            self._trial = _Trial(self.target, rates)
            self._move(now, settle, trial.level)
            return
        higher = min(self.target * 2, self._ceiling)
        if higher == self.target:
            self._climbing = False
            self._next_probe = now + PROBE_EVERY
            self._trial = None
            return
        self._trial = _Trial(self.target, rates)
        self._move(now, settle, higher)

    def _probe(self, now: float, settle: float, rates: _Rates) -> None:
        trial = self._trial
        if trial is not None:
            # One connection more should bring its share, one less should cost it. Half the share
            # decides, so a line that is full lets go of connections and one that is not gains.
            share = 0.5 * (self.target - trial.level) / trial.level
            if not trial.pays(1 + share, rates):
                self._move(now, settle, trial.level)
                self._direction = -self._direction
            self._trial = None
            self._next_probe = now + PROBE_EVERY
            return
        if now < self._next_probe:
            return
        step = max(1, self.target // 8) * self._direction
        other = max(1, min(self.target + step, self._ceiling))
        if other == self.target:
            self._direction = -self._direction
            return
        self._trial = _Trial(self.target, rates)
        self._move(now, settle, other)

    def refused(self, now: float, active: int) -> None:
        """The host refused a connection or asked for less (429, 503) while `active` others worked.

        With none working it says nothing about how many it takes: `Health` spaces the attempts.
        """
        if active == 0 or (now < self._skip_until and not self._climbing and self._trial is None):
            return  # or: one answer to one wave of refusals
        level = min(self.target, active)
        lower = max(1, int(level * DECREASE))
        self._ceiling = max(lower, level)
        self._forgive = min(FORGIVE_MOST, 2 * self._forgive)
        self._ceiling_until = now + self._forgive
        self._climbing = self._returning = False
        self._known = True
        self._trial = None
        self._next_probe = now + PROBE_EVERY
        self._move(now, 1.0, lower)

    def _move(self, now: float, settle: float, target: int) -> None:
        self.target = target
        # What arrives right after a step still belongs to the old level.
        self._skip_until = now + settle
        self._since = None


class Throttle:
    """A limit in bytes per second, kept over about `burst` seconds.

    Spending never fails; it says how long to wait before the next byte is read.
    """

    __slots__ = ("_burst", "_rate", "_then", "_tokens")

    def __init__(self, rate: float, *, burst: float = 0.25) -> None:
        if rate <= 0:
            raise ValueError("a limit must be more than 0 bytes/s")
        self._rate = rate
        self._burst = burst * rate
        self._tokens = self._burst
        self._then: float | None = None

    def spend(self, count: int, now: float) -> float:
        """Seconds to wait after `count` bytes; 0.0 if none."""
        if self._then is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._then) * self._rate)
        self._then = now
        self._tokens -= count
        return max(0.0, -self._tokens / self._rate)

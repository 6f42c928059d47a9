"""What is learnt of where bytes come from: of hosts, of sources, of places.

A *host* is an origin, remembered as long as the client lives. A *source* is one file at a place,
and what it does is forgotten with its file. A *place* is what somebody named, a hub, a mirror or a
folder: its `Standing` is what a run thinks of it, over all files.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# A connection is called silent after this many seconds or round trips, whichever is longer,
# and only if another one could do its work.
SILENT_SECONDS = 1.0
SILENT_ROUND_TRIPS = 8
# A host that has not answered anything after so long is not asked for more while others answer.
MUTE_SECONDS = 0.1
# A source that breaks the protocol this often in a row is not asked for this file again.
MOST_FAULTS = 4
# A server that ignores ranges now and then is one bad edge; one that does so three times in a row,
# or from the first answer on, does not do ranges.
MOST_IGNORED_RANGES = 3
# Failures in a row after which a place beside one that works is of no use: about eight seconds, as
# failures are spaced out, so that a server has the time to be started anew.
MOST_FAILURES = 6
# Files in a row that a place had not, or lied about, after which the others need not be tried.
MOST_WITHOUT = 3
MOST_LIES = 3


@dataclass(slots=True, eq=False)
class Host:
    """What was learnt about one origin: seconds to the first byte, bytes/s per connection.

    Attributes:
        rate: of a body, as measured; 0.0 if none took long enough for that.
        delivered: bytes/s of whole requests, the wait for the first byte included.
        active: requests that are out and were meant for it; a redirect may have led them elsewhere.
        asked: seconds, monotonic, since when some are out.
        taken_back: requests, or waves of them, that were taken back since its last answer.
        struck: seconds, monotonic, at which requests were late beside another host last.
    """

    name: str
    round_trip: float = 0.0
    rate: float = 0.0
    delivered: float = 0.0
    active: int = 0
    asked: float = 0.0
    taken_back: int = 0
    struck: float = float("-inf")

    @property
    def delivers(self) -> float:
        """Bytes/s of a connection, at least: a body that came in one gust tells no rate."""
        return self.rate or self.delivered

    def mute(self, now: float) -> bool:
        """Whether it was asked, and had the time to answer, and has never done so."""
        if self.round_trip > 0:
            return False
        return self.taken_back > 0 or (self.active > 0 and now - self.asked >= MUTE_SECONDS)

    def learn_round_trip(self, seconds: float) -> None:
        self.round_trip = blend(self.round_trip, seconds)
        self.taken_back = 0

    def patience(self, *, answered: bool) -> float:
        """Seconds of silence after which a request is better made anew.

        Doubles with each request that was taken back in vain: perhaps the server is just slow.
        """
        if self.round_trip == 0.0 and not answered:
            return float("inf")  # nothing was ever heard from it; only the idle timeout counts
        return usual(self.round_trip, answered=answered) * 2.0 ** min(self.taken_back, 6)

    def learn_delivery(self, count: int, seconds: float) -> None:
        """A request brought so many bytes in so many seconds."""
        if count > 0 and seconds > 0:
            self.delivered = blend(self.delivered, count / seconds)

    def learn_rate(self, rate: float) -> None:
        # Slowly down: what a host can do is not unlearnt because its last connection crawls.
        self.rate = max(blend(self.rate, rate), 0.97 * self.rate)


def usual(round_trip: float, *, answered: bool) -> float:
    """Seconds of silence that are usual for this round trip, before an answer or within it."""
    least = SILENT_SECONDS if answered else 2 * SILENT_SECONDS
    return max(least, SILENT_ROUND_TRIPS * round_trip)


@dataclass(slots=True, eq=False)
class Standing:
    """What a run thinks of one place.

    A place that is of no use is the last to be asked: only for what nobody else has. So a run never
    fails because of what is thought here.

    Attributes:
        place: what people call it.
        own: the repository itself; it is never set aside.
        failures: requests in a row that failed or were late; those that fail together are one.
        without: large files in a row that it had not, or would not give.
        without_small: the same of small ones, of which a place with the weights alone has none.
        lies: files in a row of which it sent wrong bytes, as their digests have shown.
        served, served_large: requests that it answered well; those for (parts of) large files.
        unranged: it sends whole files only, so that it is of little use for large ones.
        trouble: what went wrong last, in words.
        last: it was set aside.
        last_small: it was set aside as far as small files go.
    """

    place: str = ""
    own: bool = False
    failures: int = 0
    without: int = 0
    without_small: int = 0
    lies: int = 0
    served: int = 0
    served_large: int = 0
    unranged: bool = False
    trouble: str = ""
    last: bool = False
    last_small: bool = False

    def is_last(self, *, small: bool) -> bool:
        """Whether it is asked only for what nobody else has."""
        return self.last or (small and self.last_small)

    def serve(self, *, small: bool) -> None:
        """A request was answered well; whether the bytes are right is for the digest to say."""
        self.failures = 0
        self.served += 1
        if small:
            self.without_small = 0
        else:
            self.served_large += 1
            self.without = 0

    def fail(self, trouble: str) -> None:
        """A request failed, or was late."""
        self.failures += 1
        self.trouble = trouble

    def lack(self, trouble: str, *, small: bool) -> None:
        """It will not give a file."""
        self.trouble = trouble
        if small:
            self.without_small += 1
        else:
            self.without += 1

    def ignore(self, trouble: str) -> None:
        """It sends whole files only."""
        self.unranged = True
        self.trouble = trouble

    def lie(self, path: str) -> None:
        """It sent wrong bytes of a file, which is right by now."""
        self.lies += 1
        self.trouble = f"it sent wrong bytes of {self.lies} files, lastly of {path}"

    def prove(self) -> None:
        """A file is right with its bytes in it."""
        self.lies = 0

    def useless(self, *, beside: bool) -> bool:
        """Whether it should be set aside.

        Args:
            beside: another place of the same file works; else its failures may be the line's.
        """
        if self.own or self.last:
            return False
        failing = beside and self.failures >= MOST_FAILURES
        return failing or self.without >= MOST_WITHOUT or self.lies >= MOST_LIES

    def useless_for_small(self) -> bool:
        """Whether it should be set aside as far as small files go."""
        return not (self.own or self.last or self.last_small) and (
            self.without_small >= MOST_WITHOUT
        )


@dataclass(slots=True, eq=False)
class SourceState:
    """One source of one job while the run lasts.

    Attributes:
        name: tells it from the others of the job; what journals remember of it.
        fallback: asked only when no other source is alive.
        place: what people call it; "" if that is its name.
        failed_at: when a request to it failed, None if it has served since.
        well: it has served, and has not failed since.
        standing: that of its place.
    """

    name: str
    host: Host
    fallback: bool = False
    place: str = ""
    alive: bool = True
    ranges: bool = True
    good_ranges: int = 0
    ignored_ranges: int = 0
    other_versions: int = 0
    faults: int = 0
    strikes: int = 0
    active: int = 0
    failed_at: float | None = None
    well: bool = False
    standing: Standing = field(default_factory=Standing)

    @property
    def called(self) -> str:
        """What people call it."""
        # The repository's own may be named by a URL per file, to tell it from its neighbours.
        return self.place or (self.standing.place if self.standing.own else "") or self.name

    @property
    def failing(self) -> bool:
        """It is of no more use, or nothing that it was asked for since it failed has come."""
        return not self.alive or self.failed_at is not None

    def failed(self, now: float) -> None:
        """A request to it failed."""
        self.failed_at, self.well = now, False

    def served(self, began: float = float("inf"), *, small: bool = False) -> None:
        """An answer was checked and is right.

        Args:
            began: when it was asked for, if not just now.
            small: it was a whole small file.
        """
        self.faults = 0
        self.strikes = 0
        self.standing.serve(small=small)
        if self.failed_at is None or began > self.failed_at:
            self.failed_at, self.well = None, True

    def ranged(self) -> None:
        """A range was answered with exactly that range."""
        self.good_ranges += 1
        self.ignored_ranges = 0
        self.other_versions = 0

    def ignored(self) -> None:
        """A range was asked for and the whole body came."""
        self.ignored_ranges += 1
        if self.good_ranges == 0 or self.ignored_ranges >= MOST_IGNORED_RANGES:
            self.ranges = False

    def other_version(self) -> bool:
        """It answered with another version than the one that is insisted on; False if too often."""
        self.other_versions += 1
        return self.other_versions < MOST_FAULTS

    def fault(self) -> bool:
        """It broke the protocol once more; False if that was once too often."""
        self.faults += 1
        if self.faults >= MOST_FAULTS:
            self.alive = False
        return self.alive


def blend(old: float, new: float) -> float:
    """An exponentially weighted mean that begins with the first value."""
    return new if old == 0.0 else 0.7 * old + 0.3 * new

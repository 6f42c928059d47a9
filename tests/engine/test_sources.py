"""Origins that fail, ask for patience, redirect, expire; credentials; connections that die."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from modelhaul import events
from modelhaul.engine.locations import expiry
from modelhaul.errors import (
    CertificateError,
    ConnectFailed,
    ProtocolError,
    QuotaError,
    Stalled,
    TransportError,
    Unauthorized,
)
from modelhaul.net.transport import Request
from modelhaul.report import FileResult
from tests.engine.harness import CHUNK, MIB, ORIGIN, Rig, payload, remote, source
from tests.support.network import Asked, FakeNetwork, Fault, Refusing, Served
from tests.support.virtual import virtual

CDN = "https://cdn.test"


def bring(rig: Rig, data: bytes, *sources: object) -> FileResult:
    (result,) = virtual(lambda: rig.bring(rig.order(remote("w", data), *sources)))  # type: ignore[arg-type]
    return result


class SignedUrls:
    """A hub that redirects to addresses that work for a while."""

    def __init__(self, data: bytes, *, seconds: float = 1e9, rate: float = 2e6) -> None:
        self.data = data
        self.seconds = seconds
        self.rate = rate
        self.issued: dict[str, float] = {}
        self.network = FakeNetwork({f"{ORIGIN}/w": Served(redirect=self.sign)}, self.check)

    def sign(self, request: Request) -> str:
        url = f"{CDN}/blob?signature={len(self.issued)}"
        self.issued[url] = anyio.current_time() + self.seconds
        self.network.files[url] = Served(self.data, rate=self.rate)
        return url

    def check(self, asked: Asked) -> Fault | None:
        expired = asked.url in self.issued and asked.time > self.issued[asked.url]
        return Fault(status=403) if expired else None


@pytest.mark.parametrize(
    ("query", "moment"),
    [
        ("Expires=1700000000&Signature=x", 1_700_000_000.0),
        ("X-Amz-Date=20231114T221320Z&X-Amz-Expires=60", 1_700_000_060.0),
        ("X-Amz-Date=20231399T221320Z&X-Amz-Expires=60", None),
        ("X-Amz-Date=00000000T000000Z&X-Amz-Expires=60", None),
        ("X-Amz-Date=20231114T221320Z", None),
        ("Expires=soon", None),
        ("Expires=%D9%A3", None),
        ("Expires=3600", None),  # no moment: a duration by another scheme
        ("", None),
    ],
)
def test_when_a_signed_address_ends_is_read_or_unknown(query: str, moment: float | None) -> None:
    """The address is the server's word: a month of 13 in it is nonsense, and no crash."""
    assert expiry(f"{CDN}/blob?{query}") == moment


def test_a_signed_address_is_asked_for_once_and_shared(target: Path) -> None:
    """All connections of a file use the address that the first one found."""
    hub = SignedUrls(payload(8 * MIB))
    rig = Rig(target, hub.network)

    result = bring(rig, hub.data)

    assert result.error is None
    assert len(hub.issued) == 1
    assert hub.network.most_active == 8
    assert result.sources == (CDN,)


@pytest.mark.fault(
    "a signature ends under many connections",
    "one renewal, no byte lost",
    number=41,
)
def test_an_expired_address_is_renewed_once_however_many_notice(target: Path) -> None:
    """The address ends while eight connections use it: one new one per ending, no error."""
    hub = SignedUrls(payload(16 * MIB), seconds=0.5)
    rig = Rig(target, hub.network)

    result = bring(rig, hub.data)

    assert result.error is None
    assert (target / "w").read_bytes() == hub.data
    elapsed = hub.network.asked[-1].time - hub.network.asked[0].time
    assert 2 <= len(hub.issued) <= elapsed / 0.5 + 2
    assert hub.network.sent == len(hub.data)


def test_an_address_that_is_refused_for_ever_ends_the_file(target: Path) -> None:
    """Signed addresses that never work: given up after a few, as an access error."""
    hub = SignedUrls(payload(MIB), seconds=-1.0)
    rig = Rig(target, hub.network)

    result = bring(rig, hub.data)

    assert isinstance(result.error, Unauthorized)
    assert len(hub.issued) <= 5


def test_credentials_go_to_their_own_origin_only(target: Path) -> None:
    """The token is sent to the hub and not to where it redirects."""
    data = payload(MIB)
    network = FakeNetwork(
        {
            f"{ORIGIN}/w": Served(redirect=lambda request: f"{CDN}/blob"),
            f"{CDN}/blob": Served(data),
        }
    )
    rig = Rig(target, network)

    bring(rig, data, source(f"{ORIGIN}/w", Authorization="Bearer secret"))

    for asked in network.asked:
        expected = {"Authorization": "Bearer secret"} if asked.url.startswith(ORIGIN) else {}
        assert asked.headers == expected
    assert {asked.url for asked in network.asked} == {f"{ORIGIN}/w", f"{CDN}/blob"}


def test_credentials_follow_a_redirect_within_their_origin(target: Path) -> None:
    """Same scheme, host and port: it is the same party."""
    data = payload(MIB)
    network = FakeNetwork(
        {
            f"{ORIGIN}/w": Served(redirect=lambda request: f"{ORIGIN}/elsewhere"),
            f"{ORIGIN}/elsewhere": Served(data),
        }
    )
    rig = Rig(target, network)

    bring(rig, data, source(f"{ORIGIN}/w", Authorization="Bearer secret"))

    assert all(asked.headers == {"Authorization": "Bearer secret"} for asked in network.asked)


def test_a_redirect_loop_ends(target: Path) -> None:
    """More than ten hops are a broken promise, not a reason to go on."""
    network = FakeNetwork({f"{ORIGIN}/w": Served(redirect=lambda request: f"{ORIGIN}/w")})
    rig = Rig(target, network)

    result = bring(rig, payload(MIB))

    assert isinstance(result.error, ProtocolError)
    assert "redirects more than 10 times" in result.error.message


@pytest.mark.fault(
    "429 with Retry-After while many requests wait",
    "the whole origin is left alone",
    number=36,
)
def test_retry_after_pauses_the_whole_origin(target: Path) -> None:
    """429 with a wait: no new request to that origin before it is over, running ones go on."""
    data = payload(4 * MIB)

    def once(asked: Asked) -> Fault | None:
        return Fault(status=429, headers={"retry-after": "7"}) if asked.number == 3 else None

    network = FakeNetwork({f"{ORIGIN}/w": Served(data, rate=1e6)}, once)
    rig = Rig(target, network)

    result = bring(rig, data)

    told = network.asked[3].time + 0.02
    assert result.error is None
    assert not [asked for asked in network.asked if told < asked.time < told + 6.9]


def test_a_pause_of_a_store_is_kept_by_all_who_wait_for_its_address(target: Path) -> None:
    """The first request of each file is redirected and refused: nobody else goes and asks.

    Neither the others of the file, who waited for the address, nor those of other files, who do not
    know yet that they are led to the same store.
    """
    files = [remote(name, payload(2 * MIB, seed)) for seed, name in enumerate("abc")]
    served = {f"{CDN}/{name}": Served(payload(2 * MIB, seed)) for seed, name in enumerate("abc")}
    redirects = {
        f"{ORIGIN}/{name}": Served(redirect=lambda request: request.url.replace(ORIGIN, CDN))
        for name in "abc"
    }
    refusals: list[float] = []

    def busy(asked: Asked) -> Fault | None:
        if not asked.url.startswith(CDN) or len(refusals) == 2:
            return None
        refusals.append(asked.time)
        return Fault(status=429, headers={"retry-after": "7"})

    network = FakeNetwork({**served, **redirects}, busy)
    # One after the other: or several would ask before the first is refused.
    network.files[f"{ORIGIN}/b"].delay = network.files[f"{ORIGIN}/c"].delay = 1.0
    rig = Rig(target, network)

    results = virtual(lambda: rig.bring(*(rig.order(file) for file in files)))

    asked = [asked.time for asked in network.asked if asked.url.startswith(CDN)]
    assert [result.error for result in results] == [None] * 3
    assert asked[:2] == refusals
    assert asked[1] - asked[0] >= 7
    assert asked[2] - asked[1] >= 7
    assert not rig.events_of(events.SourceDropped)
    # Nobody asks the hub for addresses in vain either: one a file for each pause, and the last.
    assert len([asked for asked in network.asked if asked.url.startswith(ORIGIN)]) <= 9


def test_a_pause_beyond_five_minutes_ends_with_the_time_to_come_back(target: Path) -> None:
    """The server wants an hour: no waiting in the program, but the error says until when."""
    data = payload(MIB)
    network = FakeNetwork(
        {f"{ORIGIN}/w": Served(data)},
        lambda asked: Fault(status=429, headers={"retry-after": "3600"}),
    )
    rig = Rig(target, network)

    result = bring(rig, data)

    assert isinstance(result.error, QuotaError)
    assert result.error.retry_at is not None
    assert "3600" in result.error.message


def test_a_server_that_fails_three_times_is_asked_again(target: Path) -> None:
    """503 without a wait: back-off, then it works."""
    data = payload(MIB)
    network = FakeNetwork(
        {f"{ORIGIN}/w": Served(data)},
        lambda asked: Fault(status=503) if asked.number < 3 else None,
    )
    rig = Rig(target, network, connections=1)

    result = bring(rig, data)

    assert result.error is None
    gaps = [b.time - a.time for a, b in zip(network.asked[:3], network.asked[1:4], strict=True)]
    assert gaps[0] < gaps[1] < gaps[2]


@pytest.mark.fault("every connection is refused", "a typed error within two minutes", number=65)
def test_a_server_that_never_answers_is_given_up_within_two_minutes(target: Path) -> None:
    """Without any progress the retry budget is small: the run ends with the reason."""
    rig = Rig(target, Refusing({}))

    async def main() -> float:
        before = anyio.current_time()
        with pytest.raises(TransportError, match="nobody answers"):
            await rig.bring(rig.order(remote("w", payload(MIB))))
        return anyio.current_time() - before

    assert virtual(main) < 120


@pytest.mark.fault("a certificate that is not trusted", "final after one request", number=68)
def test_an_untrusted_certificate_is_final(target: Path) -> None:
    """Asked once, never again, never worked around."""
    network = FakeNetwork(
        {f"{ORIGIN}/w": Served(payload(MIB))},
        lambda asked: Fault(error=CertificateError("not trusted")),
    )
    rig = Rig(target, network, connections=1)

    result = bring(rig, payload(MIB))

    assert isinstance(result.error, CertificateError)
    assert len(network.asked) == 1


@pytest.mark.fault(
    "a server refuses the fifth connection",
    "fewer connections, the right bytes",
    number=72,
)
def test_refused_connections_lower_their_number(target: Path) -> None:
    """A server that takes four connections and refuses the fifth: fewer, not failure."""
    data = payload(16 * MIB)
    network = FakeNetwork({f"{ORIGIN}/w": Served(data, rate=1e6)})

    def limit(asked: Asked) -> Fault | None:
        crowded = network.active > 4
        return Fault(error=ConnectFailed("connection refused")) if crowded else None

    network.fault = limit
    rig = Rig(target, network)

    result = bring(rig, data)

    assert result.error is None
    refused = len(rig.events_of(events.Retrying))
    assert refused < len(network.asked) / 2


@pytest.mark.fault("one connection goes silent", "at most 15 % or a second more", number=63)
def test_a_connection_that_goes_silent_costs_little_while_others_work(target: Path) -> None:
    """One of eight stops delivering half-way: the rest of its lease is taken by the others."""
    data = payload(32 * MIB)
    healthy = FakeNetwork({f"{ORIGIN}/w": Served(data, rate=2e6)})
    hurt = FakeNetwork(
        {f"{ORIGIN}/w": Served(data, rate=2e6)},
        lambda asked: Fault(silent=200_000) if asked.number == 5 else None,
    )

    def seconds(network: FakeNetwork, folder: Path) -> float:
        folder.mkdir()
        rig = Rig(folder, network)

        async def main() -> float:
            before = anyio.current_time()
            await rig.bring(rig.order(remote("w", data)))
            return anyio.current_time() - before

        return virtual(main)

    good = seconds(healthy, target / "a")
    bad = seconds(hurt, target / "b")

    assert bad <= max(1.15 * good, good + 1.0) + 0.5
    assert (target / "b" / "w").read_bytes() == data


@pytest.mark.fault("one connection crawls", "it is replaced", number=62)
def test_a_connection_that_crawls_is_replaced(target: Path) -> None:
    """One byte a second does not hold up the end of a file."""
    data = payload(8 * MIB)
    network = FakeNetwork(
        {f"{ORIGIN}/w": Served(data, rate=2e6)},
        lambda asked: Fault(rate=1.0) if asked.number == 2 else None,
    )
    rig = Rig(target, network)

    async def main() -> float:
        before = anyio.current_time()
        await rig.bring(rig.order(remote("w", data)))
        return anyio.current_time() - before

    assert virtual(main) < 8
    assert (target / "w").read_bytes() == data


@pytest.mark.fault(
    "no byte from any source",
    "a typed error after the patience, progress kept",
    number=69,
)
def test_without_any_new_byte_the_run_ends_after_the_patience(target: Path) -> None:
    """Every connection hangs: a typed error, not a hang, and the progress is kept."""
    data = payload(4 * MIB)
    network = FakeNetwork(
        {f"{ORIGIN}/w": Served(data, rate=4e6)}, lambda asked: Fault(silent=CHUNK)
    )
    rig = Rig(target, network)
    network.fault = lambda asked: Fault(silent=CHUNK) if asked.number < 8 else Fault(silent=0)

    async def main() -> float:
        before = anyio.current_time()
        with pytest.raises(Stalled, match="600 s"):
            await rig.bring(rig.order(remote("w", data)))
        return anyio.current_time() - before

    assert 600 <= virtual(main) < 700
    assert len(rig.left()) == 2


@pytest.mark.fault("a head that takes long", "it is waited for", number=64)
def test_a_slow_first_answer_is_waited_for(target: Path) -> None:
    """A server that needs five seconds before the first byte is slow, not dead."""
    data = payload(4 * MIB)
    network = FakeNetwork({f"{ORIGIN}/w": Served(data, delay=5.0)})
    rig = Rig(target, network)

    result = bring(rig, data)

    assert result.error is None
    assert network.sent == len(data)

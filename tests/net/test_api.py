"""Small calls to a hub: patience in virtual time, and who sees which credential."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from modelhaul.core.origin import origin_of
from modelhaul.errors import (
    CertificateError,
    ConnectFailed,
    ConnectionLost,
    HaulError,
    ProtocolError,
    QuotaError,
    StatusError,
    TimedOut,
)
from modelhaul.net.api import MAX_BODY, MAX_HOPS, Api, Patience
from modelhaul.net.transport import Redirect, Response
from tests.support.virtual import virtual

HUB = "https://hub.test"
URL = f"{HUB}/api?token=SECRET"
WALL = 1_700_000_000.0
WHO = {"Authorization": "Bearer T", "Cookie": "m_session_id=T"}


def replies(status: int, **headers: str) -> Response:
    fields = {name.replace("_", "-").lower(): value for name, value in headers.items()}
    return Response(status=status, headers=fields, body=b"{}")


class Script:
    """A transport whose calls answer what they are told, the last of it for ever."""

    def __init__(self, *answers: Response | Redirect | HaulError) -> None:
        self.answers = list(answers)
        self.times: list[float] = []
        self.urls: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.limits: list[int] = []

    async def call(
        self, url: str, *, headers: Mapping[str, str], limit: int
    ) -> Response | Redirect:
        self.times.append(anyio.current_time())
        self.urls.append(url)
        self.headers.append(dict(headers))
        self.limits.append(limit)
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(found, HaulError):
            raise found
        return found

    @property
    def waits(self) -> list[float]:
        """Virtual seconds between the calls."""
        pairs = zip(self.times, self.times[1:], strict=False)
        return [round(later - earlier, 3) for earlier, later in pairs]

    fetch: Any = None
    aclose: Any = None


def get(script: Script, *, chance: float = 1.0) -> tuple[Response | HaulError, list[tuple]]:
    """What a GET ends with, and what was said about waiting."""
    told: list[tuple[str, float]] = []

    async def main() -> Response | HaulError:
        patience = Patience(
            notify=lambda reason, seconds: told.append((reason, seconds)),
            chance=lambda: chance,
            wall=lambda: WALL,
        )
        try:
            return await Api(script, patience).get(URL, origin=origin_of(HUB), credentials=WHO)
        except HaulError as error:
            return error

    return virtual(main), told


# -- trying again ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 206, 204, 304, 400, 401, 403, 404, 410, 416, 451])
def test_most_statuses_are_answers(status: int) -> None:
    """What another try cannot change is handed to the caller at once."""
    script = Script(replies(status))

    found, told = get(script)

    assert found == replies(status)
    assert (len(script.times), told) == (1, [])


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520])
def test_a_server_in_trouble_is_asked_again(status: int) -> None:
    """Its trouble may pass; the caller never sees it."""
    script = Script(replies(status), replies(status), replies(200))

    found, told = get(script)

    assert found == replies(200)
    assert script.waits == [1.0, 2.0]
    assert told == [(f"https://hub.test/api answers {status}", wait) for wait in (1.0, 2.0)]


@pytest.mark.parametrize("kind", [ConnectFailed, ConnectionLost, TimedOut])
def test_a_network_in_trouble_is_asked_again(kind: type[HaulError]) -> None:
    """A connection that was not made or was lost is made again."""
    script = Script(kind("no luck"), replies(200))

    found, told = get(script)

    assert found == replies(200)
    assert told == [("no luck", 1.0)]


def test_waits_grow_and_end() -> None:
    """Five attempts with longer and longer waits, then the last failure is the answer."""
    script = Script(replies(500))

    found, _ = get(script)

    assert isinstance(found, StatusError)
    assert found.status == 500
    assert script.waits == [1.0, 2.0, 4.0, 8.0]


def test_waits_are_jittered() -> None:
    """Clients that failed together do not come back together."""
    script = Script(ConnectFailed("no"))

    found, _ = get(script, chance=0.25)

    assert isinstance(found, ConnectFailed)
    assert script.waits == [0.25, 0.5, 1.0, 2.0]


@pytest.mark.parametrize("kind", [CertificateError, ProtocolError])
def test_what_will_not_change_is_final(kind: type[HaulError]) -> None:
    """A certificate that is not trusted, or an answer that is none, is not asked for again."""
    script = Script(kind("final"))

    found, told = get(script)

    assert isinstance(found, kind)
    assert (len(script.times), told) == (1, [])


# -- Retry-After -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry_After": "17"}, 17.0),
        ({"Retry_After": "0"}, 0.0),
        ({"Retry_After": "300"}, 300.0),
        ({"Retry_After": "-3"}, 1.0),
        ({"Retry_After": "tomorrow"}, 1.0),
        ({"Retry_After": "Tue, 14 Nov 2023 22:13:45 GMT"}, 25.0),
        (
            {
                "Retry_After": "Thu, 01 Jan 1970 00:01:30 GMT",
                "Date": "Thu, 01 Jan 1970 00:01:00 GMT",
            },
            30.0,
        ),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_the_server_says_when_to_come_back(
    status: int, headers: dict[str, str], wait: float
) -> None:
    """Seconds, or a date by the server's own clock; nonsense means our own wait."""
    script = Script(replies(status, **headers), replies(200))

    found, told = get(script)

    assert found == replies(200)
    assert script.waits == [wait]
    assert [seconds for _, seconds in told] == [wait]


@pytest.mark.parametrize("seconds", [301, 3600, 10**12])
def test_a_long_pause_is_left_to_the_user(seconds: int) -> None:
    """Beyond five minutes nobody should wait at a terminal: the error says when to come back."""
    script = Script(replies(429, Retry_After=str(seconds)), replies(200))

    found, told = get(script)

    assert isinstance(found, QuotaError)
    assert found.retry_at == WALL + min(seconds, 10**9)
    assert found.exit_code == 5
    assert (len(script.times), told) == (1, [])


def test_waiting_can_be_cancelled() -> None:
    """A cancelled call stops waiting at once."""
    script = Script(replies(503, Retry_After="200"))

    async def main() -> float:
        began = anyio.current_time()
        with anyio.move_on_after(3):
            patience = Patience(notify=lambda reason, seconds: None, chance=lambda: 1.0)
            await Api(script, patience).get(URL, origin=origin_of(HUB), credentials=WHO)
        return anyio.current_time() - began

    assert virtual(main) == pytest.approx(3.0)


# -- redirects and credentials -----------------------------------------------------------------


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://cdn.test/x",
        "https://hub.test:8443/api",
        "http://hub.test/api",
        "https://sub.hub.test/api",
        "https://hub.test.evil.test/api",
        "https://hub.test@evil.test/api",
    ],
)
def test_credentials_stay_at_their_origin(elsewhere: str) -> None:
    """Scheme, host and port must all be equal; on the way back they are sent again."""
    back = f"{HUB}:443/back"
    script = Script(Redirect(elsewhere), Redirect(back), replies(200))

    found, _ = get(script)

    assert found == replies(200)
    assert script.urls == [URL, elsewhere, back]
    assert script.headers == [WHO, {}, WHO]


def test_a_retry_begins_at_the_hub_again() -> None:
    """A signed address that failed may have expired: the hub is asked for a new one."""
    script = Script(Redirect("https://cdn.test/a"), replies(500), replies(200))

    found, _ = get(script)

    assert found == replies(200)
    assert script.urls == [URL, "https://cdn.test/a", URL]
    assert script.headers == [WHO, {}, WHO]


def test_ten_hops_are_followed() -> None:
    """Long ways exist."""
    script = Script(*[Redirect(f"{HUB}/{hop}") for hop in range(MAX_HOPS)], replies(200))

    found, _ = get(script)

    assert found == replies(200)


def test_a_redirect_loop_ends_fast() -> None:
    """Circles are an error after ten hops, and are not walked a second time."""
    script = Script(Redirect(f"{HUB}/again"))

    found, told = get(script)

    assert isinstance(found, ProtocolError)
    assert str(found) == "https://hub.test/api redirects more than 10 times"
    assert (len(script.times), told) == (MAX_HOPS + 1, [])


def test_every_call_has_a_limit() -> None:
    """No answer may fill the memory."""
    script = Script(Redirect(f"{HUB}/again"), replies(200))

    get(script)

    assert script.limits == [MAX_BODY, MAX_BODY]


@pytest.mark.parametrize(
    "last",
    [replies(500), replies(429, Retry_After="1000"), Redirect(f"{HUB}/loop?token=SECRET")],
    ids=["status", "quota", "loop"],
)
def test_no_message_shows_query_or_credentials(last: Response | Redirect) -> None:
    """What is told and raised names host and path only."""
    script = Script(last)

    found, told = get(script)

    assert isinstance(found, HaulError)
    assert "SECRET" not in f"{found!r} {told!r}"
    assert "Bearer" not in f"{found!r} {told!r}"

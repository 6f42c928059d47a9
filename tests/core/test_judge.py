"""What each failure means, and which error a file ends with."""

from __future__ import annotations

import pytest

from modelhaul.core.judge import Judgement, final_error, judge
from modelhaul.core.retry import LONGEST_PAUSE, Verdict, verdict
from modelhaul.errors import (
    AccessError,
    CertificateError,
    ConnectFailed,
    ConnectionLost,
    DiskFull,
    HaulError,
    IntegrityError,
    NotFound,
    ProtocolError,
    ProxyRefused,
    QuotaError,
    RangeIgnored,
    StatusError,
    StorageError,
    TimedOut,
    TransportError,
    Unauthorized,
)

LATER = Judgement(strike=True, costs=True)
FEWER = Judgement(strike=True, slower=True, costs=True)
BROKEN = Judgement(fault=True)
USELESS = Judgement(drop=True)
EXPIRED = Judgement(expire=True, fault=True)


def answered(status: int, retry_after: float | None = None) -> StatusError:
    return StatusError(f"https://hub answers {status}", status=status, retry_after=retry_after)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TransportError("?"), LATER),
        (ConnectionLost("cut"), LATER),
        (TimedOut("silent"), LATER),
        (ConnectFailed("refused"), FEWER),
        (CertificateError("not trusted"), USELESS),
        (ProxyRefused("407"), USELESS),
        (ProtocolError("another range"), BROKEN),
        (RangeIgnored("whole body", size=9, validator=None), Judgement(ignored=True)),
        (StorageError("input/output error"), Judgement(give_up=True)),
        (DiskFull("full"), Judgement(give_up=True)),
        (IntegrityError("wrong twice"), Judgement(give_up=True)),
        (answered(500), LATER),
        (answered(502), LATER),
        (answered(504), LATER),
        (answered(408), LATER),
        (answered(425), LATER),
        (answered(416), BROKEN),
        (answered(429), FEWER),
        (answered(503), FEWER),
        (answered(503, 7.0), Judgement(pause=7.0, slower=True)),
        (answered(429, LONGEST_PAUSE), Judgement(pause=LONGEST_PAUSE, slower=True)),
        (answered(429, 0.0), Judgement(pause=1.0, slower=True)),
        (answered(503, 0.4), Judgement(pause=1.0, slower=True)),
        (answered(429, LONGEST_PAUSE + 1), Judgement(drop=True, gone=True)),
        (answered(503, 1e9), Judgement(drop=True, gone=True)),
    ],
    ids=str,
)
def test_these_failures_mean_the_same_wherever_they_happen(
    error: HaulError, expected: Judgement, signed: bool
) -> None:
    """Whether the address was signed does not matter to them."""
    assert judge(error, signed=signed) == expected


def test_a_judgement_says_nothing_that_was_not_decided() -> None:
    """Every consequence has to be named."""
    assert Judgement() == Judgement(
        give_up=False,
        drop=False,
        gone=False,
        strike=False,
        slower=False,
        pause=None,
        expire=False,
        fault=False,
        ignored=False,
        costs=False,
    )


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 410, 451])
def test_a_refusal_at_the_own_address_of_a_source_is_final(status: int) -> None:
    """Asking again will not help, another source may."""
    assert judge(answered(status), signed=False) == USELESS


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 410, 451])
def test_a_refusal_at_a_signed_address_means_a_new_address(status: int) -> None:
    """A signature that ended shows as 403, on some sites as 400 or 404; it must not go on for ever,
    so it counts as a fault.
    """
    assert judge(answered(status), signed=True) == EXPIRED


@pytest.mark.parametrize("signed", [False, True])
def test_every_status_has_a_consequence(signed: bool) -> None:
    """None leads to asking again without end: each drops the source, counts against it or costs."""
    judgements = {status: judge(answered(status), signed=signed) for status in range(100, 600)}

    endless = [
        status
        for status, judgement in judgements.items()
        if not (judgement.drop or judgement.fault or judgement.costs)
    ]
    assert endless == []
    assert not any(judgement.give_up for judgement in judgements.values())


def test_only_a_long_pause_ends_an_origin_for_the_whole_run() -> None:
    """Every other failure is about one file, one source or one moment."""
    judgements = [
        judge(answered(status, wait), signed=signed)
        for status in range(100, 600)
        for wait in (None, 0.0, LONGEST_PAUSE)
        for signed in (False, True)
    ]

    assert not any(judgement.gone for judgement in judgements)
    assert all(
        judge(answered(status, LONGEST_PAUSE + 1), signed=True).gone for status in (429, 503)
    )


@pytest.mark.parametrize("wait", [0.0, 1e-9, 0.999])
@pytest.mark.parametrize("status", [429, 503])
def test_come_back_at_once_means_in_a_second(status: int, wait: float) -> None:
    """A server that means it badly would be asked without end and without a wait."""
    judgement = judge(answered(status, wait), signed=False)

    assert judgement.pause == 1.0


def test_only_a_server_that_asks_for_less_gets_fewer_connections() -> None:
    """A missing file or a crash says nothing about how many connections are welcome."""
    statuses = range(100, 600)

    slower = [status for status in statuses if judge(answered(status), signed=False).slower]

    assert slower == [status for status in statuses if verdict(status) is Verdict.SLOWER]


def test_a_pause_that_the_server_asked_for_costs_nothing() -> None:
    """It said when to come back; patience bounds that, not the budget."""
    judgement = judge(answered(503, 60.0), signed=False)

    assert judgement.pause == 60.0
    assert not judgement.costs


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (404, NotFound),
        (410, NotFound),
        (401, Unauthorized),
        (402, Unauthorized),
        (403, Unauthorized),
        (407, Unauthorized),
        (451, Unauthorized),
        (429, QuotaError),
        (503, QuotaError),
    ],
)
def test_a_file_ends_with_the_error_that_its_last_source_stands_for(
    status: int, expected: type[HaulError]
) -> None:
    """The class, and with it the exit code, tells what to do; the message is kept."""
    error = answered(status, 30.0)

    final = final_error(error, 1000.0)

    assert type(final) is expected
    assert error.message in final.message
    assert final.hint is not None


@pytest.mark.parametrize("status", [400, 405, 416, 418, 500, 502])
def test_a_status_that_stands_for_nothing_else_stays_what_it_is(status: int) -> None:
    """No guess is made about it."""
    error = answered(status)

    assert final_error(error, 1000.0) is error


@pytest.mark.parametrize(
    "error",
    [
        ConnectFailed("refused"),
        ProtocolError("another range"),
        CertificateError("bad"),
        ProxyRefused("407"),
    ],
)
def test_an_error_that_is_no_status_stays_what_it_is(error: HaulError) -> None:
    """There is nothing to translate."""
    assert final_error(error, 1000.0) is error


def test_a_quota_says_when_to_come_back() -> None:
    """The moment is in Unix time, whatever the server counted in."""
    final = final_error(answered(429, 600.0), 1_700_000_000.0)

    assert isinstance(final, QuotaError)
    assert final.retry_at == 1_700_000_600.0
    assert "600 s" in final.message


@pytest.mark.parametrize("status", [429, 503])
def test_a_quota_without_a_time_has_none(status: int) -> None:
    """The server did not say when: neither does the error."""
    final = final_error(answered(status), 1_700_000_000.0)

    assert isinstance(final, QuotaError)
    assert final.retry_at is None
    assert final.message == f"https://hub answers {status}"


def test_access_errors_are_not_worth_a_retry_and_quotas_are() -> None:
    """What the caller may do without changing anything."""
    kinds = [final_error(answered(status, 9.0), 0.0) for status in (404, 403, 429)]

    assert [isinstance(kind, AccessError) for kind in kinds] == [True, True, False]
    assert [kind.retryable for kind in kinds] == [False, False, True]

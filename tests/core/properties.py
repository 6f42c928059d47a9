"""How property tests run: the same examples each time, however busy the machine is.

Neither the clock nor chance decides about a result: examples are derived from the test itself,
none has a deadline, and slow drawing on a machine that does something else is no failure.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

thorough = settings(
    derandomize=True,
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow],
)

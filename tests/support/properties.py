"""How property tests run: the same examples each time, however busy the machine is.

Neither the clock nor chance decides about a result: examples are derived from the test itself,
none has a deadline, and slow drawing on a machine that does something else is no failure.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

steady = settings(
    derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
# `make test-quick` looks at fewer examples: another Python finds other mistakes than more of them.
thorough = settings(steady, max_examples=60 if os.environ.get("QUICK") else 300)

"""Replace ``time.sleep`` in processes with a faked clock, for which it does not work. Python imports this at its start.

libfaketime 0.9.10 with FAKETIME_DONT_FAKE_MONOTONIC rejects the absolute times that Python sleeps until.
"""

import select
import time


def _sleep(seconds: float, /) -> None:
    select.select([], [], [], seconds)


time.sleep = _sleep

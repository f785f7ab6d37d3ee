"""Found by Python at its start in processes with a faked clock, for which ``time.sleep`` does not work.

libfaketime 0.9.10 with FAKETIME_DONT_FAKE_MONOTONIC refuses the absolute moments that Python sleeps until.
"""

import select
import time


def _sleep(seconds: float, /) -> None:
    select.select([], [], [], seconds)


time.sleep = _sleep

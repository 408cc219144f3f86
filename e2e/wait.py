"""Bounded patience: no test waits for ever, and what it waited for is in the error."""

import time


def eventually(what, check, seconds, every=0.05):
    """Calls `check` until it returns something true, which is returned. An exception counts as 'not yet'."""
    end = time.monotonic() + seconds
    while True:
        reason = None
        try:
            value = check()
            if value:
                return value
        except Exception as error:  # noqa: BLE001 - reported below, when patience is over
            reason = error
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s: {what}" + (f" (last: {reason!r})" if reason else ""))
        time.sleep(every)

"""The delivering process: carries the spool to MLflow until nothing is left. One at a time; a second one leaves."""

from __future__ import annotations

import os
import sys
import time

from filelock import FileLock, Timeout

from pipeline.errors import HomegrownError
from pipeline.tracking import spool

FIRST_DELIVERY_AFTER_SECONDS = 5.0


def main() -> int:
    """Deliver everything; the exit code of what went wrong, if something did."""
    spool.DELIVERY_LOCK.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(spool.DELIVERY_LOCK, timeout=0):
            # Importing MLflow keeps a core busy for seconds, which a run with everything cached needs for itself, and
            # nobody watches the curves of a run so short. In a longer one, what is recorded goes before the record.
            os.nice(10)
            time.sleep(FIRST_DELIVERY_AFTER_SECONDS)
            from pipeline.tracking.delivery import deliver_until_done

            deliver_until_done()
    except Timeout:
        return 0
    except HomegrownError as error:
        print(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

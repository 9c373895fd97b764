"""One JSON object a line on standard error, for the journal of the daemon that started us.

Rare things only: each CONNECT is reported over the control socket instead.
"""

import json
import sys
import time


def log(event: str, **fields: str | int) -> None:
    """Write one line. Never pass bytes that came through a tunnel."""
    record = {"ts": round(time.time(), 3), "program": "perstack-egress", "event": event, **fields}
    sys.stderr.write(json.dumps(record, ensure_ascii=True) + "\n")
    sys.stderr.flush()

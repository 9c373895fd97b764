"""Which display a job is shown with."""

import os
import sys

from perstackctl.output import JSON, TABLE, TEXT
from perstackctl.watch.painter import Painter


def painter(output: str | None) -> Painter:
    """The display that was asked for; without a wish the live view on a terminal and JSON lines on a pipe.

    rich is imported only for the live view.
    """
    match output:
        case str() as name if name == JSON:
            from perstackctl.watch.json_lines import JsonLines

            return JsonLines()
        case str() as name if name == TABLE:
            from perstackctl.watch.summary import Summary

            return Summary()
        case str() as name if name == TEXT:
            return _plain()
        case _ if not sys.stdout.isatty():
            return painter(JSON)
        case _ if os.environ.get("TERM", "dumb") in {"dumb", ""}:
            return _plain()
        case _:
            from perstackctl.watch.live import LiveView

            return LiveView()


def streams(output: str | None, *, wanted: bool) -> bool:
    """Whether pieces of text are asked for: always for the live view, else when they are wanted as JSON."""
    if output is None and sys.stdout.isatty():
        return True
    return wanted and output in {None, JSON}


def _plain() -> Painter:
    from perstackctl.watch.plain import PlainLog

    return PlainLog()

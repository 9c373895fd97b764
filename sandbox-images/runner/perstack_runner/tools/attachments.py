"""How much the results of one turn may attach."""

from perstack_runner.results import TURN_BLOB_BYTES
from perstack_runner.tools.outcome import Outcome, ToolFailure


class Attachments:
    """What the results of calls that run together have attached: no more than a turn sends, so that memory is bounded.

    Enter it for each call. When none is left, the next one begins a turn.
    """

    def __init__(self) -> None:
        self._calls = 0
        self._bytes = 0

    def __enter__(self) -> None:
        if self._calls == 0:
            self._bytes = 0
        self._calls += 1

    def __exit__(self, *_: object) -> None:
        self._calls -= 1

    def kept(self, outcome: Outcome) -> Outcome:
        """The outcome, without text that has no room. Raises ToolFailure turn_full when an image or PDF has none."""
        if outcome.attachment is None:
            return outcome
        size = len(outcome.attachment.data)
        if self._bytes + size <= TURN_BLOB_BYTES:
            self._bytes += size
            return outcome
        if outcome.attachment.media_type.startswith("text/"):
            value = {**outcome.value, "note": "the rest of the output was not kept: the results of this turn are full"}
            return outcome._replace(value=value, attachment=None)
        taken, needed = self._bytes / (1 << 20), size / (1 << 20)
        message = (
            f"{needed:.1f} MiB, but of {TURN_BLOB_BYTES >> 20} MiB for one turn {taken:.1f} are taken; try it next"
        )
        raise ToolFailure("turn_full", f"{outcome.value['path']}: {message}")

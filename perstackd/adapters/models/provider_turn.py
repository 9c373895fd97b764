"""What every provider's stream has in common once it is a turn: its bound, its breaks, and a call's arguments."""

import json
from typing import Final, cast

from perstackd.adapters.models.provider_errors import Failure
from perstackd.domain.messages import JsonObject

MAX_CHARACTERS: Final = 16 * 2**20
"""Far more than a model can say; a server that never stops must not fill the daemon's memory."""


class BrokenStreamError(Exception):
    """The events do not make a turn; the text says why."""


class FailedTurnError(Exception):
    """An event says that the provider failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


def call_arguments(text: str, name: str, *, cut: bool) -> JsonObject:
    """The arguments of a call of `name`, from the text that the model wrote.

    One that was `cut` off by a bound has none; the turn's finish reason says so. Raises `BrokenStreamError` for what
    is no object of JSON that can be written again: a tool must not run with a guess at what the model meant.
    """
    try:
        arguments = json.loads(text)
        # Python also reads what JSON does not have: numbers without end, and halves of characters.
        json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        if cut:
            return {}
        raise BrokenStreamError(f"the arguments of a call of {name[:64]!r} are no JSON") from error
    if not isinstance(arguments, dict):
        if cut:
            return {}
        raise BrokenStreamError(f"the arguments of a call of {name[:64]!r} are no object")
    return cast("JsonObject", arguments)

"""What an assignment says to the daemon by itself, beside the answers to its orders."""

from collections.abc import Callable
from typing import NamedTuple

from perstack_runner.messages import Elicit, SkillState


class Outward(NamedTuple):
    """What skills say to the daemon: news, and questions to a person; False when none may be asked now."""

    report: Callable[[SkillState], None]
    elicit: Callable[[Elicit], bool]

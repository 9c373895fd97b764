"""What a runner of an earlier version of the protocol cannot do, though the daemon may speak to it. Pure.

Unknown fields and messages are left out on both sides, so most of what is new needs no rule. A rule is needed where a
runner that leaves something out would keep less apart than the daemon believes.
"""

from typing import Final

from perstackd.domain.session import Assign

PRIVATE_DIRECTORIES_SINCE: Final = 1


def missing(version: int, assign: Assign) -> str:
    """What the assignment needs and a runner of that version does not have; empty when it can be given to it."""
    private = [skill.name for skill in assign.skills if skill.private]
    if private and version < PRIVATE_DIRECTORIES_SINCE:
        return f"private directories for the skill {private[0][:80]!r}"
    return ""

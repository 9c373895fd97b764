"""The sandboxes that a run has lost, and when it gives up."""

from typing import Final

from perstackd.app.run_member import RunMember
from perstackd.app.run_party import RunParty
from perstackd.domain.commands import Fail

MAX_LOSSES: Final = 3  # sandboxes lost in one step before the run gives up


class Losses:
    """Of one run. `last` says what became of the sandboxes before those of now."""

    def __init__(self) -> None:
        self.last = "the sandbox in which this ran is gone"
        self._steps: list[int] = []

    async def add(self, party: RunParty, member: RunMember, step: int) -> Fail | None:
        """One ended, or let its time pass. Returns the run's failure when it was the last of too many in one step."""
        if member.silent:
            self.last = f"{member.name} did not go on in time while it was {member.session.state}"
        else:
            cause, detail = await party.cause(member.lease)
            self.last = f"{member.name} ended during the run ({cause}: {detail})"
        self._steps = [each for each in self._steps if each == step] + [step]
        if len(self._steps) < MAX_LOSSES:
            return None
        told = f"{self.last}, as did those before it in this step"
        if member.silent:
            raised = "jobs.tool_timeout_ms (jobs.answer_margin_ms where the machine is too busy)"
            remedy = f"see what its tools do, or raise {raised}, and start the job again"
            return Fail("sandbox_silent", f"{told}; {remedy}")
        return Fail("sandbox_lost", f"{told}; start the job again")

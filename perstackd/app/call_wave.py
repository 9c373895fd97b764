"""The calls of a turn that are due, on their way to the sandboxes that own them and back."""

from collections.abc import Iterable

from perstackd.app.run_party import RunParty
from perstackd.domain.commands import CallsAnswered
from perstackd.domain.dispatch import dispatch
from perstackd.domain.messages import ToolCallPart, ToolResultPart
from perstackd.domain.run_state import RunState
from perstackd.domain.tool_calls import due_calls


class CallWave:
    """One wave at a time. `own` names the skills with a sandbox of their own; `state` is that of a run which an earlier
    process began: whatever was due then may have been sent.
    """

    def __init__(self, own: frozenset[str], state: RunState) -> None:
        self._own = own
        self._sent = set(due_calls(state))
        self._came: dict[str, ToolResultPart] = {}
        self._party: RunParty | None = None

    def start(self, state: RunState, party: RunParty | None) -> tuple[ToolCallPart, ...]:
        """Give each sandbox the calls that it owns; without sandboxes they wait until there are some. Returns those
        that the daemon answers from the job's archive.
        """
        self._came, self._sent, self._party = {}, set(), party
        orders = dispatch(state, self._own)
        if party is not None:
            for place, calls in orders.sandboxes:
                party.members[place].give(calls)
        return orders.archive

    def go_on(self, state: RunState, party: RunParty) -> tuple[ToolCallPart, ...]:
        """After a restart in the same sandboxes: the calls that are due are given to them again, who leave aside what
        they have got. Returns as `start` does.
        """
        self._party = party
        orders = dispatch(state, self._own)
        for place, calls in orders.sandboxes:
            party.members[place].give(calls)
        return orders.archive

    def is_in(self, party: RunParty) -> bool:
        """Whether the calls of now were given to these sandboxes."""
        return self._party is party

    async def deliver(self, party: RunParty) -> None:
        """Hand over what waits for a sandbox that has asked, whichever came last."""
        for member in party.members.values():
            self._sent.update(await member.deliver())

    def came_back(self, state: RunState, results: Iterable[ToolResultPart]) -> CallsAnswered | None:
        """The one command once all calls that are due have a result, whoever ran them."""
        self._came.update((result.call_id, result) for result in results)
        due = due_calls(state)
        if not due or any(call_id not in self._came for call_id in due):
            return None
        answered, self._came = tuple(self._came[call_id] for call_id in due), {}
        return CallsAnswered(answered)

    @property
    def results(self) -> tuple[ToolResultPart, ...]:
        """Those that came so far."""
        return tuple(self._came.values())

    def untouched(self, state: RunState) -> frozenset[str]:
        """Calls that are due and that no sandbox was given."""
        return frozenset(due_calls(state)) - self._sent

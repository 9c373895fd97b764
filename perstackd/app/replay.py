"""What an ended job's log proves: the law executed again over it, and the model's side of it as a conversation."""

from collections.abc import AsyncGenerator
from typing import Final

from anyio import to_thread

from perstackd.app.job_recovery import events_of
from perstackd.app.live_replay import compared, ended
from perstackd.domain.ids import JobId
from perstackd.domain.job import JobRecord
from perstackd.domain.job_comparison import Comparison
from perstackd.domain.recording import TurnFold
from perstackd.domain.replay import Replay, replay
from perstackd.ports.event_store import Store
from perstackd.ports.job_documents import Conversations

_PAGE: Final = 500


class Replays:
    """Reads what is in the store; holds nothing."""

    def __init__(self, store: Store, conversations: Conversations) -> None:
        self._store = store
        self._conversations = conversations

    async def replay(self, job_id: JobId) -> Replay:
        """Execute the law again over the job's log, in a thread: the whole log is held meanwhile.

        Raises:
            PerstackError: NOT_FOUND `job_not_found`; PRECONDITION `job_not_ended`.
        """
        await ended(self._store, job_id)
        return await to_thread.run_sync(replay, await events_of(self._store, job_id))

    async def compare(self, job_id: JobId) -> tuple[JobRecord, Comparison]:
        """As `live_replay.compared`."""
        return await compared(self._store, job_id)

    async def record(self, job_id: JobId) -> AsyncGenerator[str, None]:
        """The job's turns as lines of a conversation file, in the order of its log. Raises as `replay` does."""
        await ended(self._store, job_id)
        fold, line, seq = TurnFold(), self._conversations.lines(), 0
        while stored := await self._store.read(job_id, seq, _PAGE):
            for each in stored:
                if (found := fold.add(each.event)) is not None:
                    yield await to_thread.run_sync(line, found)
            seq = stored[-1].event.seq

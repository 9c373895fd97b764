"""Lines of a conversation file, made of a job's log instead of a provider's stream."""

from collections.abc import Callable

from perstackd.adapters.models.conversation import RecordedTurn, encode
from perstackd.adapters.models.digest import Digester
from perstackd.domain.recording import AnsweredRequest


class ConversationLines:
    """See `perstackd.ports.job_documents.Conversations`. `ReplayModels` reads what it writes."""

    def lines(self) -> Callable[[AnsweredRequest], str]:
        digester = Digester()  # remembers histories that grow

        def line(answered: AnsweredRequest) -> str:
            return encode(RecordedTurn(digester.digest(answered.request), answered.expert_key, answered.turn))

        return line

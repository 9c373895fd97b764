"""Lines of a conversation file, made of a job's log instead of a provider's stream."""

from perstackd.adapters.models.conversation import RecordedTurn, encode
from perstackd.adapters.models.digest import Digester
from perstackd.domain.recording import AnsweredRequest


class ConversationLines:
    """See `perstackd.ports.job_documents.Conversations`. `ReplayModels` reads what it writes."""

    def line(self, answered: AnsweredRequest) -> str:
        digest = Digester().digest(answered.request)
        return encode(RecordedTurn(digest, answered.expert_key, answered.turn))

"""Has the model write the summary that will stand in the place of a run's history."""

from dataclasses import replace

from perstackd.app.generation import ask_model, model_request
from perstackd.app.run_context import JobContext, RunPlan, RunServices
from perstackd.domain.commands import Summarised, SummaryFailed
from perstackd.domain.compaction import summary_messages
from perstackd.domain.messages import Turn
from perstackd.domain.run_state import RunState


async def summarise(
    services: RunServices, context: JobContext, plan: RunPlan, state: RunState
) -> Summarised | SummaryFailed:
    """Ask for the summary of a history whose compaction is due; raises nothing that a model can cause.

    But for its last message the request is the run's own, tools and reasoning included: anything else would miss the
    provider's cache. Nobody is shown its pieces: they are no part of the answer.
    """
    request = replace(model_request(context, plan, state), messages=summary_messages(state))
    answer = await ask_model(services, request)
    if isinstance(answer, Turn):
        return Summarised(answer)
    return SummaryFailed(answer.reason, answer.message, answer.retryable, answer.retry_after_ms)

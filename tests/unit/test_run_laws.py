"""Laws of a run that hold whatever comes, in whatever order."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from perstackd.domain.budget import Budgets, Tally
from perstackd.domain.commands import (
    Begin,
    CallsAnswered,
    Cancel,
    ChildrenAnswered,
    Command,
    Exhaust,
    Fail,
    Generate,
    Generated,
    GenerationFailed,
)
from perstackd.domain.events import Owner, RunPayload, StartRun, ToolRoute
from perstackd.domain.messages import (
    FinishReason,
    Message,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    Turn,
    Usage,
)
from perstackd.domain.run import decide, request_messages
from perstackd.domain.run_fold import evolve
from perstackd.domain.run_state import Phase, RunState

ROUTES = tuple(
    ToolRoute(name, owner, name)
    for name, owner in {
        "attemptCompletion": Owner.DAEMON,
        "clearTodo": Owner.DAEMON,
        "todo": Owner.DAEMON,
        "exec": Owner.SANDBOX,
        "read": Owner.SANDBOX,
        "helper": Owner.DELEGATE,
        "ask": Owner.PERSON,
    }.items()
)
START = StartRun("do it", "You are.", (), ROUTES, "replay", "m", "low", max_steps=6, max_retries=3)
IDS = st.sampled_from(["a", "b", "c", "d", ""])
NAMES = st.sampled_from([*(route.name for route in ROUTES), "unheard_of"])
ARGUMENTS = st.sampled_from(
    [{}, {"query": "plan"}, {"query": " "}, {"newTodos": ["x"]}, {"completedTodos": [0]}, {"completedTodos": [True]}]
)
CALLS = st.builds(ToolCallPart, IDS, NAMES, ARGUMENTS)
TURNS = st.builds(
    lambda text, calls, reason: Turn((*([TextPart(text)] if text else []), *calls), reason, Usage(1, 1)),
    st.sampled_from(["", "", "an answer"]),
    st.lists(CALLS, max_size=4),
    st.sampled_from([*FinishReason, FinishReason.TOOL_CALLS, FinishReason.TOOL_CALLS]),
)
RESULTS = st.lists(st.builds(ToolResultPart, IDS, st.just((TextPart("ok"),)), st.booleans()), max_size=5).map(tuple)
ANSWERS = st.one_of(st.builds(CallsAnswered, RESULTS), st.builds(ChildrenAnswered, RESULTS))
ENDS = st.sampled_from([Cancel(), Fail("broken", "it broke"), Exhaust("tokens", 5)])
ONGOING = st.one_of(
    st.just(Begin(START)),
    st.just(Generate()),
    st.builds(Generated, TURNS),
    st.builds(Generated, TURNS),
    ANSWERS,
    ANSWERS,
    st.builds(GenerationFailed, st.just("model_timeout"), st.just("late"), st.booleans(), st.integers(0, 10**12)),
)
COMMANDS = st.lists(st.integers(0, 19).flatmap(lambda n: ENDS if n == 0 else ONGOING), max_size=40)


def calls_of(message: Message) -> list[str]:
    return [part.call_id for part in message.parts if isinstance(part, ToolCallPart)]


def answers_of(message: Message) -> list[str]:
    return [part.call_id for part in message.parts if isinstance(part, ToolResultPart)]


def assert_a_provider_takes(messages: Sequence[Message]) -> None:
    """Every turn with calls is followed by one tool message that answers all of them, in order, and nothing else is."""
    for message, following in zip(messages, [*messages[1:], None], strict=True):
        wanted = calls_of(message)
        assert len(set(wanted)) == len(wanted)
        answered = answers_of(following) if following is not None and following.role is Role.TOOL else []
        assert answered == wanted
        assert (message.role is Role.ASSISTANT) or not wanted


@settings(max_examples=150, deadline=None)
@given(COMMANDS, st.integers(0, 4))
def test_any_interleaving_of_commands_keeps_the_history_legal_and_its_facts_fold_to_the_same_state(
    commands: list[Command], job_steps: int
) -> None:
    state, facts = RunState(), list[RunPayload]()
    for command in [Begin(START), *commands]:
        stopped = state.phase is Phase.STOPPED
        news = decide(state, command, Tally(state.step, budgets=Budgets(max_steps=job_steps)))
        assert not (stopped and news)
        for fact in news:
            state = evolve(state, fact)
        facts.extend(news)
        assert (state.phase is Phase.STOPPED) == (state.end is not None)
        assert state.phase not in {Phase.INIT, Phase.RESOLVING, Phase.FINISHING}
        if state.phase in {Phase.PREPARING, Phase.GENERATING, Phase.RESULT}:
            assert_a_provider_takes(request_messages(state))
    replayed = RunState()
    for fact in facts:
        replayed = evolve(replayed, fact)
    assert replayed == state


@settings(max_examples=80, deadline=None)
@given(st.lists(TURNS, max_size=8))
def test_a_run_that_completes_leaves_a_history_that_can_be_continued(turns: list[Turn]) -> None:
    state = RunState()
    script: list[Command] = [Begin(START), *(Generated(turn) for turn in turns)]
    for command in script:
        for fact in decide(state, command, Tally()):
            state = evolve(state, fact)
        answers: list[Command] = [CallsAnswered(()), ChildrenAnswered(()), Generate()]
        for answer in answers:
            for fact in decide(state, answer, Tally()):
                state = evolve(state, fact)
    if state.end is not None and state.end.text:
        assert_a_provider_takes(state.messages)


@given(st.integers(0, 10**18))
def test_a_providers_wish_to_wait_is_bounded(wish: int) -> None:
    state = RunState()
    for command in (Begin(START), GenerationFailed("model_overloaded", "busy", True, wish)):
        for fact in decide(state, command, Tally()):
            state = evolve(state, fact)
            assert getattr(fact, "delay_ms", 0) <= 300_000

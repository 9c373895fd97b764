"""Laws of a run that hold whatever comes, in whatever order."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from perstackd.domain.budget import Budgets, Tally
from perstackd.domain.commands import (
    Answer,
    Begin,
    CallsAnswered,
    Cancel,
    ChildrenAnswered,
    Command,
    Elicited,
    Exhaust,
    Fail,
    Generate,
    Generated,
    GenerationFailed,
    Park,
    Resume,
    Summarised,
    SummaryFailed,
)
from perstackd.domain.events import (
    ApprovalDecided,
    ApprovalRequested,
    CallTools,
    ElicitationRequested,
    Owner,
    QuestionAnswered,
    QuestionKind,
    ResumeToolCalls,
    RunPayload,
    StartRun,
    ToolRoute,
)
from perstackd.domain.messages import (
    FinishReason,
    Message,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    ToolSpec,
    Turn,
    Usage,
)
from perstackd.domain.questions import MAX_OPEN
from perstackd.domain.recorded_cause import cause_of
from perstackd.domain.run import decide, request_messages
from perstackd.domain.run_fold import evolve
from perstackd.domain.run_state import Phase, RunState
from perstackd.domain.tool_calls import due_calls, pending_delegations

OWNERS = {
    "attemptCompletion": Owner.DAEMON,
    "clearTodo": Owner.DAEMON,
    "todo": Owner.DAEMON,
    "exec": Owner.SANDBOX,
    "read": Owner.SANDBOX,
    "send": Owner.SANDBOX,
    "searchHistory": Owner.ARCHIVE,
    "helper": Owner.DELEGATE,
    "ask": Owner.PERSON,
}
ROUTES = tuple(
    ToolRoute(name, owner, name, "mail" if name == "send" else "", name == "send") for name, owner in OWNERS.items()
)
SPECS = (ToolSpec("read", "read", {}, read_only=True), ToolSpec("searchHistory", "search", {}, read_only=True))
START = StartRun("do it", "You are.", SPECS, ROUTES, "replay", "m", "low", max_steps=6, max_retries=3)
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
WORK = st.lists(st.sampled_from(["read", "send", "exec", "ask"]), min_size=1, max_size=2).map(
    lambda names: Turn(
        tuple(ToolCallPart(call_id, name, {}) for call_id, name in zip("ab", names, strict=False)),
        FinishReason.TOOL_CALLS,
    )
)
RESULTS = st.lists(st.builds(ToolResultPart, IDS, st.just((TextPart("ok"),)), st.booleans()), max_size=5).map(tuple)
ANSWERS = st.one_of(st.builds(CallsAnswered, RESULTS), st.builds(ChildrenAnswered, RESULTS))
QUESTIONS = st.sampled_from(["1-1", "1-2", "2-1", "1-1e1", "1-2e1", "1-1f2e1", "3-1", ""])
ACTIONS = st.sampled_from(["answer", "approve", "deny", "accept", "decline"])
PEOPLE = st.one_of(
    st.builds(Answer, QUESTIONS, ACTIONS, st.just("said")),
    st.just(Park()),
    st.builds(Elicited, IDS, st.integers(1, 9), st.just("Which?"), st.just({"type": "object"}), st.integers(1, 3)),
)
LOSS = st.builds(Resume, st.just("it is gone"), RESULTS, st.frozensets(IDS, max_size=2))
LATE = SummaryFailed("busy", "late", True)
SUMMARIES = st.sampled_from([Summarised(Turn((TextPart("so far"),), FinishReason.STOP)), LATE])
ENDS = st.sampled_from([Cancel(), Fail("broken", "it broke"), Exhaust("tokens", 5)])
ONGOING = st.one_of(
    st.just(Begin(START)),
    st.just(Generate()),
    st.builds(Generated, TURNS),
    st.builds(Generated, TURNS),
    ANSWERS,
    ANSWERS,
    PEOPLE,
    LOSS,
    SUMMARIES,
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


# --- what those around a run rely on ----------------------------------------------------------------------------------
@dataclass(slots=True)
class Told:
    """What the facts of one turn set going outside of the law, and what came back."""

    given: dict[str, int] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    approved: set[str] = field(default_factory=set)


class RunMachine(RuleBasedStateMachine):
    """A run with those around it as they are: sandboxes that are lost, people who answer, children, the archive, a
    daemon that dies between any two moments. Each does only what it may do then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.state = RunState()
        self.facts: list[RunPayload] = []
        self.turn = Told()
        self.sandboxes = 1
        self.numbers = 0
        self.asked: set[str] = set()
        self.paused = False
        self.turns = 0
        self.tell(Begin(START))

    # --- the law, and what it is held to ------------------------------------------------------------------------------
    def tell(self, command: Command) -> tuple[RunPayload, ...]:
        before = self.state
        facts = decide(before, command, Tally(before.step, paused=self.paused))
        for fact in facts:
            self.state = evolve(self.state, fact)
            self.heed(fact)
        if facts:
            self.replays(before, facts)
        self.facts.extend(facts)
        return facts

    def heed(self, fact: RunPayload) -> None:
        match fact:
            case CallTools():
                self.turn = Told()
                if self.state.phase is Phase.CALLING:
                    self.give(due_calls(self.state))
            case ResumeToolCalls(call_ids=again):
                assert set(again) == set(due_calls(self.state))
                self.give(again)
            case ApprovalDecided(approved=True, call_id=call_id):
                self.turn.approved.add(call_id)
            case ApprovalRequested(question=question) | ElicitationRequested(question=question):
                assert question.id not in self.asked, "an id must never mean two questions"
                self.asked.add(question.id)
            case _:
                pass

    def give(self, call_ids: Sequence[str]) -> None:
        """A call is handed to a sandbox: once, unless it is repeatable or was not begun; approved first if it must."""
        calls = {call.call_id: call.name for call in self.state.turn.calls} if self.state.turn else {}
        for call_id in call_ids:
            again = self.turn.given.get(call_id, 0)
            assert not again or calls[call_id] in {"read", "searchHistory"} or call_id not in self.turn.unknown
            assert calls[call_id] != "send" or call_id in self.turn.approved
            self.turn.given[call_id] = again + 1

    def replays(self, before: RunState, facts: tuple[RunPayload, ...]) -> None:
        """From its facts alone, the law makes them again."""
        command = cause_of(before, facts[0])
        if command is not None and not isinstance(facts[0], StartRun):
            assert decide(before, command, Tally(before.step, paused=self.paused)) == facts

    def fresh_sandboxes(self) -> None:
        self.sandboxes, self.numbers = self.sandboxes + 1, 0

    # --- those around it ----------------------------------------------------------------------------------------------
    @precondition(lambda self: self.state.phase in {Phase.GENERATING, Phase.RESULT})
    @rule(turn=st.one_of(TURNS, WORK, WORK))
    def the_model_answers(self, turn: Turn) -> None:
        self.turns += 1
        self.tell(Generated(turn))

    @precondition(lambda self: self.state.phase is Phase.PREPARING)
    @rule()
    def a_delay_or_a_pause_is_over(self) -> None:
        self.paused = False
        self.tell(Generate())

    @precondition(lambda self: not self.paused and self.state.phase is not Phase.STOPPED)
    @rule()
    def the_job_is_paused(self) -> None:
        self.paused = True

    @precondition(lambda self: self.state.phase is Phase.CALLING)
    @rule(failed=st.booleans())
    def the_sandboxes_answer(self, failed: bool) -> None:
        due = due_calls(self.state)
        self.tell(CallsAnswered(tuple(ToolResultPart(each, (TextPart("ok"),), failed) for each in due)))
        assert not set(due) & set(due_calls(self.state)) or self.state.phase is not Phase.CALLING

    @precondition(lambda self: self.state.phase is Phase.CALLING)
    @rule(data=st.data())
    def a_sandbox_is_lost(self, data: st.DataObject) -> None:
        due = due_calls(self.state)
        came = data.draw(st.sets(st.sampled_from(due))) if due else set()
        left = [call_id for call_id in due if call_id not in came]
        untouched = data.draw(st.sets(st.sampled_from(left))) if left else set()
        self.turn.unknown |= set(left) - untouched
        self.fresh_sandboxes()
        results = tuple(ToolResultPart(each, (TextPart("ok"),)) for each in due if each in came)
        self.tell(Resume("it is gone", results, frozenset(untouched)))
        assert not self.state.questions or self.state.phase is Phase.ASKING

    @precondition(lambda self: self.state.phase is Phase.CALLING and bool(due_calls(self.state)))
    @rule(data=st.data())
    def a_server_asks(self, data: st.DataObject) -> None:
        call_id = data.draw(st.sampled_from(due_calls(self.state)))
        named = [question.id for question in self.state.questions]
        self.numbers += 1
        self.tell(Elicited(call_id, self.numbers, "Which?", {"type": "object"}, self.sandboxes))
        assert len(self.state.questions) <= max(MAX_OPEN, len(named))

    @precondition(lambda self: bool(self.state.questions))
    @rule(data=st.data(), well=st.booleans())
    def a_person_answers(self, data: st.DataObject, well: bool) -> None:
        question = data.draw(st.sampled_from(self.state.questions))
        action = {
            QuestionKind.APPROVAL: "approve" if well else "deny",
            QuestionKind.ELICITATION: "accept" if well else "decline",
            QuestionKind.TOOL: "answer",
        }[question.kind]
        (fact, *_) = self.tell(Answer(question.id, action, "said"))
        assert isinstance(fact, QuestionAnswered | ApprovalDecided)
        assert fact.id not in [each.id for each in self.state.questions]
        assert self.tell(Answer(question.id, action, "said")) == ()

    @precondition(lambda self: self.state.phase is Phase.ASKING)
    @rule()
    def the_sandboxes_are_given_up(self) -> None:
        open_ones = self.state.questions
        self.tell(Park())
        self.fresh_sandboxes()
        assert self.state.questions == open_ones

    @precondition(lambda self: self.state.phase is Phase.DELEGATING)
    @rule()
    def the_children_answer(self) -> None:
        pending = pending_delegations(self.state)
        assert pending
        self.tell(ChildrenAnswered(tuple(ToolResultPart(each.call_id, (TextPart("plan"),)) for each in pending)))

    @rule(command=st.one_of(PEOPLE, ANSWERS, LOSS, st.just(Begin(START))))
    def something_comes_too_late(self, command: Command) -> None:
        """What has no place is nothing, and changes nothing."""
        match command:
            case Answer(question_id=question_id):
                has_place = question_id in [each.id for each in self.state.questions]
            case Park():
                has_place = self.state.phase is Phase.ASKING
            case ChildrenAnswered():
                has_place = self.state.phase is Phase.DELEGATING
            case Begin():
                has_place = False
            case _:
                has_place = self.state.phase is Phase.CALLING
        before = self.state
        assert has_place or (self.tell(command) == () and self.state is before)

    @invariant()
    def its_facts_fold_to_it(self) -> None:
        """A daemon that dies here finds the same state."""
        again = RunState()
        for fact in self.facts:
            again = evolve(again, fact)
        assert again == self.state

    @invariant()
    def somebody_is_waited_for(self) -> None:
        """Nobody can be stuck: each phase waits for somebody, and asking for a person who can answer."""
        match self.state.phase:
            case Phase.ASKING:
                assert self.state.questions
            case Phase.CALLING:
                assert due_calls(self.state)
            case Phase.DELEGATING:
                assert pending_delegations(self.state)
            case Phase.PREPARING:
                assert self.paused or self.state.retries
            case Phase.GENERATING | Phase.RESULT | Phase.STOPPED:
                assert all(each.kind is QuestionKind.ELICITATION for each in self.state.questions)
            case other:
                raise AssertionError(f"a run must not rest while it is {other}")
        assert self.state.phase is Phase.CALLING or not any(
            each.kind is QuestionKind.ELICITATION for each in self.state.questions
        )


TestRunMachine = RunMachine.TestCase
TestRunMachine.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)

"""What a log tells of a run's sandboxes is what the daemon that died knew of their sessions."""

from collections.abc import Sequence

from perstackd.domain.budget import Budgets, Tally
from perstackd.domain.commands import Answer, Begin, CallsAnswered, Command, Elicited, Generated, Resume
from perstackd.domain.events import Owner, Payload, SandboxAssigned, SandboxReleased, SkillStarting, StartRun, ToolRoute
from perstackd.domain.ids import SandboxId
from perstackd.domain.messages import FinishReason, TextPart, ToolCallPart, ToolResultPart, Turn, Usage
from perstackd.domain.run import decide
from perstackd.domain.run_fold import evolve
from perstackd.domain.run_record import RUN_FACTS
from perstackd.domain.run_sandboxes import RunSandboxes, followed, role_of
from perstackd.domain.run_state import RunState

ROUTES = (
    ToolRoute("exec", Owner.SANDBOX, "exec"),
    ToolRoute("fetch", Owner.SANDBOX, "fetch", "web"),
    ToolRoute("send", Owner.SANDBOX, "send", "web", True),
)
START = Begin(StartRun("do it", "You are.", (), ROUTES, "replay", "m", "low"))
ROOM = Tally(1, budgets=Budgets(max_steps=100))


class Log:
    """A run as it is lived, and as it is read back."""

    def __init__(self) -> None:
        self.state = RunState()
        self.sandboxes = RunSandboxes()

    def write(self, *payloads: Payload) -> "Log":
        for payload in payloads:
            before = self.state
            if isinstance(payload, RUN_FACTS):
                self.state = evolve(before, payload)
            self.sandboxes = followed(self.sandboxes, payload, before.step, before, self.state)
        return self

    def tell(self, *commands: Command) -> "Log":
        for command in commands:
            self.write(*decide(self.state, command, ROOM))
        return self

    def claim(self, fence: int) -> "Log":
        return self.write(*(assigned(f"{place or 'expert'}{fence}", fence, place) for place in ("", "web")))

    def steps(self) -> dict[str, tuple[int, tuple[str, ...]]]:
        return {held.place: (held.step, held.calls) for held in self.sandboxes.held}


def assigned(sandbox_id: str, fence: int, place: str) -> SandboxAssigned:
    return SandboxAssigned(SandboxId(sandbox_id), "c", fence, "base", role_of(place))


def calls(*wanted: tuple[str, str]) -> Generated:
    parts = tuple(ToolCallPart(call_id, name, {}) for call_id, name in wanted)
    return Generated(Turn(parts, FinishReason.TOOL_CALLS, Usage(1, 1)))


def answers(*call_ids: str) -> CallsAnswered:
    return CallsAnswered(tuple(ToolResultPart(call_id, (TextPart("ok"),)) for call_id in call_ids))


def test_each_sandbox_counts_the_waves_that_it_answered_and_knows_the_calls_of_the_one_in_hand() -> None:
    log = Log().claim(1).tell(START, calls(("a", "exec")))
    assert log.steps() == {"": (1, ("a",)), "web": (1, ())}
    log.tell(answers("a"), calls(("b", "exec"), ("c", "fetch")))
    assert log.steps() == {"": (2, ("b",)), "web": (1, ("c",))}
    log.tell(answers("b", "c"))
    assert log.steps() == {"": (3, ()), "web": (2, ())}
    assert not log.sandboxes.dispatched


def test_calls_that_a_person_allows_are_a_wave_of_the_same_step() -> None:
    log = Log().claim(1).tell(START, calls(("a", "send"), ("b", "exec")), answers("b"))
    assert log.steps() == {"": (2, ()), "web": (1, ())}
    (question,) = log.state.questions
    log.tell(Answer(question.id, "approve"))
    assert (log.state.step, log.steps()) == (1, {"": (2, ()), "web": (1, ("a",))})


def test_fresh_sandboxes_begin_at_the_runs_step_and_have_no_calls_before_they_are_given_some() -> None:
    log = Log().claim(1).tell(START, calls(("a", "exec")), answers("a"), calls(("b", "exec")))
    log.write(SandboxReleased(SandboxId("expert1"), "lost", ""), SandboxReleased(SandboxId("web1"), "lost", "")).claim(
        2
    )
    assert (log.sandboxes.fence, log.steps()) == (2, {"": (2, ()), "web": (2, ())})
    assert not log.sandboxes.dispatched
    log.tell(Resume("lost", untouched=frozenset({"b"})))
    assert log.steps() == {"": (2, ("b",)), "web": (2, ())}
    assert log.sandboxes.dispatched


def test_one_that_was_given_back_is_not_held() -> None:
    log = Log().claim(1).tell(START).write(SandboxReleased(SandboxId("web1"), "finished", ""))
    assert [held.sandbox_id for held in log.sandboxes.held] == ["expert1"]


def test_questions_of_servers_are_known_with_their_answers_until_their_wave_is_answered() -> None:
    log = Log().claim(1).tell(START, calls(("a", "fetch")))
    log.tell(Elicited("a", 1, "one?", {}), Elicited("a", 2, "two?", {}))
    first, _ = log.state.questions
    log.tell(Answer(first.id, "decline"))
    known = [(call, number, answer.action if answer else None) for call, number, answer in log.sandboxes.answers]
    assert known == [("a", 1, "decline"), ("a", 2, None)]
    assert log.tell(answers("a")).sandboxes.answers == ()


def test_news_of_the_sandboxes_of_now_are_kept_and_those_of_earlier_ones_forgotten() -> None:
    log = Log().claim(1).write(SkillStarting("web")).claim(2)
    told: Sequence[Payload] = log.write(SkillStarting("web")).sandboxes.told
    assert told == (SkillStarting("web"),)

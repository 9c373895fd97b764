"""What a sandbox says to the daemon: frames, their content, and their order."""

from contextlib import suppress

from google.protobuf.message import DecodeError
from hypothesis import strategies as st
from perstack.v1 import runner_pb2 as pb
from perstack_runner import convert as runner
from perstack_runner import machine
from perstack_runner.messages import Assign, Finish, Probe, Turn

from perstackd.adapters.store import codec
from perstackd.domain import session as domain
from perstackd.domain.events import SCHEMA, ResolveToolResults
from perstackd.domain.messages import ToolResultPart
from perstackd.domain.session import MAX_REFUSALS, Session, ToolResults, asked, ordered
from perstackd.rpc import runner_convert
from perstackd.rpc.runner_convert import MalformedError
from tests.fuzz.bounds import fuzz
from tests.fuzz.messages import filled, nearly

STATES = {"new", "idle", "assigned", "preparing", "waiting", "running", "reported", "returned", "finished"}


@fuzz(nearly(pb.FromRunner))
def test_any_frame_is_a_message_or_malformed(data: bytes) -> None:
    try:
        message = pb.FromRunner.FromString(data)
    except DecodeError:
        return
    with suppress(MalformedError):
        runner_convert.ask(message)


@fuzz(filled(pb.FromRunner))
def test_a_frame_that_is_taken_can_be_told_to_the_session_in_every_state(message: pb.FromRunner) -> None:
    try:
        ask = runner_convert.ask(message)
    except MalformedError:
        return
    for state in STATES:
        after, refusal = asked(Session(state, calls=("a",), skills=("web",)), ask)
        assert after.state in STATES
        assert bool(refusal) == (after.refusals == 1)


@fuzz(filled(pb.ToolResults))
def test_results_that_are_taken_can_be_stored_and_read_again(message: pb.ToolResults) -> None:
    try:
        ask = runner_convert.ask(pb.FromRunner(tool_results=message))
    except MalformedError:
        return
    assert isinstance(ask, ToolResults)
    event = ResolveToolResults(ask.results)
    document = codec.encode(event)
    assert codec.encode(codec.decode(event.type, SCHEMA, document)) == document


# --- the law of a session -------------------------------------------------------------------------------------------
CALLS = ("a", "b")
ASKS = [
    domain.Hello(1, "", "", 0, False),
    domain.Ready("/mnt/workspace"),
    domain.NextTurn(1),
    domain.NextTurn(2),
    domain.NextTurn(2**63),
    domain.ProbeResult(None),
    domain.Progress("a", 0, "x"),
    domain.Progress("forged", 0, "x"),
    domain.BlobChunk("sha256:x", 0, b"", True),
    domain.Elicit("a", "web", 1, "?", {}),
    domain.Elicit("a", "web", 2, "?", {}),
    domain.SkillReport("web", domain.SkillPhase.CONNECTED),
    domain.SkillReport("other", domain.SkillPhase.CONNECTED),
    domain.ToolResults(1, tuple(ToolResultPart(call, ()) for call in CALLS)),
    domain.ToolResults(1, ()),
    domain.ToolResults(2, tuple(ToolResultPart(call, ()) for call in reversed(CALLS))),
    domain.Failure("x", "y"),
]
ORDERS = [
    domain.Assign("e", "/mnt/workspace", False, (domain.SkillOrder("web", ("web",)),), (), ()),
    domain.TurnOrder(1, tuple(domain.RoutedCall(call, "", "exec", "{}") for call in CALLS)),
    domain.TurnOrder(1, ()),
    domain.ElicitAnswer(1, "decline"),
    domain.CancelCalls(),
    domain.Finish("done"),
]


@fuzz(st.lists(st.sampled_from([*ASKS, *ORDERS]), max_size=40))
def test_no_order_of_messages_breaks_the_law(story: list[object]) -> None:
    session, refused = Session(), 0
    for message in story:
        if message in ORDERS:
            session = ordered(session, message)  # type: ignore[arg-type]
        else:
            before = session
            session, refusal = asked(session, message)  # type: ignore[arg-type]
            refused += bool(refusal)
            assert session.refusals == refused or isinstance(message, domain.Failure)
            if isinstance(message, ToolResults) and not refusal:
                assert tuple(result.call_id for result in message.results) == before.calls
                assert (before.state in {"running", "returned"}, message.step) == (True, before.step)
        assert session.state in STATES
        assert session.misbehaved == (session.refusals >= MAX_REFUSALS)


# --- the runner's own side ------------------------------------------------------------------------------------------
@fuzz(nearly(pb.ToRunner))
def test_the_runner_takes_any_frame_of_its_daemon_or_none(data: bytes) -> None:
    with suppress(DecodeError):
        runner.order_from_pb(pb.ToRunner.FromString(data))


@fuzz(st.lists(filled(pb.ToRunner), max_size=8))
def test_the_runner_has_an_answer_to_every_order_of_orders(messages: list[pb.ToRunner]) -> None:
    session, _ = machine.decide(machine.Session(), machine.Welcomed())
    left = 0
    for message in messages:
        order = runner.order_from_pb(message)
        if not isinstance(order, Probe | Assign | Turn | Finish):
            continue
        session, actions = machine.decide(session, order)
        left += sum(isinstance(action, machine.Leave) for action in actions)
        if session.phase == "assigned":
            session, _ = machine.decide(session, machine.TakenOver())
    assert left <= 1

"""What a sandbox says to the daemon: frames, their content, and their order."""

import asyncio
from contextlib import suppress

from google.protobuf.message import DecodeError
from hypothesis import strategies as st
from perstack.v1 import runner_pb2 as pb
from perstack.v1.frames import LENGTH, FrameTooLargeError, read_frame
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


MOST = 1 << 10


async def frames_of(pieces: list[bytes]) -> list[bytes]:
    """What is read of a stream that arrives in these pieces."""
    reader, found = asyncio.StreamReader(), []
    for piece in pieces:
        reader.feed_data(piece)
    reader.feed_eof()
    while (data := await read_frame(reader, MOST)) is not None:
        found.append(data)
    return found


@fuzz(st.lists(st.binary(max_size=MOST), max_size=5), st.binary(max_size=8), st.data())
def test_frames_are_read_as_they_were_written_however_they_arrive(
    said: list[bytes], half: bytes, data: st.DataObject
) -> None:
    stream = b"".join(LENGTH.pack(len(each)) + each for each in said)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    rest = LENGTH.pack(len(half) + 1) + half
    assert asyncio.run(frames_of([*pieces, rest])) == said


SOME = st.sampled_from([b"\0\0\0\1", b"\0\0\0\3", b"\0\0\4\0", b"\0\0\4\1", b"\0", b"\xff", b"x" * MOST])


@fuzz(st.one_of(st.binary(max_size=4 * MOST), st.lists(SOME, max_size=12).map(b"".join)))
def test_any_bytes_are_frames_within_the_bound_or_refused(stream: bytes) -> None:
    with suppress(FrameTooLargeError):
        found = asyncio.run(frames_of([stream]))
        assert all(len(each) <= MOST for each in found)
        read = b"".join(LENGTH.pack(len(each)) + each for each in found)
        assert stream.startswith(read)
        assert len(stream) - len(read) < LENGTH.size + MOST


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

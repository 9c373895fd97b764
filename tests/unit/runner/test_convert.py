from perstack.v1 import runner_pb2 as pb
from perstack_runner import convert
from perstack_runner.messages import (
    Acknowledged,
    Ask,
    Assign,
    BlobChunk,
    Call,
    CancelCalls,
    Failure,
    Finish,
    Hello,
    Limits,
    NextTurn,
    Probe,
    ProbeResult,
    Progress,
    Ready,
    Refused,
    SkillOrder,
    SkillState,
    ToolSpec,
    Turn,
    Welcome,
)


def test_every_order_of_the_protocol_is_understood() -> None:
    orders = {
        "welcome": (pb.ToRunner(welcome=pb.Welcome(session_token="t", acknowledged=3)), Welcome("t", 3)),
        "turn": (
            pb.ToRunner(turn=pb.Turn(step=2, calls=[pb.ToolCall(call_id="c", skill="s", tool="t", arguments=b"{}")])),
            Turn(2, (Call("c", "s", "t", b"{}"),)),
        ),
        "ack": (pb.ToRunner(ack=pb.Ack(counter=9)), Acknowledged(9)),
        "probe": (pb.ToRunner(probe=pb.Probe(path="/mnt/x")), Probe("/mnt/x")),
        "cancel_calls": (pb.ToRunner(cancel_calls=pb.CancelCalls(call_ids=["c"])), CancelCalls(("c",))),
        "refused": (pb.ToRunner(refused=pb.Refused(counter=1, reason="r")), Refused(1, "r")),
        "finish": (pb.ToRunner(finish=pb.Finish(reason="r")), Finish("r")),
        "assign": (pb.ToRunner(assign=pb.Assign(workspace_path="/w", step=1)), Assign("/w", limits=Limits(0, 0))),
    }
    assert sorted(orders) == sorted(field.name for field in pb.ToRunner.DESCRIPTOR.fields)
    for message, order in orders.values():
        assert convert.order_from_pb(message) == order
    assert convert.order_from_pb(pb.ToRunner()) is None


def test_every_message_of_the_runner_can_be_sent() -> None:
    asks: dict[str, Ask] = {
        "ready": Ready("/w"),
        "skill_state": SkillState("s", "connected", (ToolSpec("t", "d", b"{}", True, False),), "", "n", "1"),
        "next_turn": NextTurn(4),
        "progress": Progress("c", 5, "text"),
        "blob_chunk": BlobChunk("sha256:0", 1, b"x", True),
        "failure": Failure("r", "m"),
        "probe_result": ProbeResult(b"x"),
    }
    for name, ask in asks.items():
        message = convert.ask_to_pb(ask, 7)
        assert (message.WhichOneof("message"), message.counter) == (name, 7)
    known = {field.name for field in pb.FromRunner.DESCRIPTOR.fields} - {"counter", "hello", "tool_results"}
    assert set(asks) == known
    assert convert.ask_to_pb(ProbeResult(None), 1).probe_result == pb.ProbeResult()
    assert convert.ask_to_pb(asks["skill_state"], 1).skill_state.tools[0].read_only


def test_hello_carries_the_token_and_what_was_seen() -> None:
    hello = convert.hello_to_pb(Hello("3.11.2", 7, False, ("status.Uid 1",)), "token").hello
    assert (hello.protocol_version, hello.session_token, hello.landlock_abi) == (1, "token", 7)
    assert list(hello.self_view) == ["status.Uid 1"]


def test_secrets_are_not_in_a_representation() -> None:
    skill = SkillOrder("s", ("x",), (("KEY", "secret-value"),))
    assign = Assign("/w", skills=(skill,), exec_env=(("KEY", "secret-value"),))
    shown = f"{assign!r} {assign} {skill!r} {Welcome('secret-value', 1)!r}"
    assert "secret-value" not in shown

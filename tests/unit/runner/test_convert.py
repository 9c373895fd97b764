from typing import Any

from perstack.v1 import runner_pb2 as pb
from perstack_runner import convert
from perstack_runner.messages import (
    Acknowledged,
    Ask,
    Assign,
    BlobChunk,
    Call,
    CancelCalls,
    Elicit,
    Elicited,
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
    Rejected,
    Remote,
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
        "elicited": (
            pb.ToRunner(elicited=pb.Elicited(elicitation_id=3, action="accept", content=b"{}")),
            Elicited(3, "accept", b"{}"),
        ),
        "rejected": (pb.ToRunner(rejected=pb.Rejected(reason="r")), Rejected("r")),
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
        "elicit": Elicit("c", "s", 1, "m", b"{}"),
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
    remote = Remote("http", "https://host/mcp", (("Authorization", "secret-value"),))
    skill = SkillOrder("s", ("x",), (("KEY", "secret-value"),), remote)
    assign = Assign("/w", skills=(skill,), exec_env=(("KEY", "secret-value"),))
    shown = f"{assign!r} {assign} {skill!r} {remote!r} {Welcome('secret-value', 1)!r}"
    shown += f" {Elicited(1, 'accept', b'secret-value')!r}"
    assert "secret-value" not in shown


def test_when_a_skill_starts_is_told_by_its_mode_and_else_by_the_old_field() -> None:
    def start(**fields: Any) -> str:
        order = convert.order_from_pb(pb.ToRunner(assign=pb.Assign(skills=[pb.SkillSpec(name="s", **fields)])))
        assert isinstance(order, Assign)
        return order.skills[0].start

    assert start() == start(start=pb.START_MODE_FIRST) == start(start=pb.START_MODE_FIRST, lazy_init=True) == "first"
    assert start(start=99) == "first"
    assert start(start=pb.START_MODE_BESIDE) == start(start=pb.START_MODE_BESIDE, lazy_init=True) == "beside"
    assert start(lazy_init=True) == start(start=pb.START_MODE_AT_CALL) == "atCall"


def test_a_remote_server_and_private_directories_are_understood() -> None:
    remote = pb.RemoteServer(transport="sse", endpoint="https://host/sse", headers={"A": "1"})
    spec = pb.SkillSpec(name="s", remote=remote, private_directories=True, pick=["p"])
    order = convert.order_from_pb(pb.ToRunner(assign=pb.Assign(skills=[spec])))
    assert isinstance(order, Assign)
    expected = Remote("sse", "https://host/sse", (("A", "1"),))
    assert order.skills == (SkillOrder("s", remote=expected, pick=("p",), private=True),)

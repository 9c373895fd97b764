import asyncio

import pytest
from perstack_runner.calls import RunningCalls
from perstack_runner.messages import Call, Result, Text, Turn
from perstack_runner.results import failed

pytestmark = pytest.mark.anyio


def turn(*names: str) -> Turn:
    return Turn(1, tuple(Call(name, "", name, b"{}") for name in names))


def error(result: Result) -> str:
    part = result.content[0]
    assert isinstance(part, Text)
    assert result.is_error
    return part.text


async def work(call: Call) -> Result:
    match call.tool:
        case "hangs":
            await asyncio.Event().wait()
        case "breaks":
            raise RuntimeError("a text with a secret")
    return Result(call.call_id, (Text("done"),))


async def test_results_keep_the_order_of_the_calls() -> None:
    order: list[str] = []
    first_may_end = asyncio.Event()

    async def run(call: Call) -> Result:
        if call.call_id == "first":
            await first_may_end.wait()
        else:
            first_may_end.set()
        order.append(call.call_id)
        return failed(call.call_id, "x", "y")

    calls = RunningCalls(run, lambda _: 10)
    calls.begin(turn("first", "second"))
    results = await calls.results(turn("first", "second"))
    assert order == ["second", "first"]
    assert [result.call_id for result in results] == ["first", "second"]


async def test_one_call_that_hangs_or_breaks_does_not_take_the_others_with_it() -> None:
    calls = RunningCalls(work, lambda _: 0.05)
    calls.begin(turn("hangs", "breaks", "good"))
    hangs, breaks, good = await calls.results(turn("hangs", "breaks", "good"))
    assert "timeout" in error(hangs)
    assert "internal" in error(breaks)
    assert "secret" not in error(breaks)
    assert good.content == (Text("done"),)


async def test_a_cancel_that_comes_before_a_call_has_started_still_reaches_it() -> None:
    calls = RunningCalls(work, lambda _: 10)
    calls.begin(turn("hangs", "good"))
    calls.cancel(("hangs", "unknown"))
    hangs, good = await calls.results(turn("hangs", "good"))
    assert "cancelled" in error(hangs)
    assert not good.is_error


async def test_a_cancel_of_the_last_turn_does_not_reach_the_next() -> None:
    calls = RunningCalls(work, lambda _: 10)
    calls.begin(turn("good"))
    calls.cancel(())
    await calls.results(turn("good"))
    calls.begin(turn("good"))
    assert not (await calls.results(turn("good")))[0].is_error

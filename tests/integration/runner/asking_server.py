"""An MCP server without an SDK whose tools ask the client: the arguments of a call are what it asks, and how.

`ask` sends the JSON-RPC requests in `requests`, each with a number of its own, and answers with all their answers when
they are there, or never with `hang`; with `withdraw` the first is cancelled once the file of that name is there. `news`
sends notifications, or with `after` once the call has ended and the file of that name is there. `grow` adds a tool to
its list and says so. `fail` answers with its arguments as the error. Every answer is written to the file `answers` too.
"""

import json
import sys
import threading
import time
from pathlib import Path

TOOLS = ["ask", "news", "grow", "quick"]
LOCK = threading.Lock()
WAITING: dict[str, dict[str, object]] = {}
"""Numbers of our requests, to the call that waits for them."""


def say(message: dict[str, object]) -> None:
    with LOCK:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def finish(number: object, value: object) -> None:
    say({"id": number, "result": {"content": [{"type": "text", "text": json.dumps(value)}]}})


def ask(number: object, arguments: dict[str, object]) -> None:
    requests = arguments["requests"]
    assert isinstance(requests, list)
    call: dict[str, object] = {"number": number, "left": len(requests), "answers": [None] * len(requests)}
    call["hang"] = arguments.get("hang")
    for place, request in enumerate(requests):
        own = f"{number}-{place}"
        WAITING[own] = {"call": call, "place": place}
        say({"id": own, **request})
    if withdraw := arguments.get("withdraw"):
        threading.Thread(target=cancel_later, args=(str(withdraw), f"{number}-0"), daemon=True).start()


def say_all(messages: list[dict[str, object]]) -> None:
    for message in messages:
        say(message)


def say_later(path: str, messages: list[dict[str, object]]) -> None:
    while not Path(path).exists():
        time.sleep(0.01)
    say_all(messages)


def cancel_later(path: str, own: str) -> None:
    while not Path(path).exists():
        time.sleep(0.01)
    say({"method": "notifications/cancelled", "params": {"requestId": own}})
    call = WAITING.pop(own)["call"]
    assert isinstance(call, dict)
    finish(call["number"], "withdrawn")


def answered(message: dict[str, object]) -> None:
    waiting = WAITING.pop(str(message["id"]), None)
    with Path("answers").open("a") as file:
        file.write(json.dumps(message) + "\n")
    if waiting is None:
        return
    call, place = waiting["call"], waiting["place"]
    assert isinstance(call, dict)
    assert isinstance(place, int)
    call["answers"][place] = message.get("result", message.get("error"))
    call["left"] -= 1
    if call["left"] == 0 and not call["hang"]:
        finish(call["number"], call["answers"])


def called(number: object, name: str, arguments: dict[str, object]) -> None:
    match name:
        case "ask":
            ask(number, arguments)
            return
        case "news":
            sent = arguments["notifications"]
            assert isinstance(sent, list)
            if after := arguments.get("after"):
                threading.Thread(target=say_later, args=(str(after), sent), daemon=True).start()
            else:
                say_all(sent)
        case "fail":
            say({"id": number, "error": arguments})
            return
        case "grow":
            TOOLS.append(f"grown{len(TOOLS)}")
            say({"method": "notifications/tools/list_changed"})
    finish(number, "done")


def main() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        params = message.get("params") or {}
        match message.get("method"):
            case None:
                answered(message)
            case "initialize":
                Path("capabilities").write_text(json.dumps(params["capabilities"]))
                about = {"name": "asking", "version": "1"}
                capabilities = {"tools": {"listChanged": True}, "logging": {}}
                result = {"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": about}
                say({"id": message["id"], "result": result})
            case "tools/list":
                with Path("listed").open("a") as file:
                    file.write("x\n")
                tools = [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]
                say({"id": message["id"], "result": {"tools": tools}})
            case "tools/call":
                called(message["id"], params["name"], params.get("arguments") or {})


main()

"""An MCP server without an SDK, that can be told to misbehave: python raw_server.py MODE...

Modes: crash-on-call, hang-on-call, ignore-stdin-end, ignore-sigterm, many-tools, endless-pages, large-pages, noisy,
long-line, no-handshake, no-list, die-at-once, escapee, close-stdout, long-name, empty-name, twice, not-finite,
deep-schema, large-schema, cyclic-schema, completion, no-name (of the server), cut-answer, wrong-answer, no-utf8,
large-answer, endless-answer, garbage, garbage-at-once, news-flood, log-flood, stderr-flood, ask-flood, chatty (and no
handshake), counting (starts are counted in the file `starts`).
"""

import json
import os
import signal
import subprocess
import sys
import time

MODES = set(sys.argv[1:])


def say(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def tool(name: str) -> dict[str, object]:
    schema = {"type": "object", "properties": {"z": {}, "a": {}}}
    return {"name": name, "description": f"does {name}", "inputSchema": schema, "annotations": {"readOnlyHint": True}}


SPECIAL: dict[str, dict[str, object]] = {
    "empty-name": tool(" "),
    "twice": tool("echo"),
    "completion": tool("attemptCompletion"),
    "deep-schema": {**tool("deep"), "inputSchema": {"type": "object", "x": json.loads("[" * 900 + "]" * 900)}},
    "large-schema": {**tool("large"), "inputSchema": {"type": "object", "title": "t" * (1 << 20)}},
    "cyclic-schema": {**tool("cyclic"), "inputSchema": {"type": "object", "properties": {"again": {"$ref": "#"}}}},
}


def listed(cursor: str) -> dict[str, object]:
    if "long-name" in MODES:
        return {"tools": [tool("x" * 257)]}
    if "not-finite" in MODES:
        return {"tools": [{**tool("endless"), "inputSchema": {"type": "object", "maximum": float("inf")}}]}
    if "large-pages" in MODES:
        page = {**tool(f"p{cursor or 0}"), "description": "d" * (1 << 20)}
        return {"tools": [page], "nextCursor": str(int(cursor or 0) + 1)}
    special = SPECIAL.keys() & MODES
    if special:
        return {"tools": [SPECIAL[special.pop()], tool("echo")]}
    if "many-tools" in MODES:
        return {"tools": [tool(f"t{number}") for number in range(1001)]}
    if "endless-pages" in MODES:
        return {"tools": [tool(f"p{cursor or 0}")], "nextCursor": str(int(cursor or 0) + 1)}
    if cursor:
        return {"tools": [tool("where"), tool("image")]}
    return {"tools": [tool("echo"), tool("slow")], "nextCursor": "second"}


def called(name: str, arguments: dict[str, object], token: object) -> dict[str, object]:
    if "crash-on-call" in MODES:
        sys.stderr.write("about to crash\n")
        sys.stderr.flush()
        os._exit(3)
    if "hang-on-call" in MODES and name == "slow":
        return {}
    if name == "read":
        try:
            with open(str(arguments["path"])) as file:
                text = file.read()
        except OSError as error:
            text = type(error).__name__
    elif name == "where":
        text = json.dumps({"cwd": os.getcwd(), "env": dict(os.environ)})
    elif name == "image":
        content = [
            {"type": "image", "data": "iVBORw==", "mimeType": "image/png"},
            {"type": "image", "data": "???", "mimeType": "image/png"},
            {"type": "resource", "resource": {"uri": "file:///x", "text": "resource text"}},
            {"type": "resource_link", "uri": "file:///y", "name": "y"},
        ]
        return {"content": content}
    else:
        if token is not None:
            progress = {"progressToken": token, "progress": 1, "message": "half way"}
            say({"method": "notifications/progress", "params": progress})
        text = json.dumps(arguments)
    return {"content": [{"type": "text", "text": text}], "structuredContent": {"a": 1}}


def answer(request: dict[str, object]) -> dict[str, object] | None:
    params = request.get("params") or {}
    assert isinstance(params, dict)
    match request["method"]:
        case "initialize":
            about = {} if "no-name" in MODES else {"name": "raw", "version": "1.2.3"}
            return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": about}
        case "tools/list" if "no-list" in MODES:
            return None
        case "tools/list":
            return listed(params.get("cursor", ""))
        case "tools/call":
            meta = params.get("_meta") or {}
            return called(params["name"], params.get("arguments") or {}, meta.get("progressToken")) or None
        case _:
            return None


def misbehave_at_start() -> None:
    if "ignore-sigterm" in MODES:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with open("pid", "w") as file:
            file.write(f"{os.getpid()}\n")
    if "garbage-at-once" in MODES:
        MODES.add("garbage")
        flood()
    if "chatty" in MODES:
        MODES.add("no-handshake")
        sys.stdout.write("usage: server PORT\nlistening\n")
        sys.stdout.flush()
    if "counting" in MODES:
        with open("starts", "a") as file:
            file.write("x\n")
    if "die-at-once" in MODES:
        sys.stderr.write("no licence key\n")
        sys.exit(1)
    if "noisy" in MODES:
        sys.stderr.write("noise\n" * 40_000)
        sys.stdout.write("this is no json\n\n")
    if "long-line" in MODES:
        sys.stdout.write("x" * (17 << 20))
        sys.stdout.flush()
    if "escapee" in MODES:
        child = subprocess.Popen(["sleep", "600"], start_new_session=True, stdout=None)
        with open("escapee", "w") as file:
            file.write(f"{child.pid}\n")


def flood() -> None:
    """Until the pipe breaks. What is written is complete: one line, one message."""
    lines = {
        "garbage": "not a message\n",
        "news-flood": '{"jsonrpc":"2.0","method":"notifications/resources/list_changed"}\n',
        "log-flood": '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"line"}}\n',
        "ask-flood": '{"jsonrpc":"2.0","id":"again","method":"ping"}\n',
        "endless-answer": "x" * 65536,
        "stderr-flood": "line\n",
    }
    for mode in lines.keys() & MODES:
        stream = sys.stderr if mode == "stderr-flood" else sys.stdout
        while True:
            stream.write(lines[mode] * 100)


def misanswered(request: dict[str, object]) -> bool:
    """Whether a call was answered in a way that is none."""
    number = request["id"]
    if "cut-answer" in MODES:
        sys.stdout.write(f'{{"jsonrpc": "2.0", "id": {number}, "result": {{"content": [\n')
    elif "wrong-answer" in MODES:
        say({"id": number, "result": "no object"})
    elif "no-utf8" in MODES:
        sys.stdout.flush()
        head = f'{{"jsonrpc":"2.0","id":{number},"result":{{"content":[{{"type":"text","text":"'
        sys.stdout.buffer.write(head.encode() + b'\xff\xfe"}]}}\n')
    elif "large-answer" in MODES:
        sys.stdout.write(f'{{"result":{{"content":[{{"type":"text","text":"{"x" * (100 << 20)}"}}]}},')
        sys.stdout.write(f'"jsonrpc":"2.0","id":{number}}}\n')
    elif "endless-answer" in MODES:
        sys.stdout.write(f'{{"jsonrpc":"2.0","id":{number},"result":"')
        flood()
    elif MODES & {"garbage", "news-flood", "log-flood", "stderr-flood", "ask-flood"}:
        flood()
    else:
        return False
    sys.stdout.flush()
    return True


def close_stdout(request: dict[str, object]) -> None:
    """After the last page of the tool list; and do not end, also when the input has ended."""
    if "close-stdout" in MODES and request["method"] == "tools/list" and request.get("params"):
        os.close(1)
        sys.stdin.read()
        with open("input-ended", "w") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(600)


def main() -> None:
    misbehave_at_start()
    for line in sys.stdin:
        request = json.loads(line)
        if request.get("method") == "notifications/cancelled":
            with open("cancelled", "a") as file:
                file.write("x\n")
        if "id" not in request or "method" not in request or "no-handshake" in MODES:
            continue
        if request["method"] == "tools/call" and request["params"]["name"] == "echo" and misanswered(request):
            continue
        result = answer(request)
        if result is not None:
            say({"id": request["id"], "result": result})
        close_stdout(request)
    while MODES & {"ignore-stdin-end", "ignore-sigterm"}:
        time.sleep(1)


main()

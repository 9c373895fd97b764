"""An MCP server without an SDK, that can be told to misbehave: python raw_server.py MODE...

Modes: crash-on-call, hang-on-call, ignore-stdin-end, many-tools, endless-pages, noisy, long-line, no-handshake,
die-at-once, escapee, close-stdout, long-name, not-finite, no-name (of the server), cut-answer, wrong-answer, counting
(starts are counted in the file `starts`).
"""

import json
import os
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


def listed(cursor: str) -> dict[str, object]:
    if "long-name" in MODES:
        return {"tools": [tool("x" * 257)]}
    if "not-finite" in MODES:
        return {"tools": [{**tool("endless"), "inputSchema": {"type": "object", "maximum": float("inf")}}]}
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
    if name == "where":
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
        case "tools/list":
            return listed(params.get("cursor", ""))
        case "tools/call":
            meta = params.get("_meta") or {}
            return called(params["name"], params.get("arguments") or {}, meta.get("progressToken")) or None
        case _:
            return None


def misbehave_at_start() -> None:
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
        if request["method"] == "tools/call" and "cut-answer" in MODES:
            sys.stdout.write(f'{{"jsonrpc": "2.0", "id": {request["id"]}, "result": {{"content": [\n')
            sys.stdout.flush()
            continue
        if request["method"] == "tools/call" and "wrong-answer" in MODES:
            say({"id": request["id"], "result": "no object"})
            continue
        result = answer(request)
        if result is not None:
            say({"id": request["id"], "result": result})
        close_stdout(request)
    while "ignore-stdin-end" in MODES:
        time.sleep(1)


main()

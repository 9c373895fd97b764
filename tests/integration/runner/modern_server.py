"""An MCP server without an SDK that speaks the newer protocol only: no handshake, and it asks by answering.

`ask` answers first with what it has to know, then with what it was told; `never` asks for ever; `sample` wants a model.
"""

import json
import sys

VERSION = "2026-07-28"
FORM = {"type": "object", "properties": {"name": {"type": "string"}}}
ASKS: dict[str, dict[str, object]] = {
    "ask": {
        "who": {
            "method": "elicitation/create",
            "params": {"mode": "form", "message": "Who?", "requestedSchema": FORM},
        },
        "where": {"method": "roots/list"},
    },
    "sample": {
        "model": {
            "method": "sampling/createMessage",
            "params": {"messages": [{"role": "user", "content": {"type": "text", "text": "x"}}], "maxTokens": 5},
        }
    },
}


def called(params: dict[str, object]) -> dict[str, object]:
    name = str(params["name"])
    if name == "never" or "inputResponses" not in params:
        wanted = {"inputRequests": ASKS[name]} if name in ASKS else {}
        return {"resultType": "input_required", "requestState": "state", **wanted}
    told = {"state": params["requestState"], "told": params["inputResponses"]}
    return {"resultType": "complete", "content": [{"type": "text", "text": json.dumps(told)}]}


def answered(method: str, params: dict[str, object]) -> dict[str, object] | None:
    cached = {"ttlMs": 0, "cacheScope": "private", "resultType": "complete"}
    match method:
        case "server/discover":
            return {"supportedVersions": [VERSION], "capabilities": {"tools": {}}, **cached}
        case "tools/list":
            tools = [{"name": name, "inputSchema": {"type": "object"}} for name in ("ask", "never", "sample")]
            return {"tools": tools, **cached}
        case "tools/call":
            return called(params)
        case _:
            return None


for line in sys.stdin:
    request = json.loads(line)
    if "id" not in request:
        continue
    result = answered(request["method"], request.get("params") or {})
    outcome = {"error": {"code": -32601, "message": "Method not found"}} if result is None else {"result": result}
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": request["id"], **outcome}) + "\n")
    sys.stdout.flush()

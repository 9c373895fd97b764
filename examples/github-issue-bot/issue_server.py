"""An MCP server over standard input and output: issues of one repository, by `gh`. Standard library only.

It runs in a sandbox of its own. GH_TOKEN and GH_REPO come as its environment and go to `gh` alone; which repository is
written to is said by who starts the job, not by the model.
"""

import json
import os
import subprocess
import sys
from typing import Any

REPO = os.environ["GH_REPO"].split("/")
if len(REPO) not in (2, 3) or not all(REPO):
    sys.exit("GH_REPO has to be OWNER/NAME, or HOST/OWNER/NAME for GitHub Enterprise")
HOST, OWNER, NAME = ("github.com", *REPO)[-3:]
ISSUES = f"repos/{OWNER}/{NAME}/issues"
SECONDS = 45
LONGEST = 60_000
NUMBER = {"type": "integer", "minimum": 1, "description": "The issue's number"}
TEXT = {"type": "string", "minLength": 1, "maxLength": LONGEST, "description": "The comment, in Markdown"}
TOOLS = [
    {
        "name": "readIssue",
        "description": "Reads an issue of the repository with its first 100 comments, oldest first.",
        "inputSchema": {"type": "object", "properties": {"number": NUMBER}, "required": ["number"]},
        "annotations": {"readOnlyHint": True},
    },
    {
        "name": "commentOnIssue",
        "description": "Posts one comment on an issue of the repository, for everybody to see; returns its address.",
        "inputSchema": {
            "type": "object",
            "properties": {"number": NUMBER, "body": TEXT},
            "required": ["number", "body"],
        },
    },
]


def main() -> None:
    """Answer one request a line until the input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        if "id" in request and "method" in request:
            reply = {"jsonrpc": "2.0", "id": request["id"], **answer(request["method"], request.get("params") or {})}
            sys.stdout.write(json.dumps(reply) + "\n")
            sys.stdout.flush()


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The member `result` or `error` of a reply."""
    match method:
        case "initialize":
            about = {"name": "github-issues", "version": "1.0.0"}
            version = params.get("protocolVersion", "2025-06-18")
            return {"result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about}}
        case "ping":
            return {"result": {}}
        case "tools/list":
            return {"result": {"tools": TOOLS}}
        case "tools/call":
            return {"result": called(params.get("name"), params.get("arguments") or {})}
        case _:
            return {"error": {"code": -32601, "message": f"there is no method {method}"}}


def called(name: object, arguments: dict[str, Any]) -> dict[str, Any]:
    """A tool's result; what goes wrong is told to the model."""
    try:
        number = arguments["number"]
        if type(number) is not int or number < 1:
            raise ValueError("number has to be the number of an issue")
        if name == "readIssue":
            return said(read(number))
        if name == "commentOnIssue":
            return said(comment(number, arguments["body"]))
        raise ValueError(f"there is no tool {name}")
    except KeyError as error:
        return said(f"the argument {error.args[0]} is missing", failed=True)
    except (ValueError, OSError, subprocess.TimeoutExpired) as error:
        return said(str(error), failed=True)


def said(text: str, *, failed: bool = False) -> dict[str, Any]:
    """A text as a tool's result."""
    return {"content": [{"type": "text", "text": text}], "isError": failed}


def read(number: int) -> str:
    """The issue and its comments as text."""
    issue = gh(f"{ISSUES}/{number}")
    comments = gh(f"{ISSUES}/{number}/comments?per_page=100")
    parts = [f"#{number} {issue['title']} ({issue['state']}), by {issue['user']['login']}:\n\n{issue['body']}"]
    parts += [f"Comment by {each['user']['login']}:\n\n{each['body']}" for each in comments]
    return "\n\n---\n\n".join(parts)


def comment(number: int, body: object) -> str:
    """Post it; what became of it."""
    if not isinstance(body, str) or not body.strip() or len(body) > LONGEST:
        raise ValueError(f"body has to be a text of 1 to {LONGEST} characters")
    posted = gh(f"{ISSUES}/{number}/comments", "--method", "POST", "--field", "body=@-", given=body)
    return f"posted as {posted['html_url']}"


def gh(path: str, *options: str, given: str = "") -> Any:
    """What GitHub answers, through `gh api`. Raises ValueError with gh's own words."""
    # gh takes the token of a host that is not GitHub's own from another variable.
    token = {} if HOST == "github.com" else {"GH_ENTERPRISE_TOKEN": os.environ["GH_TOKEN"]}
    done = subprocess.run(
        ["gh", "api", "--hostname", HOST, path, *options],  # noqa: S607 - the image's; PATH is the runner's
        input=given,
        env={**os.environ, **token},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise ValueError(f"gh: {done.stderr.strip()[:2000] or f'exit code {done.returncode}'}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()

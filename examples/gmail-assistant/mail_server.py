"""An MCP server over standard input and output: one Gmail account, over Google's REST API. Standard library only.

It runs in a sandbox of its own, the only place that the refresh token and the mails' way out are in. Whether a mail may
be sent is not its affair: the daemon holds the call of sendMail back until a person allows it.
"""

import base64
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from email.message import EmailMessage
from email.utils import parseaddr
from functools import lru_cache
from typing import Any

API = "https://gmail.googleapis.com/gmail/v1/users/me/messages"
TOKENS = "https://oauth2.googleapis.com/token"
SECONDS = 30
PERIOD = 1800
MOST = 10
SHOWN = 20_000
HEADERS = ("From", "To", "Subject", "Date", "Message-ID")
TOOLS = [
    {
        "name": "searchMail",
        "description": f"Lists up to {MOST} mails, newest first: id, from, subject, date. Takes Gmail's search syntax.",
        "inputSchema": {
            "type": "object",
            "properties": {"query": {"type": "string", "description": "As in: is:unread from:anna"}},
            "required": ["query"],
        },
        "annotations": {"readOnlyHint": True},
    },
    {
        "name": "readMail",
        "description": "Reads one mail: its headers and its text.",
        "inputSchema": {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
        "annotations": {"readOnlyHint": True},
    },
    {
        "name": "sendMail",
        "description": "Sends a mail in plain text. With replyTo, the id of a mail, it joins that conversation.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "to": {"type": "string", "description": "One address"},
                "subject": {"type": "string"},
                "text": {"type": "string"},
                "replyTo": {"type": "string"},
            },
            "required": ["to", "subject", "text"],
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
            about = {"name": "gmail", "version": "1.0.0"}
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
    known: dict[object, Callable[..., str]] = {"searchMail": search, "readMail": read, "sendMail": send}
    try:
        text, failed = known[name](**arguments), False
    except urllib.error.HTTPError as error:
        text, failed = f"the server answered {error.code}: {error.read(500).decode(errors='replace')}", True
    except (KeyError, TypeError, ValueError, OSError) as error:
        text, failed = f"not done: {error}", True
    return {"content": [{"type": "text", "text": text}], "isError": failed}


def search(query: str) -> str:
    """A line for each mail."""
    question = urllib.parse.urlencode({"q": query, "maxResults": MOST})
    found = asked(f"{API}?{question}").get("messages", [])
    return "\n".join(listed(each["id"]) for each in found) or "no mail was found"


def listed(number: str) -> str:
    """A mail's line."""
    wanted = urllib.parse.urlencode([("format", "metadata"), *(("metadataHeaders", name) for name in HEADERS)])
    heads = headers(asked(f"{API}/{quoted(number)}?{wanted}"))
    return " | ".join((number, heads.get("From", ""), heads.get("Subject", ""), heads.get("Date", "")))


def read(id: str) -> str:  # noqa: A002 - the name of the tool's argument
    """A mail's headers and text."""
    mail = asked(f"{API}/{quoted(id)}?format=full")
    shown = [f"{name}: {value}" for name, value in headers(mail).items() if name in HEADERS]
    return "\n".join([*shown, "", text_of(mail["payload"])[:SHOWN]])


def send(to: str, subject: str, text: str, replyTo: str = "") -> str:  # noqa: N803 - the name of the tool's argument
    """Send it; what became of it."""
    if parseaddr(to)[1].count("@") != 1 or "," in to:
        raise ValueError("to has to be one address")
    mail = EmailMessage()
    mail["To"], mail["Subject"] = to, subject
    mail.set_content(text)
    given: dict[str, str] = {}
    if replyTo:
        old = asked(f"{API}/{quoted(replyTo)}?format=metadata&metadataHeaders=Message-ID")
        if first := headers(old).get("Message-ID"):
            mail["In-Reply-To"], mail["References"] = first, first
        given["threadId"] = old["threadId"]
    given["raw"] = base64.urlsafe_b64encode(mail.as_bytes()).decode()
    return f"sent as {asked(f'{API}/send', given)['id']}"


def headers(mail: dict[str, Any]) -> dict[str, str]:
    """Headers by name; Gmail gives a list."""
    return {each["name"]: each["value"] for each in mail["payload"].get("headers", [])}


def text_of(part: dict[str, Any]) -> str:
    """The first plain text of a mail, however deep it lies."""
    if part.get("mimeType") == "text/plain":
        return base64.urlsafe_b64decode(part["body"].get("data", "") + "==").decode(errors="replace")
    return next((text for each in part.get("parts", []) if (text := text_of(each))), "")


def quoted(number: str) -> str:
    """An id as a part of a path: it comes from the model."""
    return urllib.parse.quote(str(number), safe="")


def asked(url: str, given: dict[str, str] | None = None) -> Any:
    """What Gmail answers."""
    heads = {
        "Authorization": f"Bearer {access_token(int(time.monotonic()) // PERIOD)}",
        "Content-Type": "application/json",
    }
    return fetched(url, heads, None if given is None else json.dumps(given).encode())


@lru_cache(maxsize=1)
def access_token(_period: int) -> str:
    """A token for the refresh token; it is good for an hour, and asked for anew in each period."""
    names = {"client_id": "GMAIL_CLIENT_ID", "client_secret": "GMAIL_CLIENT_SECRET"}
    form = {key: os.environ[name] for key, name in names.items()}
    form |= {"refresh_token": os.environ["GMAIL_REFRESH_TOKEN"], "grant_type": "refresh_token"}
    return str(fetched(TOKENS, {}, urllib.parse.urlencode(form).encode())["access_token"])


def fetched(url: str, heads: dict[str, str], body: bytes | None) -> Any:
    """JSON of an address; the sandbox's proxy and authorities come from the environment."""
    request = urllib.request.Request(url, body, heads)  # noqa: S310 - https, by the constants above
    with urllib.request.urlopen(request, timeout=SECONDS) as reply:  # noqa: S310
        return json.load(reply)


if __name__ == "__main__":
    main()

"""Stands in for Gmail and for the server of its tokens: one account with two mails. For playing back and for tests."""

import base64
import json
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any
from urllib.parse import parse_qs

from examples.stand_in import Asked, Reply

ACCESS = "an-access-token-of-the-stand-in"
PLACE = "/gmail/v1/users/me/messages"
MAILS = {
    "m1": (
        "Anna Lind <anna@example.com>",
        "Thursday",
        "When can you come on Thursday? And do you have the slides?\n\nAnna",
    ),
    "m2": ("Post <post@example.com>", "Your parcel", "It comes tomorrow."),
}


class StandIn:
    """Answers what the mail server asks. `sent` are the mails that went out."""

    def __init__(self, env: dict[str, str]) -> None:
        self.sent: list[EmailMessage] = []
        self._env = env

    def answer(self, asked: Asked) -> Reply:
        """One request of the mail server."""
        if (asked.method, asked.path) == ("POST", "/token"):
            return self._token(parse_qs(asked.body.decode()))
        if asked.headers.get("Authorization") != f"Bearer {ACCESS}":
            return Reply(401, {"error": {"message": "Invalid Credentials"}})
        path, _, query = asked.path.partition("?")
        match asked.method, path.removeprefix(PLACE):
            case "GET", "":
                found = [number for number, mail in MAILS.items() if _fits(parse_qs(query)["q"][0], mail)]
                return Reply(200, {"messages": [{"id": number, "threadId": f"t-{number}"} for number in found]})
            case "POST", "/send":
                return self._send(json.loads(asked.body))
            case "GET", rest if rest[1:] in MAILS:
                return Reply(200, _mail(rest[1:]))
            case _:
                return Reply(404, {"error": {"message": "Requested entity was not found."}})

    def _token(self, form: dict[str, list[str]]) -> Reply:
        named = {"client_id": "GMAIL_CLIENT_ID", "client_secret": "GMAIL_CLIENT_SECRET"}
        named["refresh_token"] = "GMAIL_REFRESH_TOKEN"  # noqa: S105 - the name of a variable
        if any(form.get(key) != [self._env[name]] for key, name in named.items()):
            return Reply(400, {"error": "invalid_grant"})
        return Reply(200, {"access_token": ACCESS, "expires_in": 3600, "token_type": "Bearer"})

    def _send(self, given: dict[str, str]) -> Reply:
        mail = message_from_bytes(base64.urlsafe_b64decode(given["raw"]), policy=policy.default)
        self.sent.append(mail)
        return Reply(200, {"id": f"s{len(self.sent)}", "threadId": given.get("threadId", "")})

    def summary(self) -> str:
        """What came of it, for people."""
        return "\n\n".join([f"mails that were sent: {len(self.sent)}", *(str(mail) for mail in self.sent)])


def _fits(query: str, mail: tuple[str, str, str]) -> bool:
    """A small part of Gmail's search: words, and from:."""
    text = " ".join(mail).lower()
    return all(word.removeprefix("from:") in text for word in query.lower().split())


def _mail(number: str) -> dict[str, Any]:
    sender, subject, text = MAILS[number]
    heads = {
        "From": sender,
        "To": "me@example.com",
        "Subject": subject,
        "Date": "Tue, 17 Nov 2026 09:30:00 +0100",
        "Message-ID": f"<{number}@example.com>",
    }
    return {
        "id": number,
        "threadId": f"t-{number}",
        "payload": {
            "mimeType": "multipart/alternative",
            "headers": [{"name": name, "value": value} for name, value in heads.items()],
            "parts": [{"mimeType": "text/plain", "body": {"data": base64.urlsafe_b64encode(text.encode()).decode()}}],
        },
    }

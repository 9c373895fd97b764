"""Stands in for GitHub: one repository with one issue, in memory. For playing back and for tests."""

import json
from typing import Any

from examples.stand_in import Asked, Reply

ISSUE: dict[str, Any] = {
    "number": 7,
    "title": "Never switches off in our mountain hut",
    "state": "open",
    "user": {"login": "hut-keeper"},
    "body": "Since we have the new kettle it boils until somebody pulls the plug. We are at 2500 m. At home it works.",
}
PLACE = "/api/v3/repos/acme/kettle/issues/7"


class StandIn:
    """Answers what the issue server asks. `comments` are those that were posted, `refused` counts wrong tokens."""

    def __init__(self, env: dict[str, str]) -> None:
        self.comments: list[str] = []
        self.refused = 0
        self._token = env["GH_TOKEN"]

    def answer(self, asked: Asked) -> Reply:
        """One request of `gh`."""
        if asked.headers.get("Authorization") != f"token {self._token}":
            self.refused += 1
            return Reply(401, {"message": "Bad credentials"})
        match asked.method, asked.path.partition("?")[0]:
            case "GET", path if path == PLACE:
                return Reply(200, ISSUE)
            case "GET", path if path == f"{PLACE}/comments":
                return Reply(200, [self._comment(body) for body in self.comments])
            case "POST", path if path == f"{PLACE}/comments":
                self.comments.append(json.loads(asked.body)["body"])
                return Reply(201, self._comment(self.comments[-1]))
            case _:
                return Reply(404, {"message": "Not Found"})

    def _comment(self, body: str) -> dict[str, Any]:
        address = f"https://github.com/acme/kettle/issues/7#issuecomment-{self.comments.index(body) + 1}"
        return {"body": body, "user": {"login": "bot"}, "html_url": address}

    def summary(self) -> str:
        """What came of it, for people."""
        return "\n\n".join(["what GitHub has now:", ISSUE["title"] + "\n" + ISSUE["body"], *self.comments])

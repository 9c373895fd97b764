"""Whether a person's answer fits its question's schema."""

from typing import Protocol

from perstackd.domain.messages import JsonObject, JsonValue


class AnswerSchemas(Protocol):
    """JSON Schema, draft 2020-12, without what lets a schema cost time: patterns and references to elsewhere."""

    def problem(self, schema: JsonObject, value: JsonValue) -> str:
        """What does not fit, in a sentence; empty when it fits. Never raises: a schema that is none fits everything."""
        ...

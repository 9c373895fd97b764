"""The digest of an expert's canonical form: equal definitions have equal digests, whatever their layout."""

import hashlib
import json
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from perstackd.domain.expert import Expert


def expert_digest(expert: Expert) -> str:
    """`sha256:HEX` of the canonical JSON (sorted keys, no spaces, UTF-8) of all fields that do not have their default,
    so that a field that a later version adds changes no digest; the class of a skill is part of it.
    """
    document = json.dumps(_canonical(expert), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(document.encode()).hexdigest()}"


def _canonical(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        said = {field.name: getattr(value, field.name) for field in fields(value)}
        defaults = {field.name: field.default for field in fields(value) if field.default is not MISSING}
        kept = {name: _canonical(item) for name, item in said.items() if name not in defaults or item != defaults[name]}
        return {"": type(value).__name__, **kept}
    return [_canonical(item) for item in value] if isinstance(value, tuple) else value

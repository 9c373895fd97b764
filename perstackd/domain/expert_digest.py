"""The digest of an expert's canonical form: equal definitions have equal digests, whatever their layout."""

import hashlib
import json
from dataclasses import asdict

from perstackd.domain.expert import Expert


def expert_digest(expert: Expert) -> str:
    """`sha256:HEX` of the canonical JSON (sorted keys, no spaces, UTF-8) of all fields."""
    document = json.dumps(asdict(expert), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(document.encode()).hexdigest()}"

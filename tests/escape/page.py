"""docs/security/attacks.md: every attack that is registered, and what came of it in one run."""

import json
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.escape.attacks import NOT_APPLICABLE, Attack

HEAD = """# Attacks

Written by `make attacks` from a run of `tests/escape`; do not edit it. Each attack is tried in a sandbox of a running daemon, or at a
socket that sandboxes or clients reach, and has a control: the same attack where one protection is taken away, and where it
succeeds. A control that does not succeed would say that the attack proves nothing. Identifiers are stable.

"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of an attack and of its control; `files` hold both."""

    attack: Attack
    files: tuple[str, ...]
    refused: bool
    control_succeeds: bool

    def row(self) -> str:
        attack = self.attack
        result = "refused" if self.refused else "**NOT REFUSED**"
        control = "succeeds" if self.control_succeeds else "**DOES NOT SUCCEED**"
        where = ", ".join(f"`{name}`" for name in self.files)
        return f"| {attack.id} | {attack.tried} | {where} | {result} | {control}: {attack.control} |"


def page(verdicts: Sequence[Verdict]) -> str:
    """The document. Attacks stand in order under the kind of attack that they are of."""
    return HEAD + "\n".join([*_summary(verdicts), *_tables(verdicts), *_left_out()]) + "\n"


def _summary(verdicts: Sequence[Verdict]) -> Iterator[str]:
    refused = sum(verdict.refused for verdict in verdicts)
    controls = sum(verdict.control_succeeds for verdict in verdicts)
    yield f"- {len(verdicts)} attacks, {len(verdicts) - refused} succeeded; {controls} controls succeeded."
    yield f"- {len(NOT_APPLICABLE)} kinds are not applicable where it ran; they are not counted."
    yield f"- Run on {machine()}."


def machine() -> str:
    """Kernel, engine and what else decides what is possible."""
    command = ["docker", "info", "--format", "{{json .}}"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=30).stdout)
    release = platform.release().partition("-")[0]
    landlock = "with" if os.path.exists("/sys/kernel/security") and _has_landlock() else "without"
    cgroups = f"cgroup v{told['CgroupVersion']}"
    return f"Linux {release} ({platform.machine()}), Docker {told['ServerVersion']}, {cgroups}, {landlock} Landlock"


def _has_landlock() -> bool:
    from perstack_runner import landlock

    return landlock.abi() > 0


def _tables(verdicts: Sequence[Verdict]) -> Iterator[str]:
    item = ""
    for verdict in verdicts:
        if verdict.attack.item != item:
            item = verdict.attack.item
            yield from ("", f"## {item[0].upper()}{item[1:]}", "")
            yield from ("| id | what is tried | tests | result | control |", "| --- | --- | --- | --- | --- |")
        yield verdict.row()


def _left_out() -> Iterator[str]:
    yield from ("", "## Not applicable", "", "| what | why |", "| --- | --- |")
    for what, why in NOT_APPLICABLE.items():
        yield f"| {what} | {why} |"

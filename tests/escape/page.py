"""docs/security/attacks.md: every attack that is registered, and what came of it in one run."""

import json
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.escape import gvisor
from tests.escape.attacks import NOT_APPLICABLE, Attack
from tests.integration.docker.private_engine import runsc

HEAD = """# Attacks

Written by `make attacks` from a run of `tests/escape`; do not edit it. Each attack is tried in a sandbox of a running daemon, or at a
socket that sandboxes or clients reach, and has a control: the same attack where one protection is taken away, and where it
succeeds. A control that does not succeed would say that the attack proves nothing. Identifiers are stable.

Sandboxes are of runc and of gVisor (`runsc`). *As runc*: the daemon or the proxy answers, which do not know what runs the sandbox; it was
tried from one of runc's. *Not applicable*: gVisor does not have the thing, so that it is refused there even without any protection; or it
permits it within its own kernel, for the reason that is given.

"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of an attack by runtime, and of its control; `files` hold both. `controls` are the runtimes in which
    the control was tried.
    """

    attack: Attack
    files: tuple[str, ...]
    refused: dict[str, bool]
    controls: tuple[str, ...]
    control_succeeds: bool

    def cells(self) -> tuple[str, ...]:
        """One for each runtime."""
        return tuple(self.told(runtime) for runtime in gvisor.RUNTIMES)

    def told(self, runtime: str) -> str:
        if runtime == "runsc" and (reason := gvisor.told(self.attack.name)):
            return reason
        return "refused" if self.refused[runtime] else "**NOT REFUSED**"

    def row(self) -> str:
        attack = self.attack
        control = "succeeds" if self.control_succeeds else "**DOES NOT SUCCEED**"
        where = ", ".join(f"`{name}`" for name in self.files)
        results = " | ".join(self.cells())
        return f"| {attack.id} | {attack.tried} | {where} | {results} | {control} ({', '.join(self.controls)}): {attack.control} |"


def page(verdicts: Sequence[Verdict]) -> str:
    """The document. Attacks stand in order under the kind of attack that they are of."""
    return HEAD + "\n".join([*_summary(verdicts), *_tables(verdicts), *_left_out()]) + "\n"


def _summary(verdicts: Sequence[Verdict]) -> Iterator[str]:
    of_runc = [verdict.refused["runc"] for verdict in verdicts]
    of_runsc = [verdict.refused["runsc"] for verdict in verdicts if verdict.attack.name in gvisor.TRIED]
    controls = sum(verdict.control_succeeds for verdict in verdicts)
    yield f"- {len(of_runc)} attacks in runc's sandboxes, {of_runc.count(False)} succeeded; {controls} controls succeeded."
    yield (
        f"- {len(of_runsc)} of them in gVisor's, {of_runsc.count(False)} succeeded; {len(gvisor.OUTSIDE)} are as with runc, "
        f"{len(gvisor.NOT_APPLICABLE)} are not applicable there."
    )
    yield f"- {len(NOT_APPLICABLE)} kinds are not applicable where it ran; they are not counted."
    yield f"- Run on {machine()}."


def machine() -> str:
    """Kernel, engine and what else decides what is possible."""
    command = ["docker", "info", "--format", "{{json .}}"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=30).stdout)
    version = subprocess.run([runsc(), "--version"], check=True, capture_output=True, text=True, timeout=30).stdout
    release = platform.release().partition("-")[0]
    landlock = "with" if os.path.exists("/sys/kernel/security") and _has_landlock() else "without"
    cgroups = f"cgroup v{told['CgroupVersion']}"
    return (
        f"Linux {release} ({platform.machine()}), Docker {told['ServerVersion']}, {cgroups}, {landlock} Landlock, "
        f"gVisor {version.split()[2]}"
    )


def _has_landlock() -> bool:
    from perstack_runner import landlock

    return landlock.abi() > 0


def _tables(verdicts: Sequence[Verdict]) -> Iterator[str]:
    for item in dict.fromkeys(verdict.attack.item for verdict in verdicts):
        yield from ("", f"## {item[0].upper()}{item[1:]}", "")
        runtimes = " | ".join(gvisor.RUNTIMES)
        yield from (f"| id | what is tried | tests | {runtimes} | control |", "| --- | --- | --- | --- | --- | --- |")
        yield from (verdict.row() for verdict in verdicts if verdict.attack.item == item)


def _left_out() -> Iterator[str]:
    yield from ("", "## Not applicable", "", "| what | why |", "| --- | --- |")
    for what, why in NOT_APPLICABLE.items():
        yield f"| {what} | {why} |"

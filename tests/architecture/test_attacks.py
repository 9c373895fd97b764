"""The attack suite and its page: what is registered is tried and told, and nothing else."""

import re
import subprocess
import sys
from pathlib import Path

from tests.escape import gvisor
from tests.escape.attacks import ATTACKS, NOT_APPLICABLE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/security/attacks.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (ESC-\d{3}) \| (.*?) \| .*? \| (.*?) \| (.*?) \| (\w+) \((.*?)\): (.*) \|$", re.MULTILINE)
LEAST = 40


def test_ids_are_numbered_from_one_and_given_once() -> None:
    assert [attack.id for attack in ATTACKS] == [f"ESC-{number:03}" for number in range(1, len(ATTACKS) + 1)]
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= LEAST


def test_every_kind_of_the_design_is_tried() -> None:
    design = (ROOT / "docs/design/sandbox.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^## Attacks that the suite tries.*?\n\n(.*?)\n\n", design, re.DOTALL | re.MULTILINE)
    kinds = [" ".join(kind.split()).removesuffix(".") for kind in listed.split("·")]
    tried = {attack.item for attack in ATTACKS}
    assert [kind for kind in kinds if not any(kind.startswith(item) for item in tried)] == []
    assert [item for item in tried if not any(kind.startswith(item) for kind in kinds)] == []


def test_the_page_tells_of_exactly_what_is_registered() -> None:
    told = sorted((row[0], row[1], row[6]) for row in ROW.findall(PAGE))
    assert told == [(attack.id, attack.tried, attack.control) for attack in ATTACKS], "make attacks writes it anew"
    for what, why in NOT_APPLICABLE.items():
        assert f"| {what} | {why} |" in PAGE


def test_the_page_is_of_a_run_in_which_nothing_got_through() -> None:
    names = {attack.id: attack.name for attack in ATTACKS}
    for attack_id, _, runc, runsc, control, _, _ in ROW.findall(PAGE):
        assert (attack_id, runc, control) == (attack_id, "refused", "succeeds")
        assert (attack_id, runsc) == (attack_id, gvisor.told(names[attack_id]) or "refused")


def test_what_is_not_tried_in_gvisor_is_registered_and_has_one_reason() -> None:
    reasons = [gvisor.LACKING, gvisor.WITHIN, gvisor.OTHERWISE, gvisor.OUTSIDE]
    left_out = [name for names in reasons for name in names]
    assert len(left_out) == len(set(left_out))
    assert set(left_out) <= {attack.name for attack in ATTACKS}


def test_every_attack_has_a_test_and_a_control() -> None:
    command = [sys.executable, "-m", "pytest", "tests/escape", "--collect-only", "--quiet", "-p", "no:cacheprovider"]
    told = subprocess.run(
        [*command, "-p", "tests.escape.verdicts", "--attacks-untried"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stdout[-2000:]
    assert [line for line in told.stdout.splitlines() if line.startswith("untried: ")] == []

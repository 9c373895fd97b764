"""What came of each attack and of its control, as a pytest plugin: `-p tests.escape.verdicts --attacks-page FILE`
writes the page after a run of all of them, `--attacks-untried` with `--collect-only` tells which have no test. Tests
say with `@attack(NAME)` and `@control(NAME)` what they are.
"""

from collections import defaultdict
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.escape.attacks import ATTACKS, BY_NAME
from tests.escape.page import Verdict, page

ROLES = ("attack", "control")


def attack(*names: str) -> pytest.MarkDecorator:
    """Marks a test that tries these attacks and passes when they fail."""
    return pytest.mark.attack(*(BY_NAME[name].name for name in names))


def control(*names: str) -> pytest.MarkDecorator:
    """Marks a test that tries them where a protection is taken away, and passes when they succeed there."""
    return pytest.mark.control(*(BY_NAME[name].name for name in names))


def roles_of(item: pytest.Item) -> Generator[tuple[str, str], None, None]:
    """(role, attack) of each mark of a test."""
    for role in ROLES:
        for mark in item.iter_markers(role):
            yield from ((role, name) for name in mark.args)


@dataclass(slots=True)
class Verdicts:
    """Outcomes by role and attack; a test that fails in any of its phases is one that failed."""

    target: Path
    failed: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    ran: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        for key in roles_of(item):
            if report.when == "call" and not report.skipped:
                self.ran[key].add(item.nodeid)
            if report.failed:
                self.failed[key].add(item.nodeid)
        return report

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if missing := self.missing():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            missed = ", ".join(f"{role} of {name}" for role, name in missing)
            raise pytest.UsageError(f"{self.target} is as it was, because these did not run: {missed}")
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.target.write_text(page([self.verdict(each.name) for each in ATTACKS]), encoding="utf-8")

    def missing(self) -> list[tuple[str, str]]:
        return [(role, each.name) for each in ATTACKS for role in ROLES if not self.ran[role, each.name]]

    def verdict(self, name: str) -> Verdict:
        files = {Path(node.partition("::")[0]).name for role in ROLES for node in self.ran[role, name]}
        refused, succeeds = (not self.failed[role, name] for role in ROLES)
        return Verdict(BY_NAME[name], tuple(sorted(files)), refused=refused, control_succeeds=succeeds)


def untried(items: Iterable[pytest.Item]) -> list[tuple[str, str]]:
    """(role, attack) of what no test is marked with."""
    tried = {key for item in items for key in roles_of(item)}
    return [(role, each.name) for each in ATTACKS for role in ROLES if (role, each.name) not in tried]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--attacks-page", type=Path, help="where to write what came of the attacks")
    parser.addoption("--attacks-untried", action="store_true", help="tell which have no test")


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.getoption("--attacks-untried"):
        for role, name in untried(session.items):
            print(f"untried: {role} {name}")  # noqa: T201 - what it was asked for


def pytest_configure(config: pytest.Config) -> None:
    if target := config.getoption("--attacks-page"):
        config.pluginmanager.register(Verdicts(target), "attack-verdicts")

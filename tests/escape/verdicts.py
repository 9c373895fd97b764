"""What came of each attack and of its control, as a pytest plugin: `-p tests.escape.verdicts --attacks-page FILE`
writes the page after a run of all of them, `--attacks-untried` with `--collect-only` tells which have no test. Tests
say with `@attack(NAME)` and `@control(NAME)` what they are.
"""

from collections import defaultdict
from collections.abc import Container, Generator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.escape.attacks import ATTACKS, BY_NAME
from tests.escape.gvisor import TRIED
from tests.escape.page import Verdict, page

ROLES = ("attack", "control")
Key = tuple[str, str, str]


def attack(*names: str) -> pytest.MarkDecorator:
    """Marks a test that tries these attacks and passes when they fail."""
    return pytest.mark.attack(*(BY_NAME[name].name for name in names))


def control(*names: str) -> pytest.MarkDecorator:
    """Marks a test that tries them where a protection is taken away, and passes when they succeed there."""
    return pytest.mark.control(*(BY_NAME[name].name for name in names))


def in_runtimes(*runtimes: str) -> pytest.MarkDecorator:
    """Runs a test that has the fixture `runtime`, or one that it comes to, in these alone."""
    return pytest.mark.parametrize("runtime", runtimes, indirect=True, scope="module")


def roles_of(item: pytest.Item) -> Generator[Key, None, None]:
    """(role, attack, runtime) of each mark of a test. The fixture `runtime` tells the last, where a test has it."""
    called = getattr(item, "callspec", None)  # of parametrised tests only
    runtime = called.params.get("runtime", "runc") if called else "runc"
    for role in ROLES:
        for mark in item.iter_markers(role):
            yield from ((role, name, str(runtime)) for name in mark.args)


def untried(keys: Container[Key]) -> list[Key]:
    """What has to be tried and is not among the keys."""
    wanted = [(role, each.name, "runc") for each in ATTACKS for role in ROLES]
    wanted += [("attack", each.name, "runsc") for each in ATTACKS if each.name in TRIED]
    return [key for key in wanted if key not in keys]


@dataclass(slots=True)
class Verdicts:
    """Outcomes by role, attack and runtime; a test that fails in any of its phases is one that failed."""

    target: Path
    failed: set[Key] = field(default_factory=set)
    ran: dict[Key, set[str]] = field(default_factory=lambda: defaultdict(set))
    missed: str = ""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        for key in roles_of(item):
            if report.when == "call" and not report.skipped:
                self.ran[key].add(item.nodeid)
            if report.failed:
                self.failed.add(key)
        return report

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if missing := untried(self.ran):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            self.missed = ", ".join(f"{role} of {name} in {runtime}" for role, name, runtime in missing)
            return
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.target.write_text(page([self.verdict(each.name) for each in ATTACKS]), encoding="utf-8")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.missed:
            terminalreporter.write_line(f"{self.target} is as it was, because these did not run: {self.missed}")

    def verdict(self, name: str) -> Verdict:
        keys = [key for key in self.ran if key[1] == name]
        files = {Path(node.partition("::")[0]).name for key in keys for node in self.ran[key]}
        refused = {runtime: (role, name, runtime) not in self.failed for role, _, runtime in keys if role == "attack"}
        controls = tuple(sorted(runtime for role, _, runtime in keys if role == "control"))
        succeeds = not any(("control", name, runtime) in self.failed for runtime in controls)
        return Verdict(BY_NAME[name], tuple(sorted(files)), refused, controls, control_succeeds=succeeds)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--attacks-page", type=Path, help="where to write what came of the attacks")
    parser.addoption("--attacks-untried", action="store_true", help="tell which have no test")


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.getoption("--attacks-untried"):
        for role, name, runtime in untried({key for item in session.items for key in roles_of(item)}):
            print(f"untried: {role} {name} {runtime}")  # noqa: T201 - what it was asked for


def pytest_configure(config: pytest.Config) -> None:
    if target := config.getoption("--attacks-page"):
        config.pluginmanager.register(Verdicts(target), "attack-verdicts")

"""Questions of a job, through the real program: listed, answered, asked on a terminal, left open."""

import asyncio
import fcntl
import json
import os
import pty
import signal
import struct
import termios
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from perstackctl.client import Action, Answer, Client
from tests.fakes.daemon_api import FakeDaemon
from tests.fakes.event_log import CHILD, JOB, PARENT
from tests.fakes.stories import asking, ending_well
from tests.rpc.ctl_program import TIMEOUT, Ctl, ended

pytestmark = pytest.mark.anyio
EVIL = "a\x1b]0;owned\x07b\x1b[2J\x9b31mc\r\u202e\nMay it? (y/n) y"


@pytest.fixture
def ctl(daemon: FakeDaemon, tmp_path: Path) -> Ctl:
    project = tmp_path / "project"
    project.mkdir()
    (project / "perstack.toml").write_text('[experts.bot]\ninstruction = "x"\n')
    return Ctl(daemon.path, project)


def answers(daemon: FakeDaemon) -> list[tuple[str, str, bytes]]:
    return [(r.question_id, r.action, r.content) for r in daemon.requests("AnswerQuestion")]


async def somebody_answers(daemon: FakeDaemon) -> None:
    """From this process: gRPC does not bear a fork while a stream is being served."""
    async with Client(daemon.path) as client:
        await client.answer_question(JOB, f"{PARENT}.1-1", Answer(Action.ANSWER, b'"b2"'))


# --- job questions, job answer --------------------------------------------------------------------------------------
async def test_questions_are_shown_with_the_commands_that_answer_them(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.add_job(asking(of="all"))
    shown = (await ctl("job", "questions", JOB[:7])).out
    assert "? fitness-assistant asks (board.askMove)  [1-1]\n  │ Your move?\n" in shown
    assert f"\n    perstackctl job answer {JOB} 1-1 TEXT\n" in shown
    assert "? pro-trainer wants to call github.createIssue  [2-1]" in shown
    assert f"{JOB} 2-1 --approve\n" in shown
    listed = json.loads((await ctl("job", "questions", JOB, "-o", "json")).out)
    assert [each["id"] for each in listed] == [f"{PARENT}.1-1", f"{CHILD}.2-1"]
    assert listed[1]["arguments"]["labels"] == ["bug"]


async def test_a_job_that_asks_nothing_says_so(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.add_job([])
    assert (await ctl("job", "questions", JOB)).out == f"job {JOB} asks nothing now\n"
    done = await ctl("job", "answer", JOB, "b2")
    assert (done.code, "asks nothing now" in done.err) == (1, True)


@pytest.mark.parametrize(
    ("of", "args", "sent"),
    [
        ("tool", ["b2"], (f"{PARENT}.1-1", "answer", b'"b2"')),
        ("tool", ["1-1", "3-1"], (f"{PARENT}.1-1", "answer", b'"3-1"')),
        ("tool", [f"{PARENT}.1-1", "b2"], (f"{PARENT}.1-1", "answer", b'"b2"')),
        ("tool", ["--json", '{"x": 1}'], (f"{PARENT}.1-1", "answer", b'{"x":1}')),
        ("approval", ["2-1", "--approve"], (f"{PARENT}.2-1", "approve", b"")),
        ("approval", ["--deny", "--reason", "no"], (f"{PARENT}.2-1", "deny", b'"no"')),
        ("elicitation", ["3-1e1", "--json", '{"dry": true}'], (f"{PARENT}.3-1e1", "accept", b'{"dry":true}')),
        ("elicitation", ["--decline"], (f"{PARENT}.3-1e1", "decline", b"")),
    ],
)
async def test_each_kind_is_answered_in_its_way(
    daemon: FakeDaemon, ctl: Ctl, of: str, args: list[str], sent: tuple[str, str, bytes]
) -> None:
    daemon.add_job(asking(of=of))
    done = await ctl("job", "answer", JOB, *args)
    assert (done.code, done.err) == (0, "")
    assert answers(daemon) == [sent]


async def test_a_long_answer_comes_from_a_file_or_standard_input(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.add_job(asking())
    (ctl.cwd / "a.md").write_text("# Grüße\n")
    assert (await ctl("job", "answer", JOB, "1-1", "--file", "a.md")).code == 0
    assert (await ctl("job", "answer", JOB, "1-1", "--file", "-", stdin="# Grüße\n".encode())).code == 0
    assert {content for _, _, content in answers(daemon)} == {'"# Grüße\\n"'.encode()}


async def test_the_same_answer_again_is_no_error_and_another_one_is(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.add_job(asking())
    for _ in range(2):
        assert (await ctl("job", "answer", JOB, "1-1", "b2")).code == 0
    other = await ctl("job", "answer", JOB, "1-1", "c3")
    assert (other.code, other.err) == (1, "perstackctl: it has another answer\n")


async def test_a_question_that_is_not_there_is_never_taken_for_an_answer(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.add_job(asking())
    done = await ctl("job", "answer", JOB, "9-9", "b2")
    assert (done.code, done.err) == (1, f"perstackctl: job {JOB} has no question '9-9'; open: 1-1\n")
    assert (await ctl("job", "answer", JOB, "9-9")).code == 2
    assert not answers(daemon)


async def test_with_several_questions_one_has_to_be_named(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.add_job(asking(of="all"))
    done = await ctl("job", "answer", JOB, "b2")
    assert (done.code, "asks 2 questions: 1-1, 2-1; name one of them" in done.err) == (2, True)
    assert not answers(daemon)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["1-1"], "there is no answer"),
        (["1-1", "b2", "--approve"], "two answers"),
        (["1-1", "--approve"], "is answered with a text"),
        (["1-1", "b2", "--reason", "x"], "--reason belongs to --deny"),
        (["1-1", "--json", "{"], "is not JSON"),
        (["1-1", "--file", "none"], "is not there"),
    ],
)
async def test_an_answer_that_cannot_be_one_is_a_usage_error(
    daemon: FakeDaemon, ctl: Ctl, args: list[str], said: str
) -> None:
    daemon.add_job(asking())
    done = await ctl("job", "answer", JOB, *args)
    assert (done.code, said in done.err) == (2, True)
    assert not answers(daemon)


async def test_what_the_daemon_refuses_is_told(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.add_job(asking(of="elicitation"))
    daemon.fail("AnswerQuestion", grpc.StatusCode.INVALID_ARGUMENT, "answer_invalid", "database is required\x1b[2J")
    done = await ctl("job", "answer", JOB, "--json", "{}")
    assert (done.code, done.err) == (2, "perstackctl: database is required\n")


# --- watching without a person --------------------------------------------------------------------------------------
@pytest.mark.parametrize("output", ["json", "text", "table"])
async def test_a_run_with_nothing_but_a_question_ends_with_4_and_the_command(
    daemon: FakeDaemon, ctl: Ctl, output: str
) -> None:
    daemon.items = lambda job: asking(job, of="approval")
    done = await ctl("run", "bot", "q", "-o", output)
    assert done.code == 4
    assert f"perstackctl: job {JOB} waits for an answer, and goes on when it has one" in done.err
    assert f"\n    perstackctl job answer {JOB} 2-1 --approve\n" in done.err
    assert not daemon.requests("CancelJob")
    if output == "json":
        assert done.rows[-1]["type"] == "approvalRequested"


async def test_a_run_goes_on_while_something_else_does(daemon: FakeDaemon, ctl: Ctl) -> None:
    items = asking(of="tool")
    daemon.items = lambda _job: items
    process = await ctl.start("run", "bot", "q", "-o", "text")
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readuntil(b"Your move?"), TIMEOUT)
    job = daemon.jobs[JOB]
    job.busy = True
    log_after = ending_well(JOB, job.seq)
    await daemon.append(JOB, *log_after)
    done = await ended(process)
    assert (done.code, "All done." in done.out) == (0, True)


async def test_a_watch_stays_with_a_job_that_waits(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.add_job(asking())
    process = await ctl.start("job", "watch", JOB, "-o", "text")
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readuntil(b"Your move? [1-1]\n"), TIMEOUT)
    await somebody_answers(daemon)
    done = await ended(process)
    assert (done.code, "a person answered: " in done.out) == (0, True)


async def test_what_is_asked_cannot_act_on_the_terminal(daemon: FakeDaemon, ctl: Ctl) -> None:
    items = asking(of="approval")
    document = json.loads(items[-1].payload)  # type: ignore[union-attr]
    for key in ("message", "skill", "tool"):
        document["question"][key] = EVIL
    document["question"]["arguments"] = {EVIL: EVIL}
    items[-1].payload = json.dumps(document).encode()  # type: ignore[union-attr]
    daemon.items = lambda _job: items
    written = (await ctl("run", "bot", "q", "-o", "text")).err + (await ctl("job", "questions", JOB)).out
    written += (await ctl("job", "log", JOB)).out + (await ctl("job", "watch", JOB, "--no-follow", "-o", "text")).out
    async with terminal(ctl, "start", "bot", "q") as typed:
        written += await typed.until("May it? (y/n) ", times=2)
        typed.interrupt()
        await typed.end()
    without_ours = written.replace("\x1b[?25l", "").replace("\x1b[?25h", "").replace("\x1b[K", "").replace("\x1b[J", "")
    assert "owned\x07" not in without_ours
    assert not {char for char in without_ours if char in "\x07\x9b\u202e"}
    assert "\x1b[2J" not in without_ours


# --- a terminal -----------------------------------------------------------------------------------------------------
@dataclass
class Typed:
    """A program on a terminal of its own: what it wrote, and a person's hands."""

    fd: int
    name: str
    process: asyncio.subprocess.Process
    written: str = ""
    seen: int = field(default=0)

    async def until(self, text: str, times: int = 1) -> str:
        """All that was written, once `text` stands in it `times` times."""
        async with asyncio.timeout(TIMEOUT):
            while self.written.count(text) < times:
                piece = await asyncio.to_thread(self._read)
                assert piece, f"it ended without {text!r}: {self.written!r}"
                self.written += piece
        return self.written

    def _read(self) -> str:
        try:
            return os.read(self.fd, 65536).decode(errors="replace").replace("\r\n", "\n")
        except OSError:
            return ""

    async def say(self, prompt: str, line: str, times: int = 1) -> None:
        """Type a line once the prompt is there."""
        await self.until(prompt, times)
        os.write(self.fd, line.encode() + b"\n")

    async def ahead(self, keys: bytes) -> None:
        """Type what nobody asked for, and wait until the terminal has it: it shows nothing of it."""
        os.write(self.fd, keys)
        terminal = os.open(self.name, os.O_RDWR | os.O_NOCTTY)
        try:
            async with asyncio.timeout(TIMEOUT):
                while struct.unpack("i", fcntl.ioctl(terminal, termios.FIONREAD, bytes(4)))[0] < len(keys):
                    await asyncio.sleep(0.01)
        finally:
            os.close(terminal)

    def interrupt(self) -> None:
        """What Ctrl-C does when the terminal is the program's own."""
        self.process.send_signal(signal.SIGINT)

    async def end(self) -> int:
        async with asyncio.timeout(TIMEOUT):
            while piece := await asyncio.to_thread(self._read):
                self.written += piece
            return await self.process.wait()


class terminal:  # noqa: N801 - reads as a word: async with terminal(...)
    """perstackctl on a pseudo-terminal."""

    def __init__(self, ctl: Ctl, *args: str) -> None:
        self._ctl, self._args = ctl, args

    async def __aenter__(self) -> Typed:
        ours, theirs = pty.openpty()
        name = os.ttyname(theirs)
        process = await self._ctl.start(*self._args, stdin=theirs, stdout=theirs)
        os.close(theirs)
        self._typed = Typed(ours, name, process)
        return self._typed

    async def __aexit__(self, *_: object) -> None:
        if self._typed.process.returncode is None:
            self._typed.process.kill()
            await self._typed.process.wait()
        os.close(self._typed.fd)


@pytest.mark.parametrize("term", ["xterm", "dumb"])
async def test_start_asks_one_question_after_the_other(daemon: FakeDaemon, ctl: Ctl, term: str) -> None:
    ctl.env["TERM"] = term
    daemon.items = lambda job: asking(job, of="all")
    async with terminal(ctl, "start", "bot", "q") as typed:
        await typed.say("\n> ", "b2")
        await typed.say("May it? (y/n) ", "n")
        await typed.say("(may be empty): ", "not today")
        assert await typed.end() == 0
    assert sorted(answers(daemon)) == [(f"{CHILD}.2-1", "deny", b'"not today"'), (f"{PARENT}.1-1", "answer", b'"b2"')]
    assert typed.written.endswith("\nAll done.\n")
    assert typed.written.index("Your move?") < typed.written.index("wants to call github.createIssue")


async def test_start_asks_the_fields_of_a_server(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.items = lambda job: asking(job, of="elicitation")
    async with terminal(ctl, "start", "bot", "q") as typed:
        for prompt, line in (("Answer it?", "y"), ("database (", "2"), ("dry (", ""), ("note (", ""), ("rows (", "5")):
            await typed.say(prompt, line)
        assert await typed.end() == 0
    ((_, action, content),) = answers(daemon)
    assert (action, json.loads(content)) == ("accept", {"database": "live", "dry": True, "rows": 5})


async def test_an_answer_that_the_daemon_refuses_is_asked_again(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.items = asking
    daemon.fail("AnswerQuestion", grpc.StatusCode.INVALID_ARGUMENT, "answer_invalid", "no such field")
    async with terminal(ctl, "start", "bot", "q") as typed:
        await typed.say("\n> ", "z9")
        await typed.say("no such field\n> ", "b2")
        assert await typed.end() == 0
    assert [content for _, _, content in answers(daemon)] == [b'"z9"', b'"b2"']


async def test_ctrl_c_leaves_the_question_open_and_says_how_to_answer_later(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.items = lambda job: asking(job, of="approval")
    async with terminal(ctl, "start", "bot", "q") as typed:
        await typed.until("May it? (y/n) ")
        typed.interrupt()
        assert await typed.end() == 4
        assert typed.process.stderr is not None
        said = (await typed.process.stderr.read()).decode()
    command = f"perstackctl job answer {JOB} 2-1 --approve"
    assert f"2-1 stays open; answer it later with\n  {command}\n" in typed.written
    assert command in said
    assert not daemon.requests("AnswerQuestion")
    assert not daemon.requests("CancelJob")


async def test_what_was_typed_before_the_question_does_not_answer_it(daemon: FakeDaemon, ctl: Ctl) -> None:
    items = asking(of="approval")
    daemon.items = lambda _job: items[:-1]
    async with terminal(ctl, "start", "bot", "q") as typed:
        await typed.until("createIssue")
        await typed.ahead(b"y\n")
        await daemon.append(JOB, items[-1])
        await typed.until("May it? (y/n) ")
        assert not daemon.requests("AnswerQuestion")
        typed.interrupt()
        assert await typed.end() == 4
    assert not daemon.requests("AnswerQuestion")


async def test_a_question_that_somebody_else_answers_is_not_asked_any_more(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.items = asking
    async with terminal(ctl, "start", "bot", "q") as typed:
        await typed.until("\n> ")
        daemon.jobs[JOB].then = None
        await somebody_answers(daemon)
        await typed.until("1-1 was answered elsewhere")
        await daemon.append(JOB, *ending_well(JOB, daemon.jobs[JOB].seq))
        assert await typed.end() == 0


async def test_a_job_that_ends_ends_its_question(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.items = asking
    async with terminal(ctl, "start", "bot", "q") as typed:
        await typed.until("\n> ")
        async with Client(daemon.path) as client:
            await client.cancel_job(JOB)
        assert await typed.end() == 5


async def test_ctrl_c_beside_a_question_cancels_the_job(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.items = lambda job: asking(job, of="tool")[:4]
    async with terminal(ctl, "start", "bot", "q") as typed:
        await typed.until("fitness-assistant")
        typed.interrupt()
        assert await typed.end() == 5
    assert daemon.requests("CancelJob")


async def test_answering_without_an_answer_asks_on_a_terminal(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.add_job(asking(of="approval"))
    async with terminal(ctl, "job", "answer", JOB) as typed:
        await typed.say("May it? (y/n) ", "y")
        assert await typed.end() == 0
    assert answers(daemon) == [(f"{PARENT}.2-1", "approve", b"")]
    assert typed.written.endswith("answered 2-1\n")


async def test_leaving_the_terminal_leaves_the_question_open(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.add_job(asking())
    async with terminal(ctl, "job", "answer", JOB, "1-1") as typed:
        await typed.until("\n> ")
        typed.interrupt()
        assert await typed.end() == 4
    assert not answers(daemon)

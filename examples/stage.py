"""What an example's job needs around it: a daemon of its own, a copy of the workspace, a stand-in for servers, answers.

Everything lies below one temporary directory. `play` shows an example with it, `record` writes its conversation, the
tests look at what came of it.
"""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from examples.demo import BIN, START_SECONDS, wait_for
from examples.script import Play, Script
from examples.stand_in import Place, StandIn, of, place, serving
from perstackd.adapters.workspaces.hostread import read_beneath
from perstackd.config import load
from perstackd.daemon import run
from perstackd.domain.messages import Turn
from tests.fakes.models import ScriptedModels

OWNER: Final = 1000
IDLE: Final = {"base": 4, "skills": 1}
RUN_SECONDS: Final = 120
STOP_SECONDS: Final = 60
SHOWN_BYTES: Final = 64 << 10
ASKING: Final = frozenset({"callInteractiveTool", "approvalRequested", "elicitationRequested"})


@dataclass(frozen=True, slots=True)
class Stage:
    """Where examples are played: a directory with a short path, for the daemon's sockets."""

    home: Path
    stand_in: Place

    @classmethod
    def at(cls, home: Path) -> "Stage":
        """A stage in an empty directory. Raises OSError when this machine's name has no address."""
        (home / "workspaces").mkdir()
        return cls(home, place(home))

    def settings(self) -> dict[str, Any]:
        """The daemon's configuration, by keys with dots; models are left to the caller."""
        return {
            "state_directory": f"{self.home}/state",
            "runtime_directory": f"{self.home}/run",
            "workspace_roots": [f"{self.home}/workspaces"],
            "egress.allow_addresses": [f"{self.stand_in.address}/32"],
            "egress.ca_bundle": f"{self.stand_in.authority}",
            **{f"templates.{name}.min_idle": count for name, count in IDLE.items()},
        }

    @property
    def socket(self) -> Path:
        """The daemon's."""
        return self.home / "run/perstackd.sock"

    @property
    def environment(self) -> dict[str, str]:
        """For perstackctl."""
        return {**os.environ, "PERSTACK_ADDRESS": f"unix:{self.socket}"}

    @contextmanager
    def set(self, script: Script) -> Iterator["Scene"]:
        """One play's surroundings: a definition that names the stand-in, a new workspace, and the stand-in itself."""
        number = len(list(self.home.glob("definition-*")))
        definition = self.home / f"definition-{number}"
        definition.mkdir()
        text = (script.directory / "perstack.toml").read_text(encoding="utf-8")
        for host in script.stands_in_for:
            text = text.replace(host, self.stand_in.name)
        (definition / "perstack.toml").write_text(text, encoding="utf-8")
        env = {name: value.format(stand_in=self.stand_in.name) for name, value in script.env.items()}
        scene = Scene(self, script, definition, self._workspace(script, number), env)
        with ExitStack() as stack:
            if script.stands_in_for:
                scene.stand_in = of(script.directory.name, env)
                stack.enter_context(serving(scene.stand_in, self.stand_in))
            stack.callback(scene.close)
            yield scene

    def _workspace(self, script: Script, number: int) -> str:
        if script.workspace == "ephemeral":
            return script.workspace
        target = self.home / "workspaces" / f"{script.directory.name}-{number}"
        if script.workspace:
            shutil.copytree(script.directory / script.workspace, target)
        else:
            target.mkdir()
        for path in (target, *target.rglob("*")):
            os.chown(path, OWNER, OWNER)  # a workspace must not be root's
        return str(target)


@dataclass(slots=True)
class Scene:
    """A job to be, with `perstackctl` to drive it. `stand_in` is there when the script wants one."""

    stage: Stage
    script: Script
    definition: Path
    workspace: str
    env: Mapping[str, str]
    stand_in: StandIn | None = None
    job: str = field(default="", init=False)

    def begin(self, provider: str) -> str:
        """Make the job; its id."""
        script = self.script
        options = ["--workspace", self.workspace, *(["--read-only"] if script.read_only else [])]
        self.job = self.ctl("run", script.expert, script.query, "--provider", provider, *options, "--detach").strip()
        return self.job

    @contextmanager
    def watching(self) -> Iterator[Iterator[dict[str, Any]]]:
        """The job's events from the first on, as they happen. They end with the job, or after RUN_SECONDS."""
        command = [str(BIN / "perstackctl"), "job", "watch", self.job, "--output", "json"]
        with subprocess.Popen(command, env=self.stage.environment, stdout=subprocess.PIPE, text=True) as process:
            bound = threading.Timer(RUN_SECONDS, process.kill)
            bound.start()
            try:
                yield (json.loads(line) for line in process.stdout or ())
            finally:
                bound.cancel()
                process.terminate()

    def log(self) -> str:
        """What happened so far, for people."""
        return self.ctl("job", "watch", self.job, "--no-follow", "--output", "text")

    def close(self) -> None:
        """Cancel the job if it has not ended: one that waits would outlive the daemon."""
        if self.job:
            self.ctl("job", "cancel", self.job)

    def questions(self) -> list[dict[str, Any]]:
        """What it asks now."""
        return list(json.loads(self.ctl("job", "questions", self.job, "-o", "json")))

    def answer(self, given: Any) -> None:
        """Answer the one question that is open, as a script says it."""
        self.ctl("job", "answer", self.job, *answer_arguments(given))

    def run(
        self, provider: str, play: Play, on_question: Callable[[dict[str, Any], Any], None] = lambda *_: None
    ) -> list[dict[str, Any]]:
        """The whole job, its questions answered as the play says; its events. `on_question` is told each question and
        what is about to be answered.

        Raises:
            RuntimeError: it asks more than the play answers.
        """
        self.begin(provider)
        answers, seen = list(play.answers), []
        with self.watching() as events:
            for event in events:
                seen.append(event)
                if event["type"] in ASKING:
                    if not answers:
                        raise RuntimeError(f"{play.name} has no answer for {event}")
                    (question,) = self.questions()
                    on_question(question, answers[0])
                    self.answer(answers.pop(0))
        return seen

    def changed(self) -> list[str]:
        """Files at the top of the workspace that the job made."""
        if self.workspace == "ephemeral":
            return []
        source = self.script.workspace and self.script.directory / self.script.workspace
        given = {path.name for path in source.iterdir()} if source else set()
        return sorted(path.name for path in Path(self.workspace).iterdir() if path.name not in given)

    def read(self, name: str) -> str:
        """A file of the workspace. It holds what a sandbox wrote: no link in it is followed."""
        return read_beneath(self.workspace, name, SHOWN_BYTES).decode(errors="replace")

    def ctl(self, *arguments: str) -> str:
        """A command's standard output. Raises RuntimeError with its error."""
        done = subprocess.run(
            [BIN / "perstackctl", *arguments],
            cwd=self.definition,
            env={**self.stage.environment, **self.env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"perstackctl {arguments[0]} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout


def answer_arguments(given: Any) -> list[str]:
    """A script's answer as the arguments of `perstackctl job answer`."""
    match given:
        case str():
            return [given]
        case {"approve": True}:
            return ["--approve"]
        case {"deny": reason}:
            return ["--deny", "--reason", reason]
        case _:
            return ["--json", json.dumps(given)]


@contextmanager
def daemon(
    stage: Stage, models: Mapping[str, Any], turns: Mapping[str, Sequence[Turn]] | None = None
) -> Iterator[None]:
    """A daemon in a process of its own, until the end of the body. `turns` make a provider `scripted`.

    Raises:
        RuntimeError: it does not come up; the message has the end of its log.
    """
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_serve, args=(str(stage.home), {**stage.settings(), **models}, turns))
    process.start()
    try:
        if not wait_for(stage.socket, process.is_alive):
            raise RuntimeError(f"perstackd did not start; its log:\n{(stage.home / 'log').read_text()[-4000:]}")
        yield
    finally:
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, signal.SIGTERM)
        process.join(STOP_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()


def filled(stage: Stage) -> None:
    """Wait until the pools have what they keep warm, or for as long as a start may take."""
    command = [str(BIN / "perstackctl"), "pool", "status", "-o", "json"]
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        said = subprocess.run(command, env=stage.environment, capture_output=True, check=True, timeout=30).stdout
        if all(pool["idle"] >= IDLE[pool["template"]] for pool in json.loads(said)):
            return
        time.sleep(0.1)


def _serve(home: str, settings: dict[str, Any], turns: Mapping[str, Sequence[Turn]] | None) -> None:
    os.setsid()  # Ctrl-C is for the one that plays, which then ends this
    log = os.open(f"{home}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 2)
    run(load(None, settings), None if turns is None else {"scripted": lambda: ScriptedModels(turns)})

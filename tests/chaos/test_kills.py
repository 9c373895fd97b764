"""The daemon is killed at every durable boundary of a job, and the job ends as if it had not been.

`make test` takes a sample of the boundaries, one of each place that writes and more by chance, with a seed that is
in the test's name. PERSTACK_CHAOS=all takes them all, before and after each write; PERSTACK_CHAOS_SEED=N repeats a
sample.
"""

import os
import random
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perstackctl.client import JobState
from tests.chaos.call_sites import call_sites
from tests.chaos.mortal import ANSWER, MADE, Life, Mortal, gapless
from tests.e2e.daemon import docker, one

pytestmark = [pytest.mark.docker, pytest.mark.anyio, pytest.mark.timeout(1800)]
SAMPLE_SECONDS = 45.0
"""How long the sample goes on, but for one of each place."""
SEED = int(os.environ.get("PERSTACK_CHAOS_SEED", "0")) or int(time.time()) % 100_000
ELSEWHERE = {
    "transfer.py:Transfer._keep": "an import writes a job that has ended, at once: nothing is to be taken up",
    "replayed_run.py:ReplayedRun._admit": "tests/unit/app/test_live_replay_restarts.py goes on after each write",
}


@pytest.fixture(scope="module")
async def mortal() -> AsyncIterator[Mortal]:
    with tempfile.TemporaryDirectory(prefix="pc-", dir="/tmp") as directory:
        made = Mortal(Path(directory))
        try:
            peaceful = await made.live()
            check(peaceful, "no plan")
            assert peaceful.deaths == 0
            made.measured = made.boundaries()
            yield made
        finally:
            made.close()


@pytest.fixture(autouse=True)
async def nothing_is_left(mortal: Mortal) -> AsyncIterator[None]:
    yield
    assert await mortal.orphans() == {}


def check(life: Life, plan: str) -> None:
    """Nothing was lost, and nothing was done twice: also nothing that may have been, since its sandboxes lived on."""
    where = f"{plan}: {life.types}"
    assert (life.job.state, life.job.answer) == (JobState.COMPLETED, ANSWER), f"{where} {life.job.error_message}"
    assert gapless(life.events), where
    assert sorted(life.made) == sorted(MADE), where
    assert "interrupted" not in str(life.events), where
    assigned = [event["sandboxId"] for event in life.events if event["type"] == "sandboxAssigned"]
    released = [event["sandboxId"] for event in life.events if event["type"] == "sandboxReleased"]
    assert sorted(assigned) == sorted(released), where
    assert life.types.count("startRun") == 2, where


def plans(mortal: Mortal, seed: int) -> tuple[list[str], list[str]]:
    """One for each place that writes, in the order of a job's life; and all the others, in any order."""
    chance = random.Random(seed)
    by_place: dict[str, list[str]] = {}
    for number, place in mortal.measured:
        by_place.setdefault(place, []).extend((f"before {number} {place}", f"after {number} {place}"))
    sample = [chance.choice(found) for found in by_place.values()]
    rest = [plan for found in by_place.values() for plan in found if plan not in sample]
    chance.shuffle(rest)
    return sample, rest


@pytest.mark.parametrize("seed", [SEED])  # shown in the test's name
async def test_a_daemon_that_is_killed_at_a_durable_boundary_takes_its_job_up_and_nothing_is_done_twice(
    mortal: Mortal, seed: int
) -> None:
    sample, rest = plans(mortal, seed)
    assert len(sample) + len(rest) > 40
    deadline = time.monotonic() + SAMPLE_SECONDS
    deaths = 0
    for place, plan in enumerate([*sample, *rest]):
        if place >= len(sample) and time.monotonic() > deadline and os.environ.get("PERSTACK_CHAOS") != "all":
            break
        life = await mortal.live(plan)
        check(life, plan)
        deaths += life.deaths
    assert deaths >= len(sample) - 1  # it may write less often than when it was measured


@pytest.mark.parametrize("again", ["before 1 any", "before 3 any"])
async def test_a_daemon_that_is_killed_while_it_takes_a_job_up_takes_it_up_later(mortal: Mortal, again: str) -> None:
    first = "after 6 any"  # whichever that is: what writes sixth depends on who was faster
    life = await mortal.live(first, again)
    check(life, f"{first}, {again}")
    assert life.deaths == 2


async def test_a_run_that_lost_a_sandbox_while_no_daemon_was_there_goes_on_in_fresh_ones(mortal: Mortal) -> None:
    killed = await mortal.killed()
    docker("rm", "--force", killed.events[killed.types.index("sandboxAssigned")]["containerId"])
    await mortal.revive()
    ended = await mortal.end(killed)
    assert (ended.job.state, ended.job.answer) == (JobState.COMPLETED, ANSWER)
    assert gapless(ended.events)
    assert len(ended.made) == len(set(ended.made))
    assert ended.types.count("sandboxAssigned") > 4


async def test_a_job_whose_definition_is_gone_ends_with_the_reason(mortal: Mortal) -> None:
    killed = await mortal.killed()
    digest = one(killed.events, "jobCreated")["definitionDigest"].removeprefix("sha256:")
    for blob in (mortal.home / "state/blobs").rglob(f"*{digest[4:]}*"):
        blob.unlink()
    await mortal.revive()
    ended = await mortal.end(killed)
    assert (ended.job.state, ended.job.error_reason) == (JobState.FAILED, "blob_not_found")
    assert gapless(ended.events)


async def test_every_place_that_writes_a_jobs_log_was_a_boundary(mortal: Mortal) -> None:
    """A new call of the log's append has to be lived through as well."""
    seen = {place for _, place in mortal.boundaries()}
    assert call_sites() - seen == set(ELSEWHERE)

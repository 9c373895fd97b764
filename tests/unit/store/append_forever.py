"""Appends events to a job of a store until it is killed; prints each number once the store said that it is durable."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from perstackd.adapters.clock import SystemClock
from perstackd.adapters.store.sqlite import open_store
from perstackd.domain.events import Event, Origin, SkillStderr
from perstackd.domain.ids import EventId, JobId


async def main(state: Path, job_id: JobId) -> None:
    clock = SystemClock()
    async with await open_store(state) as store:
        record = await store.jobs.get(job_id)
        while record is not None:
            seq = record.last_seq + 1
            record = replace(record, last_seq=seq)
            payload = SkillStderr("skill", "text")
            event = Event(EventId(clock.new_id()), seq, record.tenant, job_id, Origin(), clock.now_ms(), payload)
            await store.append(record, [event])
            sys.stdout.write(f"{seq}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), JobId(sys.argv[2])))

"""Changes of keys, beside all that goes on: new data keys for every owner, or another master key above them.

Whatever is written is under a key that is durable by then, and an old key goes after the last value under it. So a
process that dies at any point leaves everything readable, and the next one goes on with what was begun (`resume`).
"""

from dataclasses import dataclass
from typing import Final

import anyio
import anyio.lowlevel
import structlog

from perstackd.app.errors import single_errors
from perstackd.app.secrets import Secrets
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.secret import MAX_SOURCE, DataKey, MasterRotation, SealedEnv
from perstackd.ports.secret_store import SealedEnvs

_BATCH: Final = 16  # a job's values may be megabytes
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Rotated:
    """What was sealed anew, and under which master key all of it is now. `unreadable` jobs' values opened with no key
    and were left as they are.
    """

    secrets: int
    data_keys: int
    jobs: int
    unreadable: int
    key_id: str
    source: str


class SecretRotation:
    """One change at a time."""

    def __init__(self, secrets: Secrets, envs: SealedEnvs) -> None:
        self._secrets = secrets
        self._envs = envs
        self._busy = anyio.Lock()

    async def data_keys(self) -> Rotated:
        """Give each owner a new data key and seal its secrets with it.

        Raises:
            PerstackError: PRECONDITION `rotation_running`, `seal_broken`; UNAVAILABLE `store_unavailable`: what was not
                done stays as it was, and the next rotation does it.
        """
        async with self._alone():
            owners = self._secrets.index.owners()
            count = sum([await self._renew(owner) for owner in owners])
        return self._rotated(secrets=count, data_keys=len(owners))

    async def master_key(self, source: str) -> Rotated:
        """Seal with the master key that is found there, and wrap everything anew with it. The next start of the daemon
        needs its name in the configuration; both keys are needed until this has returned.

        Raises:
            PerstackError: INVALID `master_key_source_invalid`; PRECONDITION `rotation_running`, `master_key_same`; what
                keeps the key from being opened: nothing was changed; UNAVAILABLE `store_unavailable`: what was done
                stays done, and the next start goes on.
        """
        if len(source) > MAX_SOURCE:
            message = f"the name of a master key has at most {MAX_SOURCE} characters"
            raise PerstackError(Kind.INVALID, "master_key_source_invalid", message)
        keys, rows = self._secrets.keys, self._secrets.rows
        async with self._alone():
            old_id, old_source = keys.key_id, keys.source
            new_id = await keys.take(source)
            if new_id == old_id:
                await self._check_unfinished(source)
                return await self._wrap_all()
            async with self._secrets.changing:
                await rows.set_rotation(MasterRotation(old_id, old_source, new_id, source))
                keys.prefer(new_id)
            _log.info("master key changes", old=old_id, new=new_id)
            return await self._wrap_all()

    async def resume(self) -> None:
        """Go on with a change that an earlier process began. Idempotent; for the start, before jobs are taken up."""
        kept = await self._secrets.rows.kept()
        async with self._alone():
            if kept.rotation is not None and set(kept.master_ids) - {self._secrets.keys.key_id}:
                done = await self._wrap_all()
                _log.info("master key change completed", key_id=done.key_id, jobs=done.jobs, data_keys=done.data_keys)
            for owner in self._secrets.index.owners():
                newest = self._secrets.index.data_keys(owner)[-1:]
                if newest and len(self._secrets.index.data_keys(owner)) > 1:
                    await self._move(owner, newest[0])

    # --- data keys --------------------------------------------------------------------------------------------------
    async def _renew(self, owner: str) -> int:
        async with self._secrets.changing:
            key = self._secrets.index.new_data_key(owner, self._secrets.clock.now_ms())
            await self._secrets.write([], [key])
        return await self._move(owner, key)

    async def _move(self, owner: str, key: DataKey) -> int:
        """Seal the owner's secrets with that key, some at a time, so that others get their turn; then drop old keys."""
        index, count = self._secrets.index, 0
        names = [secret.name for secret in index.listed(owner)]
        for first in range(0, len(names), _BATCH):
            async with self._secrets.changing:
                found = [index.get(owner, name) for name in names[first : first + _BATCH]]
                # Not those that were removed, or put again in the meantime.
                old = [secret for secret in found if secret is not None and secret.key_number < key.number]
                await self._secrets.write([index.sealed(secret, key, index.value(secret)) for secret in old])
                count += len(old)
        async with self._secrets.changing:
            with anyio.CancelScope(shield=True):
                await self._secrets.rows.drop_data_keys(owner, key.number)
                index.forget_data_keys(owner, key.number)
        return count

    # --- the master key ---------------------------------------------------------------------------------------------
    async def _wrap_all(self) -> Rotated:
        keys, wrapped = self._secrets.keys, 0
        for owner in self._secrets.index.owners():
            async with self._secrets.changing:
                old = [key for key in self._secrets.index.data_keys(owner) if key.master_id != keys.key_id]
                new = [self._secrets.index.wrapped_anew(key) for key in old]
                await self._secrets.write([], new)
                wrapped += len(new)
        # A job whose values were sealed a moment ago hands them to the store in the loop's next round; what is handed
        # over before the first question below is seen by it.
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        jobs, unreadable = await self._seal_jobs()
        return self._rotated(data_keys=wrapped, jobs=jobs, unreadable=unreadable)

    async def _check_unfinished(self, source: str) -> None:
        """The key is in use already: that is right only where an earlier change to it was interrupted."""
        key_id = self._secrets.keys.key_id
        if not set((await self._secrets.rows.kept()).master_ids) - {key_id}:
            message = f"{source} holds the master key {key_id}, which is in use; make a new one and name its place"
            raise PerstackError(Kind.PRECONDITION, "master_key_same", message)

    async def _seal_jobs(self) -> tuple[int, int]:
        """Page by page; what is written at the same time waits for the disk once. Returns how many were sealed anew,
        and how many could not be.
        """
        after, done, unreadable = "", list[SealedEnv](), 0
        while page := await self._envs.under_others(self._secrets.keys.key_id, after, _BATCH):
            async with single_errors(), anyio.create_task_group() as writes:
                for env in page:
                    sealed = self._sealed_anew(env)
                    unreadable += sealed is None
                    if sealed is not None:
                        writes.start_soon(self._replace, env, sealed, done)
            after = page[-1].job_id
        return len(done), unreadable

    async def _replace(self, env: SealedEnv, sealed: bytes, done: list[SealedEnv]) -> None:
        if await self._envs.replace(env, sealed):  # else its job has ended
            done.append(env)

    def _sealed_anew(self, env: SealedEnv) -> bytes | None:
        """None for what no key opens: one broken record must not keep the others under the old key."""
        keys, context = self._secrets.keys, f"job:{env.job_id}"
        try:
            return keys.seal(keys.open(env.sealed, context), context)
        except PerstackError as error:
            _log.error("the values of a job cannot be sealed anew", job_id=env.job_id, reason=error.reason)
            return None

    def _rotated(self, *, secrets: int = 0, data_keys: int = 0, jobs: int = 0, unreadable: int = 0) -> Rotated:
        keys = self._secrets.keys
        return Rotated(secrets, data_keys, jobs, unreadable, keys.key_id, keys.source)

    def _alone(self) -> "anyio.Lock":
        if self._busy.locked():
            message = "the keys are being changed already; wait for its end"
            raise PerstackError(Kind.PRECONDITION, "rotation_running", message, retryable=True)
        return self._busy

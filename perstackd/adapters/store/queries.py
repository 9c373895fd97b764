"""Every SQL statement of the store but the schema's."""

from collections.abc import Sequence
from typing import Final

INSERT_JOB: Final = """
INSERT INTO jobs (id, tenant, idempotency_key, state, last_seq, record) VALUES (?, ?, ?, ?, ?, ?) RETURNING job_no
"""
INSERT_QUERY: Final = "INSERT INTO queries (job_no, query) VALUES (?, ?)"
INSERT_SEALED: Final = "INSERT INTO sealed_envs (job_no, sealed) VALUES (?, ?)"
SELECT_PLACE: Final = "SELECT job_no, last_seq FROM jobs WHERE id = ? AND tenant = ?"
UPDATE_JOB: Final = "UPDATE jobs SET last_seq = ?, record = ? WHERE job_no = ?"
# Apart, so that the index over states is written only when the state changes.
UPDATE_STATE: Final = "UPDATE jobs SET state = ?1 WHERE job_no = ?2 AND state <> ?1"

SELECT_ORIGIN: Final = """
SELECT origin_no FROM origins WHERE job_no = ? AND run_id = ? AND parent_run_id = ? AND expert_key = ?
"""
INSERT_ORIGIN: Final = """
INSERT INTO origins (job_no, run_id, parent_run_id, expert_key) VALUES (?, ?, ?, ?) RETURNING origin_no
"""
INSERT_EVENT: Final = """
INSERT INTO events (place, id, origin_no, step, timestamp, schema, document) VALUES (?, ?, ?, ?, ?, ?, ?)
"""
SELECT_TENANT: Final = "SELECT job_no, tenant FROM jobs WHERE id = ?"
SELECT_EVENTS: Final = """
SELECT place, events.id, events.origin_no, step, timestamp, schema, document, run_id, parent_run_id, expert_key
FROM events JOIN origins USING (origin_no) WHERE place > ? AND place <= ? ORDER BY place LIMIT ?
"""

_RECORDS: Final = "SELECT record, query FROM jobs JOIN queries USING (job_no)"
SELECT_JOB: Final = f"{_RECORDS} WHERE id = ?"
SELECT_JOB_BY_KEY: Final = f"{_RECORDS} WHERE tenant = ? AND idempotency_key = ? AND idempotency_key <> ''"
SELECT_ID_BY_KEY: Final = "SELECT id FROM jobs WHERE tenant = ? AND idempotency_key = ? AND idempotency_key <> ''"
SELECT_SEALED: Final = "SELECT sealed FROM sealed_envs JOIN jobs USING (job_no) WHERE id = ?"
DELETE_SEALED: Final = "DELETE FROM sealed_envs WHERE job_no = ?"

INSERT_BLOB_USE: Final = "INSERT OR IGNORE INTO blob_uses (job_no, digest) VALUES (?, ?)"
SELECT_BLOB_USED: Final = "SELECT 1 FROM blob_uses WHERE digest = ? LIMIT 1"
SELECT_BLOB_USES: Final = "SELECT DISTINCT digest FROM blob_uses ORDER BY digest"
SELECT_JOB_BLOBS: Final = "SELECT digest FROM blob_uses JOIN jobs USING (job_no) WHERE id = ? ORDER BY digest"
SELECT_STATE: Final = "SELECT job_no, state FROM jobs WHERE id = ?"
DELETE_EVENTS: Final = "DELETE FROM events WHERE place > ? AND place <= ?"
DELETE_JOB: Final = "DELETE FROM jobs WHERE job_no = ?"  # the rest of it goes by its foreign keys

UPSERT_SANDBOX: Final = """
INSERT INTO sandboxes (id, created_at, record) VALUES (?, ?, ?)
ON CONFLICT (id) DO UPDATE SET created_at = excluded.created_at, record = excluded.record
"""
DELETE_SANDBOX: Final = "DELETE FROM sandboxes WHERE id = ?"
SELECT_SANDBOXES: Final = "SELECT record FROM sandboxes ORDER BY created_at, id"


def select_page(
    tenant: str | None, states: Sequence[str], before: str | None, limit: int
) -> tuple[str, list[str | int]]:
    """The statement and parameters of a page of jobs, newest first; only placeholders vary in the text."""
    terms: list[tuple[str, list[str | int]]] = []
    if tenant is not None:
        terms.append(("tenant = ?", [tenant]))
    if states:
        terms.append((f"state IN ({', '.join('?' * len(states))})", list(states)))
    if before is not None:
        terms.append(("id < ?", [before]))
    where = f" WHERE {' AND '.join(term for term, _ in terms)}" if terms else ""
    values = [value for _, own in terms for value in own]
    return f"{_RECORDS}{where} ORDER BY id DESC LIMIT ?", [*values, max(limit, 0)]

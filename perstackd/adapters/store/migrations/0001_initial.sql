-- A record is the canonical JSON of what the columns beside it do not say; the tenant of an event is its job's.
CREATE TABLE jobs (
    job_no INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    state TEXT NOT NULL,
    last_seq INTEGER NOT NULL,
    record TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX jobs_by_key ON jobs (tenant, idempotency_key) WHERE idempotency_key <> '';
CREATE INDEX jobs_by_tenant ON jobs (tenant, id);
CREATE INDEX jobs_by_state ON jobs (state, id);

-- Apart from the record, which is written with every append: a query can be long and does not change.
CREATE TABLE queries (
    job_no INTEGER PRIMARY KEY REFERENCES jobs (job_no) ON DELETE CASCADE,
    query TEXT NOT NULL
) STRICT;

CREATE TABLE sealed_envs (
    job_no INTEGER PRIMARY KEY REFERENCES jobs (job_no) ON DELETE CASCADE,
    sealed BLOB NOT NULL
) STRICT;

-- What the events of one run have in common.
CREATE TABLE origins (
    origin_no INTEGER PRIMARY KEY,
    job_no INTEGER NOT NULL REFERENCES jobs (job_no) ON DELETE CASCADE,
    run_id TEXT NOT NULL,
    parent_run_id TEXT NOT NULL,
    expert_key TEXT NOT NULL,
    UNIQUE (job_no, run_id, parent_run_id, expert_key)
) STRICT;

-- place is job_no * 2^32 + seq: a job's events lie side by side, in order, without a second index.
CREATE TABLE events (
    place INTEGER PRIMARY KEY,
    id ANY NOT NULL, -- 16 bytes of a ULID; another form as its text
    origin_no INTEGER NOT NULL, -- of origins; no foreign key, which would need an index as large as the log
    step INTEGER NOT NULL,
    timestamp INTEGER NOT NULL,
    schema INTEGER NOT NULL,
    document BLOB NOT NULL -- canonical JSON; its "type" is the event's
) STRICT;

CREATE TABLE sandboxes (
    id TEXT PRIMARY KEY,
    created_at INTEGER NOT NULL,
    record TEXT NOT NULL
) STRICT;

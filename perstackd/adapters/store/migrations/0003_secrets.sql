-- Values that outlive jobs. An owner is a tenant (tenant:ID) or `providers`. `wrapped` is a data key under the master key
-- of `master_id`; `sealed` is a value under the data key of its owner and number.
CREATE TABLE data_keys (
    owner TEXT NOT NULL,
    number INTEGER NOT NULL,
    master_id TEXT NOT NULL,
    wrapped BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (owner, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE secrets (
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    experts TEXT NOT NULL, -- JSON list of expert keys; empty means all of the tenant
    key_number INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (owner, name),
    FOREIGN KEY (owner, key_number) REFERENCES data_keys (owner, number)
) STRICT;

-- A change of the master key that is under way, or done and not in the configuration yet; at most one row.
CREATE TABLE master_rotation (
    place INTEGER PRIMARY KEY CHECK (place = 1),
    from_id TEXT NOT NULL,
    from_source TEXT NOT NULL,
    to_id TEXT NOT NULL,
    to_source TEXT NOT NULL
) STRICT;

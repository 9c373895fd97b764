-- Which jobs need a blob: written with the event that refers to it, gone with the job.
CREATE TABLE blob_uses (
    job_no INTEGER NOT NULL REFERENCES jobs (job_no) ON DELETE CASCADE,
    digest TEXT NOT NULL,
    PRIMARY KEY (job_no, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX blob_uses_by_digest ON blob_uses (digest);

INSERT OR IGNORE INTO blob_uses (job_no, digest)
SELECT job_no, json_extract(record, '$.definitionDigest') FROM jobs
WHERE json_extract(record, '$.definitionDigest') LIKE 'sha256:%';

-- Every text under a key named digest: perhaps more than blobs, never less.
INSERT OR IGNORE INTO blob_uses (job_no, digest)
SELECT place >> 32, found.value FROM events, json_tree(CAST(document AS TEXT)) AS found
WHERE found.key = 'digest' AND found.type = 'text' AND found.value LIKE 'sha256:%'
AND EXISTS (SELECT 1 FROM jobs WHERE job_no = place >> 32);

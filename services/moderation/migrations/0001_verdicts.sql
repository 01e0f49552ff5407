-- One verdict per message, for ever: the row holds the result as it was signed, byte for byte (json keeps its text).
CREATE TABLE verdicts (
    message_id uuid PRIMARY KEY,
    account_id text NOT NULL,
    action text NOT NULL CHECK (action IN ('allow', 'hold', 'block')),
    clauses text[] NOT NULL,
    degraded text[] NOT NULL,
    policy text NOT NULL,
    screened_at timestamptz NOT NULL,
    statement json NOT NULL,
    proof json NOT NULL
);

-- Records that no genuine instruction stands behind; counted, never opened, never passed on.
CREATE TABLE unauthorised (
    topic text NOT NULL,
    record_partition integer NOT NULL,
    record_offset bigint NOT NULL,
    event_id text NOT NULL,
    account_id text,
    reason text NOT NULL,
    seen_at timestamptz NOT NULL,
    PRIMARY KEY (topic, record_partition, record_offset)
);

CREATE INDEX unauthorised_by_time ON unauthorised (seen_at DESC);

-- Messages that a person must look at. The sealed content stays only as long as somebody may have to; nobody opens it
-- but through the vault, which writes the case down.
CREATE TABLE cases (
    case_id uuid PRIMARY KEY,
    message_id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('hold', 'report')),
    account_id text NOT NULL,
    tool text NOT NULL,
    clauses text[] NOT NULL,
    severity smallint NOT NULL,
    likeness text NOT NULL,
    recipient_token text NOT NULL,
    instruction_digest text NOT NULL,
    content_digest text NOT NULL,
    capsule bytea,
    content bytea,
    opened_at timestamptz NOT NULL,
    due_at timestamptz NOT NULL,
    not_after timestamptz NOT NULL,
    state text NOT NULL CHECK (state IN ('waiting', 'second', 'decided', 'ended')),
    first_reviewer text,
    claimed_by text,
    claim_until timestamptz,
    closed_at timestamptz,
    UNIQUE (message_id, kind),
    CHECK ((claimed_by IS NULL) = (claim_until IS NULL)),
    CHECK (content IS NULL OR state IN ('waiting', 'second'))
);
ALTER TABLE cases ALTER COLUMN content SET STORAGE EXTERNAL;
CREATE INDEX cases_open ON cases (due_at) WHERE state IN ('waiting', 'second');

-- How many messages of an account were held for the same thing: what a single decision is worth.
CREATE TABLE likenesses (
    likeness text PRIMARY KEY,
    messages integer NOT NULL,
    seen_at timestamptz NOT NULL
);

-- What people decided: the first round counts, the second is blind and measures how far people agree.
CREATE TABLE decisions (
    case_id uuid NOT NULL,
    round smallint NOT NULL CHECK (round IN (1, 2)),
    reviewer text NOT NULL,
    decision text NOT NULL CHECK (decision IN ('release', 'block')),
    clause text,
    reason text NOT NULL,
    decided_at timestamptz NOT NULL,
    PRIMARY KEY (case_id, round),
    UNIQUE (case_id, reviewer)
);
CREATE INDEX decisions_by_time ON decisions (decided_at);

-- Later words on verdicts, as they were signed.
CREATE TABLE revisions (
    message_id uuid NOT NULL,
    revision integer NOT NULL,
    account_id text NOT NULL,
    action text NOT NULL CHECK (action IN ('allow', 'block')),
    cause text NOT NULL CHECK (cause IN ('person', 'list')),
    signal text,
    statement json NOT NULL,
    proof json NOT NULL,
    revised_at timestamptz NOT NULL,
    PRIMARY KEY (message_id, revision)
);

CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    key bytea NOT NULL,
    value bytea NOT NULL,
    headers jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

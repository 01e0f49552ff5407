-- A complaint holds nothing about the person who complained; that will live in the vault.
CREATE TABLE complaints (
    id uuid PRIMARY KEY,
    account_id text NOT NULL CHECK (length(account_id) BETWEEN 1 AND 100),
    clause text NOT NULL,
    category text NOT NULL,
    origin text NOT NULL,
    message_id uuid,
    state text NOT NULL DEFAULT 'received' CHECK (state IN ('received', 'confirmed', 'dismissed')),
    received_at timestamptz NOT NULL,
    idempotency_digest bytea UNIQUE,
    request_digest bytea NOT NULL,
    decided_at timestamptz,
    decision_reason text CHECK (length(decision_reason) <= 500),
    asked text,
    outcome text,
    standing text,
    revision bigint,
    CONSTRAINT decided_once CHECK ((state = 'received') = (decided_at IS NULL)),
    CONSTRAINT confirmed_has_a_standing CHECK ((state = 'confirmed') = (revision IS NOT NULL))
);
CREATE INDEX complaints_received ON complaints (account_id, id) WHERE state = 'received';
CREATE INDEX complaints_by_account ON complaints (account_id, id);

-- What holds now, one row per account; the row's lock is what puts decisions in order.
CREATE TABLE standings (
    account_id text PRIMARY KEY CHECK (length(account_id) BETWEEN 1 AND 100),
    standing text NOT NULL CHECK (standing IN ('good', 'warned', 'limited', 'suspended', 'blocked')),
    decided_by text NOT NULL CHECK (decided_by IN ('person', 'machine')),
    floor text NOT NULL CHECK (floor IN ('good', 'warned', 'limited', 'suspended', 'blocked')),
    revision bigint NOT NULL CHECK (revision >= 0)
);

-- Every revision that ever was; never updated.
CREATE TABLE standing_changes (
    account_id text NOT NULL REFERENCES standings,
    revision bigint NOT NULL CHECK (revision > 0),
    standing text NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('tightened', 'loosened', 'restated')),
    decided_by text NOT NULL,
    clause text,
    reason text NOT NULL CHECK (length(reason) <= 500),
    complaint_id uuid REFERENCES complaints,
    since timestamptz NOT NULL,
    PRIMARY KEY (account_id, revision)
);

CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    key bytea NOT NULL,
    value bytea NOT NULL,
    headers jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

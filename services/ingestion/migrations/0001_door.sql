-- The door: who may instruct, what was instructed, and how far each message has come.
-- Persons appear as opaque ids only; what could name them lives in the vault.

CREATE TABLE accounts (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE users (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES accounts,
    role text NOT NULL CHECK (role IN ('administrator', 'user')),
    active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX users_of_account ON users (account_id);

CREATE TABLE grants (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users,
    granter_id uuid NOT NULL REFERENCES users,
    tools text[] NOT NULL,
    ends_at timestamptz,
    granted_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX grants_of_user ON grants (user_id);

CREATE TABLE api_keys (
    digest bytea PRIMARY KEY CHECK (octet_length(digest) = 32),
    user_id uuid NOT NULL REFERENCES users,
    prefix text NOT NULL,
    expires_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE rules_acceptances (
    account_id uuid NOT NULL REFERENCES accounts,
    version text NOT NULL,
    text_digest text NOT NULL,
    user_id uuid NOT NULL REFERENCES users,
    accepted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, version, text_digest)
);

CREATE TABLE inboxes (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES accounts,
    tool text NOT NULL,
    address text NOT NULL,
    display_name text,
    UNIQUE (account_id, tool, address)
);

-- From enforcement; of two records the one with the higher revision holds.
CREATE TABLE standings (
    account_id uuid PRIMARY KEY,
    standing text NOT NULL CHECK (standing IN ('good', 'warned', 'limited', 'suspended', 'blocked')),
    revision bigint NOT NULL,
    since timestamptz NOT NULL
);

-- Written once, never updated: what changes about a message stands in message_steps and awaiting_receipt.
-- idempotency_key is the SHA-256 of the caller's key, fingerprint that of the whole item.
CREATE TABLE messages (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    idempotency_key bytea,
    fingerprint bytea NOT NULL,
    tool text NOT NULL,
    inbox_id uuid NOT NULL,
    recipient_token text NOT NULL,
    content_digest text NOT NULL,
    instruction_digest text NOT NULL,
    signed_instruction text NOT NULL,
    reference text,
    admitted_at timestamptz NOT NULL,
    UNIQUE (account_id, idempotency_key)
);

-- Messages that routing has not told anything about yet: a small table beside a large one.
CREATE TABLE awaiting_receipt (
    message_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    admitted_at timestamptz NOT NULL
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX awaiting_receipt_by_time ON awaiting_receipt (admitted_at);

-- How far routing has come: the admission of the youngest message with a receipt. One row.
CREATE TABLE road_progress (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    receipted_until timestamptz NOT NULL
) WITH (fillfactor = 10);
INSERT INTO road_progress (receipted_until) VALUES ('-infinity');

CREATE TABLE message_steps (
    message_id uuid NOT NULL,
    sequence integer NOT NULL,
    state text NOT NULL,
    reason text NOT NULL,
    attempt integer,
    provider text,
    reply_code integer,
    occurred_at timestamptz NOT NULL,
    PRIMARY KEY (message_id, sequence)
);

CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    key bytea NOT NULL,
    value bytea NOT NULL,
    headers jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
) WITH (toast_tuple_target = 8160, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE outbox ALTER COLUMN value SET STORAGE EXTERNAL;

-- Records of other services that could not prove where they come from.
CREATE TABLE unauthorised (
    topic text NOT NULL,
    record_partition integer NOT NULL,
    record_offset bigint NOT NULL,
    event_id text NOT NULL,
    reason text NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, record_partition, record_offset)
);

-- Deliveries, their attempts and receipts. Mutable state stands apart from the sealed content. There are no foreign keys:
-- every row of contents and attempts is written by the statement that writes its delivery.

CREATE TABLE standings (
    account_id text PRIMARY KEY,
    standing text NOT NULL DEFAULT 'good'
        CHECK (standing IN ('good', 'warned', 'limited', 'suspended', 'blocked')),
    revision bigint NOT NULL DEFAULT 0,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    -- when it was certain that no call under an earlier standing is open (rule barrier)
    in_force_at timestamptz
);

CREATE TABLE deliveries (
    message_id uuid PRIMARY KEY,
    account_id text NOT NULL,
    recipient_token text NOT NULL,
    tool text NOT NULL,
    instruction_digest text NOT NULL,
    content_digest text NOT NULL,
    state text NOT NULL CHECK (state IN ('planned', 'handing', 'held', 'in_doubt', 'handed_over', 'delivered',
        'refused', 'withheld', 'expired')),
    reason text NOT NULL,
    epoch integer NOT NULL DEFAULT 0,
    lease_until timestamptz,
    round integer NOT NULL DEFAULT 0,
    sequence integer NOT NULL DEFAULT 0,
    attempts integer NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL,
    not_after timestamptz NOT NULL,
    duplicates_allowed boolean NOT NULL,
    admitted_at timestamptz NOT NULL,
    planned_at timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((state = 'handing') = (lease_until IS NOT NULL))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX deliveries_due ON deliveries (due_at) WHERE state = 'planned';
CREATE INDEX deliveries_leased ON deliveries (lease_until) WHERE state = 'handing';
CREATE INDEX deliveries_ending ON deliveries (not_after) WHERE state IN ('planned', 'held');
CREATE INDEX deliveries_waiting ON deliveries (account_id) WHERE state IN ('planned', 'held');
CREATE INDEX deliveries_in_doubt ON deliveries (changed_at) WHERE state = 'in_doubt';

-- The record as it came over Kafka: signed instruction, signed verdict, sealed content. It is verified again whenever
-- it is read back, so that a row alone can never send anything.
CREATE TABLE contents (
    message_id uuid PRIMARY KEY,
    event bytea NOT NULL,
    traceparent bytea
) WITH (toast_tuple_target = 8160);
ALTER TABLE contents ALTER COLUMN event SET STORAGE EXTERNAL;

CREATE TABLE attempts (
    message_id uuid NOT NULL,
    number integer NOT NULL,
    epoch integer NOT NULL,
    round integer NOT NULL,
    provider text NOT NULL,
    result text NOT NULL CHECK (result IN ('open', 'accepted', 'refused', 'later', 'unreached', 'doubt')),
    reason text,
    reply_code integer,
    reply_sealed bytea,
    begun_at timestamptz NOT NULL DEFAULT now(),
    settled_at timestamptz,
    PRIMARY KEY (message_id, number)
) WITH (fillfactor = 80);
CREATE INDEX attempts_open ON attempts (message_id) WHERE result = 'open';

CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    key bytea NOT NULL,
    value bytea NOT NULL,
    headers jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- What came over Kafka without a valid instruction and verdict. Nothing of it is handed over.
CREATE TABLE unauthorised (
    topic text NOT NULL,
    record_partition integer NOT NULL,
    record_offset bigint NOT NULL,
    event_id text,
    reason text NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, record_partition, record_offset)
);

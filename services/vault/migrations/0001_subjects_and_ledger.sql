-- Keys. The root key is outside the database; it wraps the key-encryption keys (one per account and epoch) and the
-- secret behind an account's blind indexes, which does not change with the epochs.
CREATE TABLE account_keys (
    account_id text NOT NULL,
    epoch integer NOT NULL CHECK (epoch > 0),
    wrapped bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, epoch)
);

CREATE TABLE account_index_secrets (
    account_id text PRIMARY KEY,
    wrapped bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Data subjects: recipients, per account. Fields are ciphertext under the subject's own key.
CREATE TABLE subjects (
    token text PRIMARY KEY,
    account_id text NOT NULL,
    address_index bytea NOT NULL CHECK (octet_length(address_index) = 16),
    address bytea NOT NULL,
    name bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (account_id, address_index)
) WITH (fillfactor = 90);

-- The epoch stands in the primary key so that this table can become one partition of many: erasure in depth re-wraps
-- the surviving keys into a new partition and drops the old one. No foreign key, for the same reason.
CREATE TABLE data_keys (
    token text NOT NULL,
    epoch integer NOT NULL,
    account_id text NOT NULL,
    wrapped bytea NOT NULL,
    PRIMARY KEY (token, epoch)
);

-- Who may be given which fields for a hand-over. Mirrors the processors file at each start.
CREATE TABLE processors (
    name text PRIMARY KEY,
    tool text NOT NULL,
    fields text[] NOT NULL,
    approved boolean NOT NULL,
    country text NOT NULL,
    purpose text NOT NULL,
    loaded_at timestamptz NOT NULL DEFAULT now()
);

-- The disclosure ledger: one row per disclosure, never changed. `fields` is a bit set: address 1, name 2.
CREATE TABLE disclosures (
    id bigint GENERATED ALWAYS AS IDENTITY,
    asked_at timestamptz NOT NULL DEFAULT now(),
    message_id text NOT NULL,
    account_id text NOT NULL,
    token text NOT NULL,
    provider text NOT NULL,
    fields smallint NOT NULL,
    purpose text NOT NULL,
    legal_basis text NOT NULL,
    instruction_digest text NOT NULL,
    epoch integer NOT NULL,
    attempt integer NOT NULL,
    caller text NOT NULL,
    PRIMARY KEY (asked_at, id)
);
CREATE INDEX disclosures_of_message ON disclosures (message_id);

-- What the vault knows of an instruction: the highest epoch it served, and whether it is spent. A spent row names the
-- ledger entry that the receipt acknowledged.
CREATE TABLE instructions (
    message_id text PRIMARY KEY,
    epoch integer NOT NULL,
    spent_at timestamptz,
    spent_state text,
    spent_entry bigint,
    spent_entry_asked_at timestamptz
) WITH (fillfactor = 80);

-- One row per call, never changed. Items that were not answered carried a problem each.
CREATE TABLE access_log (
    id bigint GENERATED ALWAYS AS IDENTITY,
    at timestamptz NOT NULL DEFAULT now(),
    caller text NOT NULL,
    operation text NOT NULL,
    purpose text,
    case_id text,
    outcome text NOT NULL CHECK (outcome IN ('answered', 'refused')),
    items integer NOT NULL,
    answered integer NOT NULL CHECK (answered BETWEEN 0 AND items),
    PRIMARY KEY (at, id)
);

-- Records that claimed an authority they did not have, each counted once however often it is read.
CREATE TABLE unauthorised (
    topic text NOT NULL,
    partition integer NOT NULL,
    record_offset bigint NOT NULL,
    event_id text NOT NULL,
    reason text NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, partition, record_offset)
);

-- The ledger and the access log only grow: the runtime role cannot change what it wrote.
DO $$
DECLARE grantee_name text;
BEGIN
    FOR grantee_name IN
        SELECT DISTINCT grantee FROM information_schema.role_table_grants
        WHERE table_schema = 'public' AND table_name IN ('disclosures', 'access_log') AND grantee <> current_user
    LOOP
        EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON disclosures, access_log FROM %I', grantee_name);
    END LOOP;
END $$;

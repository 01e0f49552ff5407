-- The vault's second form: a KEK per account under an epoch key that lives outside the database, data keys partitioned
-- by epoch, persons of several kinds with more fields, row-level security by account, one log row a call with a salt and
-- a digest over the ledger rows that belong to it.
DO $$
BEGIN
    IF EXISTS (SELECT FROM subjects) THEN
        RAISE EXCEPTION 'this vault holds recipients of its first form, whose keys cannot be carried over; start with an empty database (waystation down --wipe)';
    END IF;
END $$;
DROP TABLE account_keys, account_index_secrets, subjects, data_keys, processors, disclosures, instructions, access_log;

-- Accounts, with the secrets behind their blind indexes and their suppression list, wrapped by the standing key.
CREATE TABLE accounts (
    account_id text PRIMARY KEY,
    index_secret bytea NOT NULL,
    suppression_secret bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Key-encryption keys of accounts, wrapped by the key of their epoch, which is a file outside of this database.
CREATE TABLE account_keys (
    account_id text NOT NULL,
    epoch integer NOT NULL CHECK (epoch > 0),
    wrapped bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, epoch)
);

-- Persons. Fields are ciphertext under the person's own key; the identity index is a keyed hash of kind and address (or
-- phone). `flags` holds what stops a disclosure: zero for nearly everybody.
CREATE TABLE subjects (
    token text PRIMARY KEY,
    account_id text NOT NULL,
    kind text NOT NULL,
    identity_index bytea NOT NULL CHECK (octet_length(identity_index) = 16),
    phone_index bytea CHECK (octet_length(phone_index) = 16),
    address bytea,
    name bytea,
    phone bytea,
    postal_address bytea,
    language bytea,
    time_zone bytea,
    flags smallint NOT NULL DEFAULT 0,
    used_on date NOT NULL DEFAULT current_date,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (identity_index, account_id)
) WITH (fillfactor = 90);
CREATE INDEX subjects_by_phone ON subjects (account_id, phone_index) WHERE phone_index IS NOT NULL;

-- A person's wrapped data key, in the partition of its epoch: an epoch's end re-wraps what survives into the next
-- partition and drops this one.
CREATE TABLE data_keys (
    token text NOT NULL,
    epoch integer NOT NULL,
    account_id text NOT NULL,
    wrapped bytea NOT NULL,
    PRIMARY KEY (token, epoch)
) PARTITION BY LIST (epoch);

CREATE TABLE epochs (
    epoch integer PRIMARY KEY CHECK (epoch > 0),
    began_at timestamptz NOT NULL DEFAULT now(),
    destroyed_at timestamptz
);

-- Processors (Service providers) and the fields that their contracts name, as a bit set.
CREATE TABLE processors (
    name text PRIMARY KEY,
    tool text NOT NULL,
    fields smallint NOT NULL,
    approved boolean NOT NULL,
    country text NOT NULL,
    purpose text NOT NULL,
    loaded_at timestamptz NOT NULL DEFAULT now()
);

-- The access log: one row a call, never changed. `digest` covers the ledger rows of the call, `messages` names what a
-- person opened; the salt keeps a leaf of the log's tree from telling its content.
CREATE TABLE access_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    caller text NOT NULL,
    operation text NOT NULL,
    purpose text,
    case_id text,
    user_id text,
    provider text,
    outcome text NOT NULL CHECK (outcome IN ('answered', 'refused')),
    items integer NOT NULL,
    answered integer NOT NULL CHECK (answered BETWEEN 0 AND items),
    touched text[],
    digest bytea,
    salt bytea NOT NULL DEFAULT uuid_send(gen_random_uuid())
);
CREATE INDEX access_log_by_provider ON access_log (provider, at) INCLUDE (id) WHERE provider IS NOT NULL;

-- The disclosure ledger: one row per disclosure, never changed, clustered by the call that made it; provider, purpose,
-- caller and time stand in the call's row. `fields` is a bit set.
CREATE TABLE disclosures (
    call_id bigint NOT NULL,
    ordinal smallint NOT NULL,
    account_id text NOT NULL,
    message_id text NOT NULL,
    token text NOT NULL,
    fields smallint NOT NULL,
    legal_basis text NOT NULL,
    instruction_digest text NOT NULL,
    epoch integer NOT NULL,
    attempt integer NOT NULL,
    PRIMARY KEY (call_id, ordinal)
);
CREATE INDEX disclosures_of_message ON disclosures (message_id);
CREATE INDEX disclosures_of_person ON disclosures (token);

-- What the vault knows of an instruction: the highest epoch it served, and whether it is spent, by which entry.
CREATE TABLE instructions (
    account_id text NOT NULL,
    message_id text NOT NULL,
    epoch integer NOT NULL,
    spent_at timestamptz,
    spent_state text,
    spent_call bigint,
    spent_ordinal smallint,
    PRIMARY KEY (account_id, message_id)
) WITH (fillfactor = 80);

-- Row-level security, for the owner as well: a transaction sees the accounts it named (`vault.accounts`, names joined
-- by the unit separator), the whole when it said `*`, and nothing when it said nothing.
DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['accounts', 'account_keys', 'subjects', 'data_keys', 'disclosures', 'instructions'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format($policy$
            CREATE POLICY scope ON %I USING (
                account_id = ANY ((SELECT string_to_array(current_setting('vault.accounts', true), chr(31)))::text[])
                OR (SELECT current_setting('vault.accounts', true)) = '*')
            $policy$, name);
    END LOOP;
END $$;

-- The runtime role is no owner and makes no tables: an epoch's partition is made and dropped by these functions, and
-- rows of a partition are reached through `data_keys` only.
CREATE FUNCTION make_epoch(number integer) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN
    EXECUTE format('CREATE TABLE IF NOT EXISTS data_keys_%s PARTITION OF data_keys FOR VALUES IN (%s)', number, number);
    EXECUTE format('ALTER TABLE data_keys_%s ENABLE ROW LEVEL SECURITY', number);
    EXECUTE format('ALTER TABLE data_keys_%s FORCE ROW LEVEL SECURITY', number);
    INSERT INTO epochs (epoch) VALUES (number) ON CONFLICT DO NOTHING;
END $$;

SELECT make_epoch(1);

-- The ledger and the access log only grow: the runtime role cannot change what it wrote, nor say which epochs there are.
REVOKE EXECUTE ON FUNCTION make_epoch FROM PUBLIC;
DO $$
DECLARE grantee_name text;
BEGIN
    FOR grantee_name IN
        SELECT DISTINCT grantee FROM information_schema.role_table_grants
        WHERE table_schema = 'public' AND table_name IN ('disclosures', 'access_log') AND grantee <> current_user
    LOOP
        EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON disclosures, access_log FROM %I', grantee_name);
        EXECUTE format('REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON epochs FROM %I', grantee_name);
        EXECUTE format('GRANT EXECUTE ON FUNCTION make_epoch TO %I', grantee_name);
    END LOOP;
END $$;

-- Legal bases per person and purpose. A row is never taken back, only ended: by withdrawal or by its own date.
CREATE TABLE bases (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id text NOT NULL,
    token text NOT NULL,
    purpose text NOT NULL,
    kind text NOT NULL,
    attested boolean NOT NULL,
    text_digest text,
    language text,
    source text,
    given_at timestamptz NOT NULL,
    expires_at timestamptz,
    withdrawn_at timestamptz,
    recorded_by text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX bases_of_person ON bases (token, purpose, kind, id);

-- Opt-outs by tool, as a keyed hash of the address under a key of their own: they outlive the person's erasure.
CREATE TABLE suppressions (
    account_id text NOT NULL,
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    tool text NOT NULL,
    reason text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (hash, account_id)
);

-- Accounts that do not want a processor to have their people's data.
CREATE TABLE objections (
    account_id text NOT NULL,
    processor text NOT NULL,
    reason text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, processor)
);

-- The register says from when an approval holds (a notice period is over), who works for the processor, and why it gets
-- each field.
ALTER TABLE processors
    ADD COLUMN approved_from date NOT NULL DEFAULT '2000-01-01',
    ADD COLUMN sub_processors text[] NOT NULL DEFAULT '{}',
    ADD COLUMN transfer text NOT NULL DEFAULT '',
    ADD COLUMN reasons text NOT NULL DEFAULT '';

-- Events on their way to Kafka.
CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    key bytea NOT NULL,
    value bytea NOT NULL,
    headers jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['bases', 'suppressions', 'objections'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format($policy$
            CREATE POLICY scope ON %I USING (
                account_id = ANY ((SELECT string_to_array(current_setting('vault.accounts', true), chr(31)))::text[])
                OR (SELECT current_setting('vault.accounts', true)) = '*')
            $policy$, name);
    END LOOP;
END $$;

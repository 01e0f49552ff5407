-- Erasure in depth. A row here says that a token was a person's and is nobody's any more; the same stands, for every
-- restore to find, in the compacted topic vault.erasures.
CREATE TABLE erasures (
    token text PRIMARY KEY,
    account_id text NOT NULL,
    erased_at timestamptz NOT NULL,
    reason text NOT NULL,
    asked_by text NOT NULL,
    epoch integer NOT NULL
);

-- How many erasures this database knows: a database that was put back to earlier knows fewer than its vault has seen.
CREATE TABLE erasure_count (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    erased bigint NOT NULL DEFAULT 0
);
INSERT INTO erasure_count DEFAULT VALUES;

-- What has to be told to a provider that received a person (Art. 19 GDPR), until somebody says that it was.
CREATE TABLE notification_tasks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id text NOT NULL,
    token text NOT NULL,
    provider text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('erasure', 'rectification', 'restriction')),
    made_at timestamptz NOT NULL DEFAULT now(),
    due_at timestamptz NOT NULL DEFAULT now() + interval '30 days',
    done_at timestamptz,
    evidence text,
    UNIQUE (token, provider, kind, made_at)
);
CREATE INDEX notification_tasks_open ON notification_tasks (due_at) WHERE done_at IS NULL;

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['erasures', 'notification_tasks'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format($policy$
            CREATE POLICY scope ON %I USING (
                account_id = ANY ((SELECT string_to_array(current_setting('vault.accounts', true), chr(31)))::text[])
                OR (SELECT current_setting('vault.accounts', true)) = '*')
            $policy$, name);
    END LOOP;
END $$;

-- Drops an epoch's partition when no data key is left in it, with the account keys of that epoch; says whether it did.
CREATE FUNCTION drop_epoch(number integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public SET lock_timeout = '2s' AS $$
BEGIN
    IF number >= (SELECT max(epoch) FROM epochs) THEN
        RAISE EXCEPTION 'epoch % is the newest one: begin another before it ends', number;
    END IF;
    PERFORM set_config('vault.accounts', '*', true);
    LOCK TABLE data_keys IN ACCESS EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM data_keys WHERE epoch = number) THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE IF EXISTS data_keys_%s', number);
    DELETE FROM account_keys WHERE epoch = number;
    UPDATE epochs SET destroyed_at = now() WHERE epoch = number AND destroyed_at IS NULL;
    RETURN true;
END $$;

REVOKE EXECUTE ON FUNCTION drop_epoch FROM PUBLIC;
DO $$
DECLARE grantee_name text;
BEGIN
    FOR grantee_name IN
        SELECT DISTINCT grantee FROM information_schema.role_table_grants
        WHERE table_schema = 'public' AND table_name = 'erasures' AND grantee <> current_user
    LOOP
        EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON erasures FROM %I', grantee_name);
        EXECUTE format('REVOKE DELETE, TRUNCATE ON notification_tasks, erasure_count FROM %I', grantee_name);
        EXECUTE format('GRANT EXECUTE ON FUNCTION drop_epoch TO %I', grantee_name);
    END LOOP;
END $$;

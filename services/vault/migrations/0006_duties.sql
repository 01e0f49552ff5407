-- A processor's duties: how long persons are kept, the end of accounts, notice periods; and who handled whom, found by
-- person.
ALTER TABLE processors ADD COLUMN announced_on date;

CREATE INDEX access_log_touched ON access_log USING gin (touched) WHERE touched IS NOT NULL;

-- How long persons are kept, by kind: days after their last use, days after the end of their last legal basis. The row
-- of account '*' is for all that have none of their own.
CREATE TABLE retention_rules (
    account_id text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('recipient', 'user', 'administrator', 'complainant')),
    unused_days integer NOT NULL CHECK (unused_days > 0),
    basis_ended_days integer CHECK (basis_ended_days > 0),
    set_by text NOT NULL,
    set_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, kind)
);
INSERT INTO retention_rules (account_id, kind, unused_days, basis_ended_days, set_by) VALUES
    ('*', 'recipient', 730, 90, 'default'),
    ('*', 'user', 365, NULL, 'default'),
    ('*', 'administrator', 1095, NULL, 'default'),
    ('*', 'complainant', 1095, NULL, 'default');

-- The end of an account: asked for, exported, confirmed, ended. A confirmed one never gets keys again.
CREATE TABLE account_ends (
    account_id text PRIMARY KEY,
    asked_at timestamptz NOT NULL DEFAULT now(),
    asked_by text NOT NULL,
    confirmation bytea NOT NULL CHECK (octet_length(confirmation) = 32),
    exported_at timestamptz,
    confirmed_at timestamptz,
    epoch integer,
    ended_at timestamptz
);

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['retention_rules', 'account_ends'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format($policy$
            CREATE POLICY scope ON %I USING (
                account_id = ANY ((SELECT string_to_array(current_setting('vault.accounts', true), chr(31)))::text[])
                OR (SELECT current_setting('vault.accounts', true)) = '*')
            $policy$, name);
    END LOOP;
END $$;

-- The rule of all accounts is not about any one of them: everybody sees it, and only who sees all may change it.
CREATE POLICY everybody ON retention_rules FOR SELECT USING (account_id = '*');

DO $$
DECLARE grantee_name text;
BEGIN
    FOR grantee_name IN
        SELECT DISTINCT grantee FROM information_schema.role_table_grants
        WHERE table_schema = 'public' AND table_name = 'account_ends' AND grantee <> current_user
    LOOP
        EXECUTE format('REVOKE DELETE, TRUNCATE ON account_ends FROM %I', grantee_name);
    END LOOP;
END $$;

-- The relay vacuums the outbox as it empties it: autovacuum comes once a minute, when fifty thousand rows have gone.
DO $$
DECLARE grantee_name text;
BEGIN
    FOR grantee_name IN
        SELECT DISTINCT grantee FROM information_schema.role_table_grants
        WHERE table_schema = 'public' AND table_name = 'outbox' AND grantee <> current_user
    LOOP
        EXECUTE format('GRANT MAINTAIN ON outbox TO %I', grantee_name);
    END LOOP;
END $$;

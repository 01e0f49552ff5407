-- The access log as a Merkle tree (RFC 6962). A row of the log waits here until the sequencer gives it its position.
CREATE TABLE log_pending (
    entry_id bigint PRIMARY KEY
);
INSERT INTO log_pending SELECT id FROM access_log;

CREATE TABLE log_leaves (
    position bigint PRIMARY KEY,
    entry_id bigint NOT NULL UNIQUE,
    hash bytea NOT NULL CHECK (octet_length(hash) = 32)
);

-- Signed heads: `nodes` is the right edge of the tree, from which it grows on; `statement` and `proof` as published.
CREATE TABLE log_checkpoints (
    size bigint PRIMARY KEY,
    nodes bytea NOT NULL,
    event bytea NOT NULL,
    signed_at timestamptz NOT NULL DEFAULT now(),
    published boolean NOT NULL DEFAULT false
);
CREATE INDEX log_checkpoints_unpublished ON log_checkpoints (size) WHERE NOT published;

CREATE FUNCTION remember_entry() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN
    INSERT INTO log_pending (entry_id) VALUES (NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER access_log_remember AFTER INSERT ON access_log FOR EACH ROW EXECUTE FUNCTION remember_entry();

DO $$
DECLARE grantee_name text;
BEGIN
    FOR grantee_name IN
        SELECT DISTINCT grantee FROM information_schema.role_table_grants
        WHERE table_schema = 'public' AND table_name = 'log_leaves' AND grantee <> current_user
    LOOP
        EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON log_leaves, log_checkpoints FROM %I', grantee_name);
        EXECUTE format('REVOKE INSERT, UPDATE, TRUNCATE ON log_pending FROM %I', grantee_name);
        EXECUTE format('GRANT UPDATE (published) ON log_checkpoints TO %I', grantee_name);
    END LOOP;
END $$;

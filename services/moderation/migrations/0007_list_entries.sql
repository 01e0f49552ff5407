-- What is known to be bad, by list: what two lists name stays bad until both have taken it off. What is new on a list is
-- searched for once more at `search_again_at`: until then copies judged by the lists that they had read before.
CREATE TABLE list_entries (
    kind text NOT NULL CHECK (kind IN ('address', 'file', 'text')),
    entry text NOT NULL,
    list text NOT NULL,
    clause text NOT NULL,
    listed_at timestamptz NOT NULL,
    change_id uuid,
    approved boolean NOT NULL DEFAULT false,
    search_again_at timestamptz,
    PRIMARY KEY (kind, entry, list),
    CHECK (search_again_at IS NULL OR change_id IS NOT NULL)
);
CREATE INDEX list_entries_to_search ON list_entries (search_again_at) WHERE search_again_at IS NOT NULL;

-- `listed` is what the version before this one reads and writes. While both run, each table follows the other; a later
-- migration drops it with the two triggers. A trigger's own writes set off no other one (pg_trigger_depth).
CREATE FUNCTION list_entries_follow_listed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        DELETE FROM list_entries WHERE kind = OLD.kind AND entry = OLD.entry AND list = OLD.list;
        INSERT INTO listed (kind, entry, list, clause, listed_at)
        SELECT kind, entry, list, clause, listed_at FROM list_entries
        WHERE kind = OLD.kind AND entry = OLD.entry ORDER BY list LIMIT 1
        ON CONFLICT DO NOTHING;
    ELSE
        INSERT INTO list_entries (kind, entry, list, clause, listed_at)
        VALUES (NEW.kind, NEW.entry, NEW.list, NEW.clause, NEW.listed_at)
        ON CONFLICT (kind, entry, list) DO UPDATE SET clause = excluded.clause, listed_at = excluded.listed_at;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER list_entries_follow AFTER INSERT OR UPDATE OR DELETE ON listed
FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION list_entries_follow_listed();

CREATE FUNCTION listed_follows_list_entries() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    of_kind text := CASE TG_OP WHEN 'DELETE' THEN OLD.kind ELSE NEW.kind END;
    of_entry text := CASE TG_OP WHEN 'DELETE' THEN OLD.entry ELSE NEW.entry END;
BEGIN
    IF TG_OP = 'DELETE' THEN
        DELETE FROM listed WHERE kind = OLD.kind AND entry = OLD.entry AND list = OLD.list;
    END IF;
    INSERT INTO listed (kind, entry, list, clause, listed_at)
    SELECT kind, entry, list, clause, listed_at FROM list_entries
    WHERE kind = of_kind AND entry = of_entry ORDER BY list LIMIT 1
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER listed_follows AFTER INSERT OR DELETE ON list_entries
FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION listed_follows_list_entries();

-- Behind the triggers: they keep the version before from writing until all is copied.
INSERT INTO list_entries (kind, entry, list, clause, listed_at)
SELECT kind, entry, list, clause, listed_at FROM listed;

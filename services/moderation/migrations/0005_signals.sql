-- What judged messages carried, as hashes: addresses, files, sketches of the text. A ring of days, so that old ones go by
-- TRUNCATE; no content, no address of a person. The index takes new rows unsorted and sorts them in the background.
CREATE TABLE signals (
    slot smallint NOT NULL,
    message_id uuid NOT NULL,
    recipient_token text NOT NULL,
    sketches smallint NOT NULL,
    hashes bigint[] NOT NULL
) PARTITION BY LIST (slot);

DO $$
BEGIN
    FOR slot IN 0..15 LOOP
        EXECUTE format('CREATE TABLE signals_%s PARTITION OF signals FOR VALUES IN (%s)', slot, slot);
    END LOOP;
END $$;

CREATE INDEX signals_by_hash ON signals USING gin (hashes) WITH (fastupdate = on);
CREATE INDEX signals_by_message ON signals (message_id);

-- The runtime role owns no table: it empties a day of the ring by this function, at once or not at all.
CREATE FUNCTION forget_signals(emptied integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public SET lock_timeout = '2s' AS $$
BEGIN
    EXECUTE format('TRUNCATE signals_%s', emptied);
END $$;

-- What is known to be bad, by hash.
CREATE TABLE listed (
    kind text NOT NULL CHECK (kind IN ('address', 'file', 'text')),
    entry text NOT NULL,
    list text NOT NULL,
    clause text NOT NULL,
    listed_at timestamptz NOT NULL,
    PRIMARY KEY (kind, entry)
);

-- Changes of lists as they came, each taken once; `version` tells every copy that its lists are not the newest.
CREATE TABLE list_changes (
    change_id uuid PRIMARY KEY,
    version bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    list text NOT NULL,
    taken_at timestamptz NOT NULL
);

-- Entries that would have hit more messages than one signal may: a person applies or drops them.
CREATE TABLE quarantine (
    quarantine_id uuid PRIMARY KEY,
    change_id uuid NOT NULL,
    list text NOT NULL,
    kind text NOT NULL,
    entry text NOT NULL,
    clause text NOT NULL,
    messages integer NOT NULL,
    accounts integer NOT NULL,
    state text NOT NULL CHECK (state IN ('waiting', 'applied', 'dropped')),
    quarantined_at timestamptz NOT NULL,
    decided_at timestamptz,
    decided_by text
);
CREATE INDEX quarantine_waiting ON quarantine (quarantined_at) WHERE state = 'waiting';

-- Where the message of a verdict stands in intake.messages: while it is kept there, its features can be taken anew.
ALTER TABLE verdicts ADD COLUMN record_partition integer, ADD COLUMN record_offset bigint;

-- Nights on which a sample of verdicts was replayed: one copy of the service does it.
CREATE TABLE replay_nights (
    night date PRIMARY KEY,
    begun_at timestamptz NOT NULL,
    verdicts integer,
    differing integer
);

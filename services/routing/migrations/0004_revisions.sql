-- The newest later word on a verdict, as it was signed. It is verified again whenever its delivery is leased, so that a
-- row alone releases nothing. Not yet `applied` are a block while a call may be under way, and a word that came before
-- its delivery was planned.
CREATE TABLE revisions (
    message_id uuid PRIMARY KEY,
    instruction_digest text NOT NULL,
    revision integer NOT NULL,
    action text NOT NULL CHECK (action IN ('allow', 'block')),
    reason text NOT NULL,
    signed json NOT NULL,
    applied boolean NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX revisions_waiting ON revisions (message_id) WHERE NOT applied;

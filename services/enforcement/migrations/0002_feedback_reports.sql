-- A feedback report (RFC 5965) may be about a mail of which nobody knows yet whose it was: without an account, it waits
-- for a person. What is kept of a report is about the mail, never about who complained.
ALTER TABLE complaints ALTER COLUMN account_id DROP NOT NULL;
ALTER TABLE complaints ADD CONSTRAINT confirmed_has_an_account CHECK (account_id IS NOT NULL OR state <> 'confirmed');

CREATE TABLE feedback_reports (
    complaint_id uuid PRIMARY KEY REFERENCES complaints,
    feedback_type text NOT NULL CHECK (feedback_type IN ('abuse', 'fraud', 'virus', 'other')),
    incidents integer NOT NULL CHECK (incidents > 0),
    arrived_at timestamptz,
    sender_domain text CHECK (length(sender_domain) <= 253),
    original_digest bytea CHECK (length(original_digest) = 32)
);

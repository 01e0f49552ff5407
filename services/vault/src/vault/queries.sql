-- name: account_keys
-- Wrapped key-encryption keys of accounts, one row per epoch, each with the account's index secret.
SELECT k.account_id, k.epoch, k.wrapped, s.wrapped AS index_secret
FROM account_keys k
JOIN account_index_secrets s USING (account_id)
WHERE k.account_id = ANY ($1::text[]);

-- name: any_account_keys
-- The keys of the oldest account: do they open under this root key?
SELECT k.account_id, k.epoch, k.wrapped, s.wrapped AS index_secret
FROM (SELECT account_id FROM account_index_secrets ORDER BY created_at LIMIT 1) AS oldest
JOIN account_keys k USING (account_id)
JOIN account_index_secrets s USING (account_id);

-- name: create_account_keys
-- First keys of accounts; who comes second changes nothing and reads the first one's.
WITH given AS (
    SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[]) AS g (account_id, wrapped, index_secret)
), secrets AS (
    INSERT INTO account_index_secrets (account_id, wrapped)
    SELECT account_id, index_secret FROM given ORDER BY account_id
    ON CONFLICT DO NOTHING
)
INSERT INTO account_keys (account_id, epoch, wrapped)
SELECT account_id, $4, wrapped FROM given ORDER BY account_id
ON CONFLICT DO NOTHING;

-- name: find_subjects
-- Subjects by blind index.
SELECT s.account_id, s.address_index, s.token, s.address, s.name, k.epoch, k.wrapped
FROM unnest($1::text[], $2::bytea[]) AS wanted (account_id, address_index)
JOIN subjects s USING (account_id, address_index)
JOIN data_keys k USING (token)
WHERE s.account_id = ANY ($1::text[]) AND s.address_index = ANY ($2::bytea[]);

-- name: create_subjects
-- Subjects that nobody else created meanwhile, their keys, and the call's access row; returns the tokens created.
WITH wanted AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[], $5::bytea[], $6::int[], $7::bytea[])
        AS w (token, account_id, address_index, address, name, epoch, wrapped)
), created AS (
    INSERT INTO subjects (token, account_id, address_index, address, name)
    SELECT token, account_id, address_index, address, name FROM wanted ORDER BY account_id, address_index
    ON CONFLICT (account_id, address_index) DO NOTHING
    RETURNING token
), keyed AS (
    INSERT INTO data_keys (token, epoch, account_id, wrapped)
    SELECT token, epoch, account_id, wrapped FROM wanted JOIN created USING (token)
), logged AS (
    INSERT INTO access_log (caller, operation, purpose, case_id, outcome, items, answered)
    VALUES ($8::text, $9::text, $10::text, $11::text, 'answered', $12::int, $12::int)
)
SELECT token FROM created;

-- name: update_fields
-- New values of stored fields; a field that is not given stays.
WITH given AS (
    SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[]) AS g (token, address, name)
), locked AS (
    SELECT token FROM subjects WHERE token = ANY ($1::text[]) ORDER BY token FOR UPDATE
)
UPDATE subjects s
SET address = coalesce(g.address, s.address), name = coalesce(g.name, s.name)
FROM given g JOIN locked USING (token)
WHERE s.token = g.token;

-- name: wrapped_keys
-- Wrapped data keys by token.
SELECT k.token, k.account_id, k.epoch, k.wrapped
FROM data_keys k
WHERE k.token = ANY ($1::text[]);

-- name: wrapped_subjects
-- Wrapped data keys with the sealed fields by token.
SELECT k.token, k.account_id, k.epoch, k.wrapped, s.address, s.name
FROM data_keys k
JOIN subjects s USING (token)
WHERE k.token = ANY ($1::text[]) AND s.token = ANY ($1::text[]);

-- name: processor
-- A processor's contract.
SELECT name, tool, fields, approved, country, purpose FROM processors WHERE name = $1;

-- name: replace_processors
-- The register as the file has it; who is no longer in the file loses its approval.
WITH given AS (
    SELECT p.name, p.tool, string_to_array(p.fields, ',') AS fields, p.approved, p.country, p.purpose
    FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[], $5::text[], $6::text[])
        AS p (name, tool, fields, approved, country, purpose)
), gone AS (
    UPDATE processors SET approved = false WHERE name <> ALL ($1::text[])
)
INSERT INTO processors (name, tool, fields, approved, country, purpose)
SELECT name, tool, fields, approved, country, purpose FROM given ORDER BY name
ON CONFLICT (name) DO UPDATE SET
    tool = excluded.tool, fields = excluded.fields, approved = excluded.approved, country = excluded.country,
    purpose = excluded.purpose, loaded_at = now();

-- name: enter_disclosures
-- Ledger rows for what is neither spent nor served for a higher epoch, and the call's access row; returns what was
-- entered. The row of `instructions` is locked by the same statement that checks it, so no two asks pass each other.
WITH asked AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::smallint[], $5::text[], $6::text[], $7::int[], $8::int[])
        AS a (message_id, account_id, token, fields, legal_basis, instruction_digest, epoch, attempt)
), served AS (
    INSERT INTO instructions AS i (message_id, epoch)
    SELECT message_id, epoch FROM asked ORDER BY message_id
    ON CONFLICT (message_id) DO UPDATE SET epoch = excluded.epoch
        WHERE i.epoch <= excluded.epoch AND i.spent_at IS NULL
    RETURNING message_id
), entered AS (
    INSERT INTO disclosures (
        message_id, account_id, token, provider, fields, purpose, legal_basis, instruction_digest, epoch, attempt, caller
    )
    SELECT message_id, account_id, token, $9::text, fields, $12::text, legal_basis, instruction_digest, epoch, attempt,
        $10::text
    FROM asked JOIN served USING (message_id)
    RETURNING message_id
), logged AS (
    INSERT INTO access_log (caller, operation, purpose, case_id, outcome, items, answered)
    SELECT $10::text, $11::text, $12::text, $13::text, 'answered', $14::int, count(*) FROM entered
)
SELECT message_id FROM entered;

-- name: unsettled
-- Disclosures since a moment whose messages are not known to be handed over, the last of each: what a caller that lost
-- its memory may have begun.
SELECT d.message_id, max(d.epoch) AS epoch, max(d.attempt) AS attempt
FROM disclosures d
WHERE d.asked_at >= $1 AND d.caller = $2
    AND NOT EXISTS (SELECT FROM instructions i WHERE i.message_id = d.message_id AND i.spent_at IS NOT NULL)
GROUP BY d.message_id
ORDER BY d.message_id;

-- name: instructions
-- What is known of instructions that were refused.
SELECT message_id, epoch, spent_at, spent_entry, spent_entry_asked_at
FROM instructions WHERE message_id = ANY ($1::text[]);

-- name: spend
-- Marks instructions spent and acknowledges the ledger entry of the attempt, or the last one; once.
WITH told AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::int[], $4::timestamptz[])
        AS t (message_id, state, attempt, occurred_at)
)
INSERT INTO instructions AS i (message_id, epoch, spent_at, spent_state, spent_entry, spent_entry_asked_at)
SELECT t.message_id, 0, t.occurred_at, t.state, entry.id, entry.asked_at
FROM told t
LEFT JOIN LATERAL (
    SELECT d.id, d.asked_at FROM disclosures d
    WHERE d.message_id = t.message_id
    ORDER BY (d.attempt = t.attempt) DESC NULLS LAST, d.id DESC
    LIMIT 1
) AS entry ON true
ORDER BY t.message_id
ON CONFLICT (message_id) DO UPDATE SET
    spent_at = excluded.spent_at, spent_state = excluded.spent_state,
    spent_entry = excluded.spent_entry, spent_entry_asked_at = excluded.spent_entry_asked_at
    WHERE i.spent_at IS NULL;

-- name: insert_unauthorised
-- Records without authority, each once.
INSERT INTO unauthorised (topic, partition, record_offset, event_id, reason)
SELECT * FROM unnest($1::text[], $2::int[], $3::bigint[], $4::text[], $5::text[])
ON CONFLICT DO NOTHING;

-- name: log_access
-- One call.
INSERT INTO access_log (caller, operation, purpose, case_id, outcome, items, answered)
VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: disclosures_of_message
-- The ledger of one message, oldest first, with the acknowledgement of the entry that was spent.
SELECT d.*, CASE WHEN i.spent_entry = d.id THEN i.spent_at END AS acknowledged_at
FROM disclosures d
LEFT JOIN instructions i USING (message_id)
WHERE d.message_id = $1
ORDER BY d.id
LIMIT $2;

-- name: unauthorised_counts
-- How many records had no authority, by reason.
SELECT reason, count(*) AS records FROM unauthorised GROUP BY reason ORDER BY reason;

-- name: list_unauthorised
-- The newest of them.
SELECT topic, partition AS record_partition, record_offset, event_id, reason, seen_at
FROM unauthorised ORDER BY seen_at DESC, record_offset DESC LIMIT $1;

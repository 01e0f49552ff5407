-- name: authorities
-- What stands behind API keys ($1 digests), with the rules in force ($2 version, $3 text digest). An array whose length
-- the planner cannot see: with one that it sees it plans anew for each call, six times as long as the look-up takes.
SELECT k.digest, k.expires_at, u.id::text AS user_id, u.role, u.active, u.account_id::text AS account_id,
    EXISTS (
        SELECT FROM rules_acceptances r WHERE r.account_id = u.account_id AND r.version = $2 AND r.text_digest = $3
    ) AS accepts_rules,
    coalesce(s.standing, 'good') AS standing,
    (
        SELECT coalesce(jsonb_agg(jsonb_build_array(
            g.id, g.tools, extract(epoch FROM g.ends_at), a.active AND a.role = 'administrator'
        )), '[]') FROM grants g JOIN users a ON a.id = g.granter_id AND a.account_id = u.account_id
        WHERE g.user_id = u.id
    )::text AS grants,
    (
        SELECT coalesce(jsonb_agg(jsonb_build_array(i.id, i.tool, i.address, i.display_name)), '[]')
        FROM inboxes i WHERE i.account_id = u.account_id
    )::text AS inboxes
FROM api_keys k
JOIN users u ON u.id = k.user_id
LEFT JOIN standings s ON s.account_id = u.account_id
WHERE k.digest = ANY(ARRAY(SELECT unnest($1::bytea[])))

-- name: known_messages
-- What was admitted before under these accounts ($1) and idempotency keys ($2), pairwise.
SELECT m.account_id::text AS account_id, m.idempotency_key, m.id::text AS id, m.fingerprint, m.content_digest,
    m.recipient_token, m.signed_instruction
FROM unnest($1::uuid[], $2::bytea[]) AS asked (account_id, idempotency_key)
JOIN messages m USING (account_id, idempotency_key)

-- name: admit
-- Rule oneTransaction: message rows and their outbox rows, for those whose idempotency key is new. The large columns are
-- read once and not joined, and unnested in a SELECT list: in FROM each column is written into a tuplestore of its own
-- and read back. Outbox ids grow in the order of what was offered; the ids of the admitted messages are told
-- only when they are not all of them.
WITH admitted AS (
    INSERT INTO messages (
        id, account_id, idempotency_key, fingerprint, tool, inbox_id, recipient_token, content_digest,
        instruction_digest, signed_instruction, reference, admitted_at
    )
    SELECT unnest($1::uuid[]), unnest($2::uuid[]), unnest($3::bytea[]), unnest($4::bytea[]), unnest($5::text[]),
        unnest($6::uuid[]), unnest($7::text[]), unnest($8::text[]), unnest($9::text[]), unnest($10::text[]),
        unnest($11::text[]), unnest($12::timestamptz[])
    ON CONFLICT (account_id, idempotency_key) DO NOTHING
    RETURNING id, account_id, admitted_at
), awaited AS (
    INSERT INTO awaiting_receipt (message_id, account_id, admitted_at) SELECT id, account_id, admitted_at FROM admitted
), told AS (
    INSERT INTO outbox (topic, key, value, headers)
    SELECT $13, o.key, o.value, o.headers
    FROM (
        SELECT unnest($1::uuid[]) AS id, unnest($14::bytea[]) AS key, unnest($15::bytea[]) AS value,
            unnest($16::text[]) AS headers
    ) AS o
    WHERE o.id = ANY (ARRAY(SELECT id FROM admitted))
    RETURNING id
)
SELECT ARRAY(SELECT id FROM told ORDER BY id) AS outbox_ids,
    CASE WHEN (SELECT count(*) FROM admitted) < cardinality($1) THEN ARRAY(SELECT id::text FROM admitted) END AS message_ids

-- name: stored_ids
-- Which of these messages there are.
SELECT id::text AS id FROM messages WHERE id = ANY($1::uuid[])

-- name: put_back
-- Messages that this database lost when it was put back to a backup; those that it has stay as they are.
WITH lost AS (
    SELECT * FROM unnest(
        $1::uuid[], $2::uuid[], $3::bytea[], $4::bytea[], $5::text[], $6::uuid[], $7::text[], $8::text[], $9::text[],
        $10::text[], $11::text[], $12::timestamptz[]
    ) AS l (
        id, account_id, idempotency_key, fingerprint, tool, inbox_id, recipient_token, content_digest,
        instruction_digest, signed_instruction, reference, admitted_at
    )
), added AS (
    INSERT INTO messages (
        id, account_id, idempotency_key, fingerprint, tool, inbox_id, recipient_token, content_digest,
        instruction_digest, signed_instruction, reference, admitted_at
    )
    SELECT * FROM lost ON CONFLICT DO NOTHING RETURNING id, account_id, admitted_at
)
INSERT INTO awaiting_receipt (message_id, account_id, admitted_at) SELECT id, account_id, admitted_at FROM added

-- name: record_steps
-- Receipts as steps of their messages; a receipt seen before changes nothing.
WITH told AS (
    INSERT INTO message_steps (message_id, sequence, state, reason, attempt, provider, reply_code, occurred_at)
    SELECT unnest($1::uuid[]), unnest($2::int[]), unnest($3::text[]), unnest($4::text[]), unnest($5::int[]),
        unnest($6::text[]), unnest($7::int[]), unnest($8::timestamptz[])
    ON CONFLICT (message_id, sequence) DO NOTHING
), first AS (
    DELETE FROM awaiting_receipt WHERE message_id = ANY($1::uuid[]) RETURNING admitted_at
), newest AS (
    SELECT max(admitted_at) AS admitted_at FROM first
)
UPDATE road_progress SET receipted_until = newest.admitted_at
FROM newest WHERE road_progress.receipted_until < newest.admitted_at

-- name: record_unauthorised
-- Records that could not prove where they come from; one seen before changes nothing.
INSERT INTO unauthorised (topic, record_partition, record_offset, event_id, reason)
SELECT * FROM unnest($1::text[], $2::int[], $3::bigint[], $4::text[], $5::text[])
ON CONFLICT DO NOTHING

-- name: list_unauthorised
-- The newest of them.
SELECT topic, record_partition, record_offset, event_id, reason, seen_at
FROM unauthorised ORDER BY seen_at DESC LIMIT $1

-- name: count_unauthorised
-- How many of them there are, by reason.
SELECT reason, count(*) AS records FROM unauthorised GROUP BY reason ORDER BY reason

-- name: apply_standings
-- The present standing of accounts; a revision only grows.
INSERT INTO standings (account_id, standing, revision, since)
SELECT DISTINCT ON (account_id) account_id, standing, revision, since
FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::timestamptz[]) AS s (account_id, standing, revision, since)
ORDER BY account_id, revision DESC
ON CONFLICT (account_id) DO UPDATE
SET standing = excluded.standing, revision = excluded.revision, since = excluded.since
WHERE standings.revision < excluded.revision

-- name: message
-- One message, whoever owns it.
SELECT id::text AS id, account_id::text AS account_id, tool, inbox_id::text AS inbox_id, recipient_token, content_digest,
    instruction_digest, signed_instruction, reference, admitted_at
FROM messages WHERE id = $1

-- name: steps
-- What routing told about one message, in order.
SELECT sequence, state, reason, attempt, provider, reply_code, occurred_at
FROM message_steps WHERE message_id = $1 ORDER BY sequence

-- name: congestion
-- Seconds that the oldest message beyond routing's progress has waited, 0 when there is none.
SELECT coalesce(extract(epoch FROM now() - min(admitted_at)), 0)::float8
FROM awaiting_receipt WHERE admitted_at > (SELECT receipted_until FROM road_progress)

-- name: insert_account
-- A new account.
INSERT INTO accounts (id, name) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING RETURNING id

-- name: insert_users
-- Users and administrators of a new account.
INSERT INTO users (id, account_id, role, person_token)
SELECT id, $1, role, person_token FROM unnest($2::uuid[], $3::text[], $4::text[]) AS u (id, role, person_token)

-- name: insert_grant
-- What an administrator allows a user.
INSERT INTO grants (id, user_id, granter_id, tools, ends_at) VALUES ($1, $2, $3, $4, $5)

-- name: insert_api_key
-- A key by its digest.
INSERT INTO api_keys (digest, user_id, prefix, expires_at) VALUES ($1, $2, $3, $4)

-- name: insert_inbox
-- One of the account's own addresses.
INSERT INTO inboxes (id, account_id, tool, address, display_name) VALUES ($1, $2, $3, $4, $5)

-- name: insert_acceptance
-- An account accepts a version of the rules; once is enough.
INSERT INTO rules_acceptances (account_id, version, text_digest, user_id)
SELECT $1, $2, $3, u.id FROM users u
WHERE u.account_id = $1 AND u.role = 'administrator' AND u.active ORDER BY u.created_at, u.id LIMIT 1
ON CONFLICT DO NOTHING

-- name: account_exists
-- Whether there is such an account.
SELECT EXISTS (SELECT FROM accounts WHERE id = $1)

-- name: list_accounts
-- All accounts with what an operator needs to know about them ($1, $2: the rules in force).
SELECT a.id::text AS id, a.name, a.created_at, coalesce(s.standing, 'good') AS standing, coalesce(s.revision, 0) AS revision,
    EXISTS (
        SELECT FROM rules_acceptances r WHERE r.account_id = a.id AND r.version = $1 AND r.text_digest = $2
    ) AS accepts_rules,
    (SELECT count(*) FROM users u WHERE u.account_id = a.id AND u.active) AS users,
    ARRAY(SELECT i.address FROM inboxes i WHERE i.account_id = a.id ORDER BY i.address) AS inboxes
FROM accounts a LEFT JOIN standings s ON s.account_id = a.id ORDER BY a.name

-- name: ledger_accounts
-- How many messages each account ($1, or all when null) had admitted.
SELECT a.id::text AS id, a.name, (SELECT count(*) FROM messages m WHERE m.account_id = a.id) AS admitted
FROM accounts a WHERE $1::uuid IS NULL OR a.id = $1 ORDER BY a.name

-- name: ledger_waiting
-- Messages without any receipt by id, up to $3 behind the id $2 (null: from the first); $1 is an account or null.
SELECT account_id::text AS account_id, message_id::text AS message_id FROM awaiting_receipt
WHERE ($1::uuid IS NULL OR account_id = $1)
    AND message_id > coalesce($2::uuid, '00000000-0000-0000-0000-000000000000')
ORDER BY message_id LIMIT $3

-- name: ledger_outbox
-- What is committed and not known to be in Kafka.
SELECT count(*) AS records, coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS seconds FROM outbox

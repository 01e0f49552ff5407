-- name: insert_complaint
-- Stores a complaint unless its idempotency key is known or a bound is reached; tells which of these was the case.
-- With $17 false it only tells.
WITH known AS (
    SELECT id, request_digest, received_at FROM complaints WHERE idempotency_digest = $7::bytea
), of_account AS (
    SELECT count(*) AS n
    FROM (
        SELECT 1 FROM complaints
        WHERE state = 'received' AND (account_id = $2::text OR ($2::text IS NULL AND account_id IS NULL))
        LIMIT $10::int
    ) AS waiting
), of_all AS (
    SELECT count(*) AS n FROM (SELECT 1 FROM complaints WHERE state = 'received' LIMIT $11::int) AS waiting
), stored AS (
    INSERT INTO complaints
        (id, account_id, clause, category, origin, message_id, idempotency_digest, request_digest, received_at,
        complainant_token)
    SELECT $1::uuid, $2, $3::text, $4::text, $5::text, $6::uuid, $7, $8::bytea, $9::timestamptz, $18::text
    FROM of_account, of_all
    WHERE $17::boolean AND NOT EXISTS (SELECT FROM known) AND of_account.n < $10 AND of_all.n < $11
    ON CONFLICT (idempotency_digest) DO NOTHING
    RETURNING id
), report AS (
    INSERT INTO feedback_reports
        (complaint_id, feedback_type, incidents, arrived_at, sender_domain, original_digest)
    SELECT id, $12::text, $13::int, $14::timestamptz, $15::text, $16::bytea FROM stored WHERE $12::text IS NOT NULL
)
SELECT
    (SELECT id FROM stored) AS stored_id,
    (SELECT id FROM known) AS known_id,
    (SELECT request_digest FROM known) AS known_digest,
    (SELECT received_at FROM known) AS known_received_at,
    (SELECT n FROM of_account) >= $10 AS account_is_full,
    (SELECT n FROM of_all) >= $11 AS all_is_full

-- name: list_complaints
-- One page, oldest first, with what feedback reports said; each filter may be null.
SELECT * FROM complaints LEFT JOIN feedback_reports ON complaint_id = id
WHERE ($1::text IS NULL OR state = $1) AND ($2::text IS NULL OR account_id = $2) AND ($3::uuid IS NULL OR id > $3)
    AND ($5::bool IS NULL OR (account_id IS NULL) = $5)
ORDER BY id
LIMIT $4

-- name: lock_complaint
-- The complaint, locked until the end of the transaction.
SELECT * FROM complaints LEFT JOIN feedback_reports ON complaint_id = id WHERE id = $1 FOR UPDATE OF complaints

-- name: assign_complaint
-- Says which account a complaint is about: once, and not after it was decided.
UPDATE complaints SET account_id = $2::text
WHERE id = $1 AND state = 'received' AND (account_id IS NULL OR account_id = $2)
RETURNING id

-- name: lock_standing
-- What holds for an account, locked until the end of the transaction; the row is made when there is none. The update
-- that changes nothing takes the same lock as SELECT FOR UPDATE would, and reads what the last holder committed.
INSERT INTO standings AS present (account_id, standing, decided_by, floor, revision)
VALUES ($1, 'good', 'machine', 'good', 0)
ON CONFLICT (account_id) DO UPDATE SET revision = present.revision
RETURNING standing, decided_by, floor, revision

-- name: change_standing
-- A new revision: the present row, the history row and the outbox row.
WITH present AS (
    UPDATE standings SET standing = $3::text, decided_by = $4::text, floor = $5, revision = $2::bigint
    WHERE account_id = $1 AND revision = $2::bigint - 1
    RETURNING account_id
), history AS (
    INSERT INTO standing_changes
        (account_id, revision, standing, decided_by, outcome, clause, reason, complaint_id, since)
    SELECT account_id, $2, $3, $4, $6::text, $7::text, $8::text, $9::uuid, $10::timestamptz FROM present
)
INSERT INTO outbox (topic, key, value, headers)
SELECT $11::text, $12::bytea, $13::bytea, $14::jsonb FROM present
RETURNING id

-- name: raise_floor
-- A person asked for less than what holds: the standing stays, but a machine may no longer go below what was asked.
UPDATE standings SET floor = $2 WHERE account_id = $1

-- name: close_complaint
-- How a complaint that was received ended.
UPDATE complaints
SET state = $2, decided_at = $3, decision_reason = $4, asked = $5, outcome = $6, standing = $7, revision = $8
FROM (SELECT $1::uuid AS decided_id) AS decided LEFT JOIN feedback_reports ON complaint_id = decided_id
WHERE id = decided_id AND state = 'received'
RETURNING *

-- name: list_changes
-- The newest revisions of an account's standing; the first is what holds.
SELECT * FROM standing_changes WHERE account_id = $1 ORDER BY revision DESC LIMIT $2

-- name: adopt_standings
-- Revisions that the topic has and this database does not: after it was put back to a backup.
WITH told AS (
    SELECT * FROM unnest(
        $1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::uuid[], $8::timestamptz[]
    ) AS t (account_id, revision, standing, decided_by, clause, reason, complaint_id, since)
), present AS (
    INSERT INTO standings AS s (account_id, standing, decided_by, floor, revision)
    SELECT account_id, standing, decided_by, CASE decided_by WHEN 'person' THEN standing ELSE 'good' END, revision
    FROM told ORDER BY account_id
    ON CONFLICT (account_id) DO UPDATE
        SET standing = excluded.standing, decided_by = excluded.decided_by, floor = excluded.floor,
            revision = excluded.revision
        WHERE s.revision < excluded.revision
    RETURNING account_id
)
INSERT INTO standing_changes
    (account_id, revision, standing, decided_by, outcome, clause, reason, complaint_id, since)
SELECT t.account_id, t.revision, t.standing, t.decided_by, 'restated', t.clause, t.reason,
    (SELECT id FROM complaints c WHERE c.id = t.complaint_id), t.since
FROM told t JOIN present USING (account_id)
RETURNING account_id

-- name: revisions
-- The present revision of every account that ever had a decision.
SELECT account_id, revision FROM standings WHERE revision > 0

-- name: lock_publishing
-- One copy of this service publishes at a time, or an older revision could become the last record of its key.
SELECT pg_advisory_xact_lock(1398034254)

-- name: present_standings
-- The newest revision of each of these accounts.
SELECT DISTINCT ON (account_id) * FROM standing_changes
WHERE account_id = ANY($1::text[])
ORDER BY account_id, revision DESC

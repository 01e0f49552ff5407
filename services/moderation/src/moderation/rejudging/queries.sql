-- name: insert_signals
-- What a batch of messages carried, a day of the ring.
INSERT INTO signals (slot, message_id, recipient_token, sketches, hashes)
SELECT $1, message_id, recipient_token, sketches, string_to_array(hashes, ',')::bigint[]
FROM unnest($2::uuid[], $3::text[], $4::smallint[], $5::text[]) AS n(message_id, recipient_token, sketches, hashes)

-- name: slots_in_use
-- Days of the ring that hold something.
SELECT slot FROM generate_series(0, 15) AS slot
WHERE EXISTS (SELECT FROM signals s WHERE s.slot = slot.slot)

-- name: forget_slot
-- Empty a day of the ring.
SELECT forget_signals($1)

-- name: carriers_of
-- Messages that carry a hash, as many as are asked for, with what a revision of their verdicts needs to know.
SELECT DISTINCT ON (s.message_id) s.message_id::text AS message_id, s.recipient_token, v.account_id,
    v.statement->>'instruction_digest' AS instruction_digest
FROM (SELECT message_id, recipient_token FROM signals WHERE hashes @> ARRAY[$1::bigint] LIMIT $2) s
JOIN verdicts v USING (message_id)
ORDER BY s.message_id

-- name: alike
-- Messages whose text is like one with these sketches.
SELECT DISTINCT ON (s.message_id) s.message_id::text AS message_id, s.recipient_token, v.account_id,
    v.statement->>'instruction_digest' AS instruction_digest
FROM (
    SELECT message_id, recipient_token FROM signals
    WHERE hashes && $1::bigint[] AND sketches = 4
        AND (SELECT count(*) FROM unnest(hashes[1:4]) AS sketch WHERE sketch = ANY($1::bigint[])) >= 3
    LIMIT $2
) s JOIN verdicts v USING (message_id)
ORDER BY s.message_id

-- name: sketches_of
-- The sketches of a message's text.
SELECT hashes[1:4] AS sketches FROM signals WHERE message_id = $1 AND sketches = 4 LIMIT 1

-- name: wait_for_turn
-- One transaction at a time changes lists or searches: versions are committed in their order, and no two lock the same
-- verdicts in different orders.
SELECT pg_advisory_xact_lock(1281977460)

-- name: insert_change
-- A change of a list is taken once.
INSERT INTO list_changes (change_id, list, taken_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING version

-- name: insert_listed
-- What is bad from now on, and when it is searched for once more.
INSERT INTO list_entries (kind, entry, list, clause, listed_at, change_id, approved, search_again_at)
SELECT $1, entry, $2, $3, $4, $6, $7, $8 FROM unnest($5::text[]) AS entry ORDER BY entry
ON CONFLICT (kind, entry, list) DO UPDATE SET clause = excluded.clause, listed_at = excluded.listed_at,
    change_id = excluded.change_id, approved = excluded.approved, search_again_at = excluded.search_again_at

-- name: next_to_search
-- The entry that is to be searched for once more the longest.
SELECT list, kind, entry, clause, change_id::text AS change_id, approved FROM list_entries
WHERE search_again_at <= $1 ORDER BY search_again_at LIMIT 1

-- name: note_searched
-- Nothing more is to be searched for.
UPDATE list_entries SET search_again_at = NULL WHERE kind = $1 AND entry = $2 AND list = $3

-- name: remove_listed
-- What is bad no longer.
DELETE FROM list_entries WHERE kind = $1 AND entry = ANY($2::text[]) AND list = $3

-- name: version_of_lists
-- Tells whether lists are the newest.
SELECT coalesce(max(version), 0) FROM list_changes

-- name: read_listed
-- All that is listed and can be looked up on the road.
SELECT DISTINCT kind, entry FROM list_entries WHERE kind IN ('address', 'file')

-- name: last_revisions
-- The newest words on some messages.
SELECT DISTINCT ON (message_id) message_id::text AS message_id, revision, action
FROM revisions WHERE message_id = ANY($1::uuid[]) ORDER BY message_id, revision DESC

-- name: insert_quarantine
-- An entry that hits too much.
INSERT INTO quarantine (quarantine_id, change_id, list, kind, entry, clause, messages, accounts, state, quarantined_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'waiting', $9) ON CONFLICT DO NOTHING

-- name: quarantined
-- What waits for a person, oldest first.
SELECT quarantine_id, list, kind, entry, clause, messages, accounts, quarantined_at
FROM quarantine WHERE state = 'waiting' ORDER BY quarantined_at LIMIT $1

-- name: settle_quarantine
-- A person's word on a quarantined entry.
UPDATE quarantine SET state = $2, decided_at = $3, decided_by = $4
WHERE quarantine_id = $1 AND state = 'waiting'
RETURNING list, kind, entry, clause

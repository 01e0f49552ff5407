-- name: find_verdicts
-- Verdicts that exist already, as they were signed.
SELECT message_id::text AS message_id, statement, proof
FROM verdicts
WHERE message_id = ANY($1::uuid[])

-- name: insert_verdicts
-- New verdicts in the order of their ids; a row that another copy wrote first stays (rule insertOnce).
INSERT INTO verdicts (message_id, account_id, action, clauses, degraded, statement, proof, policy, screened_at)
SELECT message_id, account_id, action, string_to_array(clauses, ','), string_to_array(degraded, ','),
       statement, proof, policy, $9
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::json[], $7::json[], $8::text[])
     AS new (message_id, account_id, action, clauses, degraded, statement, proof, policy)
ON CONFLICT (message_id) DO NOTHING
RETURNING message_id::text AS message_id

-- name: insert_unauthorised
-- Records that are not what they claim to be; a record read again is counted once.
INSERT INTO unauthorised (topic, record_partition, record_offset, event_id, account_id, reason, seen_at)
SELECT topic, record_partition, record_offset, event_id, account_id, reason, $7
FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::text[], $5::text[], $6::text[])
     AS new (topic, record_partition, record_offset, event_id, account_id, reason)
ON CONFLICT DO NOTHING

-- name: verdict_by_id
-- One verdict for an operator.
SELECT message_id::text AS message_id, account_id, action, clauses, degraded, policy, screened_at, statement, proof
FROM verdicts
WHERE message_id = $1

-- name: list_unauthorised
-- The newest unauthorised records.
SELECT topic, record_partition, record_offset, event_id, account_id, reason, seen_at
FROM unauthorised
ORDER BY seen_at DESC, record_offset DESC
LIMIT $1

-- name: count_unauthorised
-- How many unauthorised records there are, by reason.
SELECT reason, count(*) AS records
FROM unauthorised
GROUP BY reason
ORDER BY reason

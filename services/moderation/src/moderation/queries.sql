-- name: find_verdicts
-- Verdicts that exist already, as they were signed.
SELECT message_id::text AS message_id, statement, proof
FROM verdicts
WHERE message_id = ANY($1::uuid[])

-- name: insert_verdicts
-- New verdicts in the order of their ids; a row that another copy wrote first stays (rule insertOnce).
INSERT INTO verdicts (message_id, account_id, action, clauses, degraded, statement, proof, policy, screened_at,
                      record_partition, record_offset)
SELECT message_id, account_id, action, string_to_array(clauses, ','), string_to_array(degraded, ','),
       statement, proof, policy, $9, record_partition, record_offset
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::json[], $7::json[], $8::text[],
            $10::integer[], $11::bigint[])
     AS new (message_id, account_id, action, clauses, degraded, statement, proof, policy, record_partition,
             record_offset)
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

-- name: keep_policy
-- The text of a policy, once.
INSERT INTO policies (policy, document, kept_at) VALUES ($1, $2, $3) ON CONFLICT (policy) DO NOTHING

-- name: keep_policy_state
-- One state of a policy, once.
INSERT INTO policy_states (policy, revision, status, reason, decided_by, changed_at)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (policy, revision) DO NOTHING

-- name: policy_text
-- The text of a policy.
SELECT document FROM policies WHERE policy = $1

-- name: list_policy_states
-- The newest decisions about policies.
SELECT policy, revision, status, reason, decided_by, changed_at
FROM policy_states
ORDER BY changed_at DESC, revision DESC
LIMIT $1

-- name: rule_days
-- What rules with a cap have stopped on a day.
SELECT rule, messages FROM rule_days WHERE day = $1 AND rule = ANY($2::text[])

-- name: count_rule_days
-- More that they have stopped; the rows are locked in the order of their names.
INSERT INTO rule_days (day, rule, messages)
SELECT $1, rule, messages FROM unnest($2::text[], $3::bigint[]) AS new (rule, messages) ORDER BY rule
ON CONFLICT (day, rule) DO UPDATE SET messages = rule_days.messages + excluded.messages

-- name: verdicts_to_replay
-- Verdicts with where their messages stand.
SELECT message_id::text AS message_id, statement::text AS statement, proof::text AS proof, record_partition,
       record_offset
FROM verdicts
WHERE message_id = ANY($1::uuid[])

-- name: begin_replay_night
-- The night is this copy's to replay; nothing when another copy took it.
INSERT INTO replay_nights (night, begun_at) VALUES ($1, $2) ON CONFLICT (night) DO NOTHING RETURNING night

-- name: end_replay_night
-- What came of it.
UPDATE replay_nights SET verdicts = $2, differing = $3 WHERE night = $1

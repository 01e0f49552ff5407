-- name: insert_cases
-- New cases, and how many messages are like one another; a message that has a case keeps it and is not counted again.
WITH added AS (
    INSERT INTO cases (case_id, message_id, kind, account_id, tool, clauses, severity, likeness, recipient_token,
        instruction_digest, content_digest, capsule, content, due_at, not_after, opened_at, state)
    SELECT case_id, message_id, kind, account_id, tool, string_to_array(clauses, ','), severity, likeness,
        recipient_token, instruction_digest, content_digest, capsule, content, due_at, not_after, opened_at, 'waiting'
    FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::smallint[], $8::text[],
            $9::text[], $10::text[], $11::text[], $12::bytea[], $13::bytea[], $14::timestamptz[], $15::timestamptz[],
            $16::timestamptz[])
        AS n(case_id, message_id, kind, account_id, tool, clauses, severity, likeness, recipient_token,
            instruction_digest, content_digest, capsule, content, due_at, not_after, opened_at)
    ORDER BY case_id
    ON CONFLICT DO NOTHING
    RETURNING likeness, opened_at
), counted AS (
    INSERT INTO likenesses AS l (likeness, messages, seen_at)
    SELECT likeness, count(*), max(opened_at) FROM added GROUP BY likeness ORDER BY likeness
    ON CONFLICT (likeness) DO UPDATE SET messages = l.messages + excluded.messages, seen_at = excluded.seen_at
)
SELECT count(*) FROM added

-- name: claim_case
-- Lease the most urgent case to a reviewer: what is overdue first, then by severity, exposure and the share of its clock
-- that is used up. Others' claims are skipped, nobody is given a case that he decided first.
WITH chosen AS (
    SELECT c.case_id
    FROM cases c JOIN likenesses l USING (likeness)
    WHERE c.state IN ('waiting', 'second') AND (c.claim_until IS NULL OR c.claim_until <= $2)
        AND c.first_reviewer IS DISTINCT FROM $1 AND (c.state = 'second' OR c.kind = 'report' OR c.not_after > $2)
    ORDER BY c.due_at <= $2 DESC, c.severity * (1 + ln(l.messages))
        * (1 + extract(epoch FROM $2 - c.opened_at) / greatest(1, extract(epoch FROM c.due_at - c.opened_at))) DESC,
        c.due_at
    LIMIT 1 FOR UPDATE OF c SKIP LOCKED
)
UPDATE cases c SET claimed_by = $1, claim_until = $3 FROM chosen WHERE c.case_id = chosen.case_id
RETURNING c.case_id

-- name: case_by_id
-- One case with the verdict behind it.
SELECT c.*, l.messages AS exposure, v.statement, v.policy
FROM cases c JOIN likenesses l USING (likeness) JOIN verdicts v USING (message_id)
WHERE c.case_id = $1

-- name: lock_verdicts
-- Verdicts, locked before their newest revision is read: whoever revises next waits here and then reads on.
SELECT FROM verdicts WHERE message_id = ANY($1::uuid[]) ORDER BY message_id FOR UPDATE

-- name: lock_verdict_of_case
-- The same for the message of one case; lists lock verdicts before cases, so people's decisions do too.
SELECT FROM verdicts WHERE message_id = (SELECT message_id FROM cases WHERE case_id = $1) FOR UPDATE

-- name: lock_case
-- One case, locked until the decision is stored.
SELECT c.*, l.messages AS exposure
FROM cases c JOIN likenesses l USING (likeness) WHERE c.case_id = $1 FOR UPDATE OF c

-- name: decisions_of
-- What was decided on a case.
SELECT round, reviewer, decision, clause, reason, decided_at FROM decisions WHERE case_id = $1 ORDER BY round

-- name: insert_decision
-- A person's decision.
INSERT INTO decisions (case_id, round, reviewer, decision, clause, reason, decided_at) VALUES ($1, $2, $3, $4, $5, $6, $7)

-- name: wait_for_second
-- A case that another person must look at, without knowing of the first.
UPDATE cases SET state = 'second', first_reviewer = $2, claimed_by = NULL, claim_until = NULL, due_at = $3 WHERE case_id = $1

-- name: close_case
-- A case that nobody has to look at any more; its content goes.
UPDATE cases SET state = 'decided', first_reviewer = coalesce(first_reviewer, $2), claimed_by = NULL, claim_until = NULL,
    capsule = NULL, content = NULL, closed_at = $3
WHERE case_id = $1

-- name: give_back
-- A reviewer's claim, given back.
UPDATE cases SET claimed_by = NULL, claim_until = NULL
WHERE case_id = $1 AND claimed_by = $2 AND state IN ('waiting', 'second')
RETURNING case_id

-- name: end_cases
-- Cases whose message's window has ended before anybody decided, and second looks that nobody took.
UPDATE cases SET state = CASE state WHEN 'waiting' THEN 'ended' ELSE 'decided' END, claimed_by = NULL,
    claim_until = NULL, capsule = NULL, content = NULL, closed_at = $1
WHERE (state = 'waiting' AND kind = 'hold' AND not_after <= $1) OR (state = 'second' AND due_at <= $1)
RETURNING case_id

-- name: last_revision
-- The number of the newest word on a message's verdict.
SELECT coalesce(max(revision), 0) FROM revisions WHERE message_id = $1

-- name: insert_revisions
-- Later words on verdicts; one that is there already stays.
INSERT INTO revisions (message_id, revision, account_id, action, cause, signal, statement, proof, revised_at)
SELECT * FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::text[], $7::json[], $8::json[],
    $9::timestamptz[])
ON CONFLICT DO NOTHING
RETURNING message_id::text AS message_id

-- name: insert_outbox
-- Store events beside the change that they tell.
INSERT INTO outbox (topic, key, value, headers)
SELECT t.topic, t.key, t.value, t.headers::jsonb
FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::text[]) WITH ORDINALITY AS t(topic, key, value, headers, place)
ORDER BY t.place RETURNING id

-- name: close_revised
-- Cases of messages that were decided on elsewhere: by a list, or before this database was put back.
UPDATE cases SET state = 'decided', claimed_by = NULL, claim_until = NULL, capsule = NULL, content = NULL, closed_at = $2
WHERE message_id = ANY($1::uuid[]) AND state = 'waiting'

-- name: queue_figures
-- What waits, by clause.
SELECT coalesce(clause, 'none') AS clause, count(*) AS waiting, count(*) FILTER (WHERE due_at <= $1) AS overdue,
    count(*) FILTER (WHERE claim_until > $1) AS claimed, min(opened_at) AS oldest_at
FROM cases LEFT JOIN LATERAL unnest(clauses) AS clause ON true
WHERE state IN ('waiting', 'second') AND (state = 'second' OR kind = 'report' OR not_after > $1)
GROUP BY 1 ORDER BY 1

-- name: decided_figures
-- What was decided since a moment, by decision and clause.
SELECT decision, coalesce(clause, 'none') AS clause, count(*) AS decisions
FROM decisions WHERE decided_at >= $1 AND round = 1 GROUP BY 1, 2 ORDER BY 1, 2

-- name: second_looks
-- First and second decisions on the same cases since a moment, newest first.
SELECT two.case_id, one.decision AS first, two.decision AS second, one.reviewer AS first_reviewer,
    two.reviewer AS second_reviewer, two.decided_at
FROM decisions two JOIN decisions one ON one.case_id = two.case_id AND one.round = 1
WHERE two.round = 2 AND two.decided_at >= $1 ORDER BY two.decided_at DESC

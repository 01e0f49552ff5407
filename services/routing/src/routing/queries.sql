-- Columns of a batch are unnested in a SELECT list: in FROM each is written into a tuplestore of its own and read back.
--
-- A batch is joined with its rows by a hash. Where statistics tell the planner that next to no row has a lease or an
-- open attempt, it expects one row and loops over the whole batch for each that there is. So the statements of every
-- message ask in words of which it knows nothing: num_nonnulls, array_position, ARRAY of a CTE instead of a join.

-- Where few of the leased rows are named by id, they are asked for by `lease_until`, which is there exactly where
-- `state = 'handing'` (the table says so): asked for by state, they would be looked for among all leased rows, dead ones
-- too, by the index of leases. Renewing and releasing name nearly all of them: there that index is right.

-- name: read_standings
-- The standings of some accounts. With an array whose length it sees the planner would plan anew for each call.
SELECT account_id, standing FROM standings WHERE account_id = ANY(ARRAY(SELECT unnest($1::text[])))

-- name: add_accounts
-- Give accounts a standing row, so that beginning an attempt always has one to lock.
INSERT INTO standings (account_id) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING

-- name: insert_deliveries
-- Store planned deliveries with their records, in one order; only those that were not there are returned (rule newOnly).
-- The records are large: they go from the parameter to their table and through no join. Both rows of a message are
-- written by one statement, so that the one is there if and only if the other is, and only one asks for conflicts.
WITH added AS (
    INSERT INTO deliveries (message_id, account_id, recipient_token, tool, instruction_digest, content_digest, state,
        reason, epoch, lease_until, sequence, due_at, not_after, duplicates_allowed, admitted_at)
    SELECT message_id, account_id, recipient_token, tool, instruction_digest, content_digest, state,
        reason, CASE state WHEN 'handing' THEN 1 ELSE 0 END,
        CASE state WHEN 'handing' THEN now() + make_interval(secs => $16) END,
        sequence, due_at, not_after, duplicates_allowed, admitted_at
    FROM (
        SELECT unnest($1::uuid[]) AS message_id, unnest($2::text[]) AS account_id, unnest($3::text[]) AS recipient_token,
            unnest($4::text[]) AS tool, unnest($5::text[]) AS instruction_digest, unnest($6::text[]) AS content_digest,
            unnest($7::text[]) AS state, unnest($8::text[]) AS reason, unnest($9::integer[]) AS sequence,
            unnest($10::timestamptz[]) AS due_at, unnest($11::timestamptz[]) AS not_after,
            unnest($12::boolean[]) AS duplicates_allowed, unnest($13::timestamptz[]) AS admitted_at
    ) AS t
    ON CONFLICT DO NOTHING RETURNING message_id
), stored AS (
    INSERT INTO contents (message_id, event, traceparent)
    SELECT c.message_id, c.event, c.traceparent
    FROM (
        SELECT unnest($1::uuid[]) AS message_id, unnest($14::bytea[]) AS event, unnest($15::bytea[]) AS traceparent
    ) AS c
    WHERE c.message_id = ANY(ARRAY(SELECT message_id FROM added))
)
SELECT ARRAY(SELECT message_id::text FROM added)

-- name: insert_unauthorised
-- Count what came without authority; the same record again is the same row.
INSERT INTO unauthorised (topic, record_partition, record_offset, event_id, reason)
SELECT * FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::text[], $5::text[])
ON CONFLICT DO NOTHING

-- name: insert_outbox
-- Store receipts beside the change that they tell.
INSERT INTO outbox (topic, key, value, headers)
SELECT t.topic, t.key, t.value, t.headers
FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::text[]) WITH ORDINALITY AS t(topic, key, value, headers, place)
ORDER BY t.place RETURNING id

-- name: lock_deliveries
-- Lock deliveries, always in the same order.
SELECT message_id, account_id, recipient_token, instruction_digest, content_digest, state, epoch, round, sequence,
    attempts, not_after
FROM deliveries WHERE message_id = ANY($1::uuid[]) ORDER BY message_id FOR UPDATE

-- name: record_revisions
-- Later words of screening; of two the higher revision stands.
INSERT INTO revisions AS r (message_id, instruction_digest, revision, action, reason, signed, applied)
SELECT n.message_id, n.instruction_digest, n.revision, n.action, n.reason, n.signed, n.applied
FROM unnest($1::uuid[], $2::text[], $3::integer[], $4::text[], $5::text[], $6::json[], $7::boolean[])
    AS n(message_id, instruction_digest, revision, action, reason, signed, applied)
ON CONFLICT (message_id) DO UPDATE
    SET instruction_digest = excluded.instruction_digest, revision = excluded.revision, action = excluded.action, reason = excluded.reason, signed = excluded.signed,
        applied = excluded.applied, received_at = now()
    WHERE r.revision < excluded.revision
RETURNING message_id

-- name: waits_of
-- Why locked deliveries are as they are, and when they are due.
SELECT message_id, reason, due_at FROM deliveries WHERE message_id = ANY($1::uuid[])

-- name: revised_and_waiting
-- Lock waiting deliveries that were blocked when a call was open, or revised before they were planned.
SELECT d.message_id, d.account_id, d.recipient_token, d.instruction_digest, d.content_digest, d.state, d.epoch, d.round,
    d.sequence, d.attempts, d.not_after, d.due_at, r.action, r.reason AS why
FROM revisions r JOIN deliveries d USING (message_id)
WHERE NOT r.applied AND d.instruction_digest = r.instruction_digest
    AND ((r.action = 'block' AND d.state IN ('planned', 'held'))
        OR (r.action = 'allow' AND d.state = 'held' AND d.reason LIKE 'screening%'))
LIMIT $1 FOR UPDATE OF d SKIP LOCKED

-- name: blocked_by_revision
-- Which locked deliveries the newest later word blocks, and why.
SELECT d.message_id, r.reason
FROM deliveries d JOIN revisions r ON r.message_id = d.message_id AND r.instruction_digest = d.instruction_digest
WHERE d.message_id = ANY($1::uuid[]) AND r.message_id = ANY($1::uuid[]) AND r.action = 'block'

-- name: any_revision_waits
-- Whether a later word has anything to do yet.
SELECT EXISTS (SELECT FROM revisions WHERE NOT applied)

-- name: settle_revisions
-- Words that have nothing to do any more; what is in doubt may be sent again, and a block of it stays.
UPDATE revisions r SET applied = true FROM deliveries d
WHERE NOT r.applied AND d.message_id = r.message_id
    AND (d.state IN ('handed_over', 'delivered', 'refused', 'withheld', 'expired')
        OR (r.action = 'allow' AND NOT (d.state = 'held' AND d.reason LIKE 'screening%')))

-- name: attempt_results
-- The results of all attempts of locked deliveries, oldest first.
SELECT message_id, number, result FROM attempts WHERE message_id = ANY($1::uuid[]) ORDER BY message_id, number

-- name: settle_accepted
-- Accepted calls under leases of this worker, with their receipts (rules outcomeByAttempt, join, lattice, outbox): one
-- accepted attempt makes a delivery handed over whatever became of the others. An attempt is closed only under the lock
-- of its delivery, so one that was begun under the present epoch of a delivery that is still `handing` is open. What is
-- not as this worker remembers it is not returned.
WITH moved AS (
    UPDATE deliveries d
    SET state = 'handed_over', reason = o.reason, sequence = o.sequence, lease_until = NULL, changed_at = now()
    FROM (
        SELECT unnest($1::uuid[]) AS message_id, unnest($2::integer[]) AS epoch, unnest($3::integer[]) AS sequence,
            unnest($5::text[]) AS reason
    ) AS o
    WHERE d.message_id = ANY($1::uuid[]) AND d.message_id = o.message_id AND num_nonnulls(d.lease_until) > 0
        AND d.epoch = o.epoch AND d.sequence = o.sequence - 1
    RETURNING d.message_id
), settled AS (
    UPDATE attempts a
    SET result = 'accepted', reason = o.reason, reply_code = o.reply_code, reply_sealed = o.reply_sealed,
        settled_at = now()
    FROM (
        SELECT unnest($1::uuid[]) AS message_id, unnest($4::integer[]) AS number, unnest($5::text[]) AS reason,
            unnest($6::integer[]) AS reply_code, unnest($7::bytea[]) AS reply_sealed
    ) AS o
    WHERE a.message_id = ANY(ARRAY(SELECT message_id FROM moved)) AND a.message_id = o.message_id AND a.number = o.number
        AND array_position(ARRAY['open', 'doubt'], a.result) > 0
), stored AS (
    INSERT INTO outbox (topic, key, value, headers)
    SELECT o.topic, o.key, o.value, o.headers
    FROM (
        SELECT unnest($1::uuid[]) AS message_id, unnest($8::text[]) AS topic, unnest($9::bytea[]) AS key,
            unnest($10::bytea[]) AS value, unnest($11::text[]) AS headers
    ) AS o
    WHERE o.message_id = ANY(ARRAY(SELECT message_id FROM moved))
    RETURNING id
)
SELECT ARRAY(SELECT message_id::text FROM moved) AS moved, ARRAY(SELECT id FROM stored ORDER BY id) AS stored

-- name: settle_attempts
-- Write outcomes by attempt, no lease needed (rule outcomeByAttempt); a known answer is never overwritten.
UPDATE attempts a SET result = o.result, reason = o.reason, reply_code = o.reply_code, reply_sealed = o.reply_sealed,
    settled_at = now()
FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::integer[], $6::bytea[])
    AS o(message_id, number, result, reason, reply_code, reply_sealed)
WHERE a.message_id = ANY($1::uuid[]) AND a.message_id = o.message_id AND a.number = o.number
    AND array_position(ARRAY['open', 'doubt'], a.result) > 0
RETURNING a.message_id, a.number

-- name: change_deliveries
-- Move locked deliveries to their next states.
UPDATE deliveries d SET state = c.state, reason = c.reason, sequence = c.sequence, round = c.round, due_at = c.due_at,
    lease_until = NULL, changed_at = now()
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::integer[], $5::integer[], $6::timestamptz[])
    AS c(message_id, state, reason, sequence, round, due_at)
WHERE d.message_id = ANY($1::uuid[]) AND d.message_id = c.message_id

-- name: begin_attempts
-- Begin attempts in one statement: lease epoch and standing are checked and the attempt opened together
-- (rules epoch, standingInBegin). Who is not returned lost the lease, the standing or the window, or is blocked by a
-- word that came before its verdict was planned. A subquery that is compared looks that word up by its key for each row;
-- NOT EXISTS would be a join, which statistics may turn into a reading of all revisions.
WITH wanted AS (
    SELECT unnest($1::uuid[]) AS message_id, unnest($2::integer[]) AS epoch, unnest($3::text[]) AS account_id
), allowed AS (
    SELECT account_id FROM standings
    WHERE account_id = ANY($3::text[]) AND standing NOT IN ('suspended', 'blocked')
    ORDER BY account_id FOR SHARE
), begun AS (
    UPDATE deliveries d SET attempts = d.attempts + 1
    FROM wanted w JOIN allowed USING (account_id)
    WHERE d.message_id = ANY($1::uuid[]) AND d.message_id = w.message_id AND num_nonnulls(d.lease_until) > 0
        AND d.epoch = w.epoch AND d.not_after > now()
        AND (
            SELECT r.action FROM revisions r
            WHERE r.message_id = d.message_id AND r.instruction_digest = d.instruction_digest
        ) IS DISTINCT FROM 'block'
    RETURNING d.message_id, d.attempts AS number, d.epoch, d.round
), opened AS (
    INSERT INTO attempts (message_id, number, epoch, round, provider, result)
    SELECT message_id, number, epoch, round, $4, 'open' FROM begun
)
SELECT message_id::text, number FROM begun

-- name: recall_attempts
-- Attempts that receipts or the vault's ledger tell of, in a database that was put back; what is known stays.
INSERT INTO attempts AS a (message_id, number, epoch, round, provider, result, reason, reply_code, settled_at)
SELECT r.message_id, r.number, r.epoch, d.round, r.provider, r.result, r.reason, r.reply_code, now()
FROM unnest($1::uuid[], $2::integer[], $3::integer[], $4::text[], $5::text[], $6::text[], $7::integer[])
    AS r(message_id, number, epoch, provider, result, reason, reply_code)
JOIN deliveries d ON d.message_id = r.message_id AND d.message_id = ANY($1::uuid[])
ORDER BY r.message_id, r.number
ON CONFLICT (message_id, number) DO UPDATE
    SET result = excluded.result, reason = excluded.reason, reply_code = excluded.reply_code, settled_at = now()
    WHERE a.result IN ('open', 'doubt')

-- name: recall_states
-- Deliveries as their newest receipt tells them, where it is newer than the row; what waits may go on when it was due.
UPDATE deliveries d SET state = r.state, reason = r.reason, sequence = r.sequence,
    lease_until = NULL, due_at = greatest(d.due_at, now()), changed_at = now()
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::integer[]) AS r(message_id, state, reason, sequence)
WHERE d.message_id = ANY($1::uuid[]) AND d.message_id = r.message_id AND d.sequence < r.sequence

-- name: recall_epochs
-- The vault answers no epoch below one that it served: go on from there.
UPDATE deliveries d SET epoch = greatest(d.epoch, e.epoch)
FROM unnest($1::uuid[], $2::integer[]) AS e(message_id, epoch)
WHERE d.message_id = ANY($1::uuid[]) AND d.message_id = e.message_id

-- name: recall_attempt_counts
-- The next attempt must have a number that no attempt had.
UPDATE deliveries d SET attempts = greatest(d.attempts, c.attempts)
FROM unnest($1::uuid[], $2::integer[]) AS c(message_id, attempts)
WHERE d.message_id = ANY($1::uuid[]) AND d.message_id = c.message_id

-- name: attempts_of_epochs
-- Attempts without outcome that were begun under some leases: never called, after the answer to a begin was lost, or of
-- a process that was killed. The deliveries are locked first, so that a statement which is still running has ended. A
-- claim may have put them in doubt meanwhile.
SELECT a.message_id, a.number, a.result
FROM attempts a JOIN unnest($1::uuid[], $2::integer[]) AS w(message_id, epoch)
    ON a.message_id = w.message_id AND a.epoch = w.epoch
WHERE a.result IN ('open', 'doubt')

-- name: standings_of
-- The standings of some accounts, locked against change.
SELECT account_id, standing FROM standings WHERE account_id = ANY($1::text[]) ORDER BY account_id FOR SHARE

-- name: renew_leases
-- Renew the leases that are held in memory, by id and epoch (rule renewIds).
UPDATE deliveries d SET lease_until = now() + make_interval(secs => $3)
FROM unnest($1::uuid[], $2::integer[]) AS h(message_id, epoch)
WHERE d.message_id = ANY($1::uuid[]) AND d.message_id = h.message_id AND d.epoch = h.epoch AND d.state = 'handing'
RETURNING d.message_id

-- name: release_leases
-- Give leases back that have no open attempt, when this worker stops.
UPDATE deliveries d SET state = 'planned', lease_until = NULL, due_at = now(), reason = 'released by a worker that stopped',
    changed_at = now()
FROM unnest($1::uuid[], $2::integer[]) AS h(message_id, epoch)
WHERE d.message_id = ANY($1::uuid[]) AND d.message_id = h.message_id AND d.epoch = h.epoch AND d.state = 'handing'
    AND NOT EXISTS (SELECT FROM attempts a WHERE a.message_id = d.message_id AND a.result = 'open')

-- name: any_claimable
-- Whether a delivery is due or a lease has ended.
SELECT EXISTS (SELECT FROM deliveries WHERE state = 'planned' AND due_at <= now())
    OR EXISTS (SELECT FROM deliveries WHERE state = 'handing' AND lease_until < now())

-- name: claimable
-- Lock deliveries that are due or whose lease has ended; other workers skip them.
WITH due AS (
    SELECT message_id FROM deliveries WHERE state = 'planned' AND due_at <= now()
    ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED
), ended AS (
    SELECT message_id FROM deliveries WHERE state = 'handing' AND lease_until < now()
    ORDER BY lease_until LIMIT $1 FOR UPDATE SKIP LOCKED
), candidates AS (
    SELECT message_id FROM due UNION ALL SELECT message_id FROM ended LIMIT $1
)
SELECT message_id, EXISTS (
    SELECT FROM attempts a WHERE a.message_id = c.message_id AND a.result = 'open'
) AS has_open FROM candidates c

-- name: doubt_open_attempts
-- Attempts that nobody can tell the outcome of any more (rule openIsDoubt).
UPDATE attempts SET result = 'doubt', reason = 'the worker was lost during the call', settled_at = now()
WHERE message_id = ANY($1::uuid[]) AND result = 'open'

-- name: lease
-- Lease locked deliveries without open attempt under a new epoch (rule onlyOpenIsDoubt), with their records if they are
-- there, the newest later word of screening, and the database's time, by which they were due.
WITH leased AS (
    UPDATE deliveries SET state = 'handing', epoch = epoch + 1, lease_until = now() + make_interval(secs => $2),
        reason = 'leased', changed_at = now()
    WHERE message_id = ANY($1::uuid[]) RETURNING message_id, epoch, sequence, attempts, due_at
)
SELECT message_id, epoch, sequence, attempts, event, traceparent, signed AS revision, r.reason AS revision_reason,
    now() AS leased_at
FROM leased LEFT JOIN contents USING (message_id) LEFT JOIN revisions r USING (message_id) ORDER BY due_at

-- name: oldest_due
-- For how many seconds the delivery that was due first has waited.
SELECT coalesce(extract(epoch FROM now() - min(due_at)), 0)::float8 FROM deliveries
WHERE state = 'planned' AND due_at <= now()

-- name: count_doubts
-- How many deliveries are in doubt; beyond a hundred thousand nobody needs to know.
SELECT count(*) FROM (SELECT FROM deliveries WHERE state = 'in_doubt' LIMIT 100000) AS counted

-- name: to_sweep
-- Which sweeps have anything to do: one look instead of four transactions that find nothing.
SELECT EXISTS (SELECT FROM deliveries WHERE state IN ('planned', 'held') AND not_after <= now()) AS windows,
    EXISTS (
        SELECT FROM standings s JOIN deliveries d USING (account_id)
        WHERE (s.standing = 'blocked' AND d.state IN ('planned', 'held'))
            OR (s.standing = 'suspended' AND d.state = 'planned')
            OR (s.standing NOT IN ('suspended', 'blocked') AND d.state = 'held' AND d.reason LIKE 'standing%')
    ) OR EXISTS (
        SELECT FROM standings WHERE in_force_at IS NULL AND standing IN ('suspended', 'blocked')
    ) AS standings,
    EXISTS (
        SELECT FROM deliveries WHERE state = 'in_doubt' AND duplicates_allowed AND round < $1 AND not_after > now()
    ) AS doubts

-- name: ending
-- Lock deliveries whose validity window has ended while they waited.
SELECT message_id, account_id, recipient_token, instruction_digest, content_digest, state, epoch, round, sequence,
    attempts, not_after
FROM deliveries WHERE state IN ('planned', 'held') AND not_after <= now()
ORDER BY not_after LIMIT $1 FOR UPDATE SKIP LOCKED

-- name: waiting_against_standing
-- Lock waiting deliveries that their account's standing no longer lets be as they are.
SELECT d.message_id, d.account_id, d.recipient_token, d.instruction_digest, d.content_digest, d.state, d.epoch, d.round,
    d.sequence, d.attempts, d.not_after, d.due_at, s.standing
FROM standings s JOIN deliveries d USING (account_id)
WHERE (s.standing = 'blocked' AND d.state IN ('planned', 'held'))
    OR (s.standing = 'suspended' AND d.state = 'planned')
    OR (s.standing NOT IN ('suspended', 'blocked') AND d.state = 'held' AND d.reason LIKE 'standing%')
LIMIT $1 FOR UPDATE OF d SKIP LOCKED

-- name: record_standings
-- Record standings of a higher revision; an older one changes nothing.
INSERT INTO standings AS s (account_id, standing, revision)
SELECT account_id, standing, revision FROM unnest($1::text[], $2::text[], $3::bigint[]) AS t(account_id, standing, revision)
ORDER BY account_id
ON CONFLICT (account_id) DO UPDATE
    SET standing = excluded.standing, revision = excluded.revision, recorded_at = now(), in_force_at = NULL
    WHERE s.revision < excluded.revision
RETURNING account_id

-- name: put_standings_in_force
-- Rule barrier: a standing is in force once no attempt of the account is open any more. The delivery of an open attempt
-- is `handing`, unless the attempt is of a later round and an earlier one, in doubt before, became known as accepted.
UPDATE standings s SET in_force_at = now()
WHERE in_force_at IS NULL AND standing IN ('suspended', 'blocked') AND NOT EXISTS (
    SELECT FROM deliveries d JOIN attempts a USING (message_id)
    WHERE d.state = 'handing' AND d.account_id = s.account_id AND a.result = 'open'
) AND NOT EXISTS (
    SELECT FROM attempts a JOIN deliveries d USING (message_id)
    WHERE a.round > 0 AND a.result = 'open' AND d.account_id = s.account_id
)
RETURNING account_id

-- name: resendable_doubts
-- Lock deliveries in doubt whose instruction allows duplicates and which were sent less often than allowed.
SELECT message_id, account_id, recipient_token, instruction_digest, content_digest, state, epoch, round, sequence,
    attempts, not_after
FROM deliveries
WHERE state = 'in_doubt' AND duplicates_allowed AND round < $1 AND not_after > now()
ORDER BY changed_at LIMIT $2 FOR UPDATE SKIP LOCKED

-- name: doubts
-- Deliveries in doubt with their doubtful attempts, oldest first.
SELECT d.message_id, d.account_id, d.round, d.changed_at, a.number, a.provider, a.reason, a.begun_at, d.duplicates_allowed
FROM deliveries d JOIN attempts a ON a.message_id = d.message_id AND a.result = 'doubt'
WHERE d.state = 'in_doubt' ORDER BY d.changed_at, a.number LIMIT $1

-- name: doubtful_attempt
-- The newest doubtful attempt of a delivery in doubt.
SELECT a.number FROM attempts a JOIN deliveries d USING (message_id)
WHERE a.message_id = $1 AND a.result = 'doubt' AND d.state = 'in_doubt' ORDER BY a.number DESC LIMIT 1

-- name: read_everything
-- The ledger reads the whole table: for that a scan is right.
SET LOCAL enable_seqscan = on

-- name: ledger
-- Deliveries by account and state, and how many of the asked ids have one: the terms of the conservation equation.
SELECT account_id, state, count(*) AS deliveries FROM deliveries
WHERE $1::text IS NULL OR account_id = $1 GROUP BY account_id, state

-- name: present_of
-- Which of these messages have a delivery.
SELECT message_id FROM deliveries WHERE message_id = ANY($1::uuid[])

-- name: delivery
-- One delivery.
SELECT message_id, account_id, tool, state, reason, epoch, round, sequence, attempts, due_at, not_after, admitted_at,
    planned_at, changed_at FROM deliveries WHERE message_id = $1

-- name: attempts_of
-- The attempts of one delivery; the provider's reply stays sealed.
SELECT number, epoch, round, provider, result, reason, reply_code, begun_at, settled_at FROM attempts
WHERE message_id = $1 ORDER BY number

-- name: standing
-- One account's standing as this service has recorded it.
SELECT account_id, standing, revision, recorded_at, in_force_at FROM standings WHERE account_id = $1

-- name: unauthorised
-- What came without authority, newest first.
SELECT topic, record_partition, record_offset, event_id, reason, seen_at FROM unauthorised ORDER BY seen_at DESC LIMIT $1

-- name: count_unauthorised
-- How much came without authority.
SELECT count(*) FROM unauthorised

-- name: unauthorised_counts
-- How much came without authority, by reason.
SELECT reason, count(*) AS records FROM unauthorised GROUP BY reason ORDER BY reason

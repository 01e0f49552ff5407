-- name: living_epochs
-- Epochs whose keys are not destroyed.
SELECT epoch FROM epochs WHERE destroyed_at IS NULL ORDER BY epoch;

-- name: has_accounts
-- Whether there is any account yet.
SELECT EXISTS (SELECT FROM accounts);

-- name: account_keys
-- Wrapped key-encryption keys of accounts, one row per epoch, each with the account's secrets.
SELECT a.account_id, k.epoch, k.wrapped, a.index_secret, a.suppression_secret
FROM accounts a
JOIN account_keys k USING (account_id)
WHERE a.account_id = ANY ($1::text[]);

-- name: any_account
-- The keys of the oldest account: do they open under these key files?
SELECT a.account_id, k.epoch, k.wrapped, a.index_secret, a.suppression_secret
FROM (SELECT * FROM accounts ORDER BY created_at LIMIT 1) AS a
JOIN account_keys k USING (account_id);

-- name: create_accounts
-- First keys of accounts; who comes second changes nothing and reads the first one's.
WITH given AS (
    SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::bytea[])
        AS g (account_id, index_secret, suppression_secret, wrapped)
), created AS (
    INSERT INTO accounts (account_id, index_secret, suppression_secret)
    SELECT account_id, index_secret, suppression_secret FROM given
    WHERE NOT EXISTS (
        SELECT FROM account_ends e WHERE e.account_id = given.account_id AND e.confirmed_at IS NOT NULL
    )
    ORDER BY account_id
    ON CONFLICT DO NOTHING
    RETURNING account_id
)
INSERT INTO account_keys (account_id, epoch, wrapped)
SELECT account_id, $5, wrapped FROM given JOIN created USING (account_id);

-- name: find_subjects
-- Persons by blind index. The lateral part makes an index look-up per person of what a hash join would read as a whole.
SELECT s.account_id, s.identity_index, s.token, k.epoch, k.wrapped, s.used_on < current_date,
    s.address, s.name, s.phone, s.postal_address, s.language, s.time_zone
FROM unnest(string_to_array($1, chr(31)), $2::bytea[]) AS wanted (account_id, identity_index)
JOIN subjects s USING (account_id, identity_index)
CROSS JOIN LATERAL (SELECT epoch, wrapped FROM data_keys WHERE token = s.token OFFSET 0) AS k
WHERE s.identity_index = ANY ($2::bytea[]);

-- name: create_subjects
-- Persons that nobody else created meanwhile, and their keys; returns the tokens created.
WITH wanted AS (
    SELECT * FROM unnest(
        string_to_array($1, chr(31)), string_to_array($2, chr(31)), string_to_array($3, chr(31)), $4::bytea[],
        $5::bytea[], $6::bytea[], $7::bytea[], $8::bytea[], $9::bytea[], $10::bytea[], $11::bytea[],
        string_to_array($12, chr(31))::int[], $13::bytea[], $14::bytea[], $15::bytea[]
    ) AS w (
        token, account_id, kind, identity_index, phone_index, address, name, phone, postal_address, language,
        time_zone, epoch, wrapped, email_hash, telephony_hash
    )
), created AS (
    INSERT INTO subjects (
        token, account_id, kind, identity_index, phone_index, address, name, phone, postal_address, language, time_zone,
        flags
    )
    SELECT token, account_id, kind, identity_index, phone_index, address, name, phone, postal_address, language,
        time_zone,
        CASE WHEN EXISTS (SELECT FROM suppressions WHERE hash = email_hash AND account_id = wanted.account_id)
            THEN 2 ELSE 0 END
        + CASE WHEN EXISTS (SELECT FROM suppressions WHERE hash = telephony_hash AND account_id = wanted.account_id)
            THEN 4 ELSE 0 END
    FROM wanted ORDER BY identity_index, account_id
    ON CONFLICT (identity_index, account_id) DO NOTHING
    RETURNING token
), keyed AS (
    INSERT INTO data_keys (token, epoch, account_id, wrapped)
    SELECT token, epoch, account_id, wrapped FROM wanted JOIN created USING (token)
)
SELECT token FROM created;

-- name: update_fields
-- That persons were used today; of those with a data key all fields are given anew, in the edition that it opens. A new
-- phone brings its opt-out.
WITH given AS (
    SELECT * FROM unnest(
        string_to_array($1, chr(31)), $2::bytea[], $3::bytea[], $4::bytea[], $5::bytea[], $6::bytea[], $7::bytea[],
        $8::bytea[], string_to_array($9, chr(31))::int[], $10::bytea[], $11::bytea[]
    ) AS g (token, phone_index, address, name, phone, postal_address, language, time_zone, epoch, wrapped, phone_hash)
), rekeyed AS (
    UPDATE data_keys k SET wrapped = g.wrapped FROM given g
    WHERE k.token = g.token AND k.epoch = g.epoch AND g.wrapped IS NOT NULL
        AND k.token = ANY (string_to_array($1, chr(31)))
), locked AS (
    SELECT token FROM subjects WHERE token = ANY (string_to_array($1, chr(31))) ORDER BY token FOR UPDATE
)
UPDATE subjects s
SET phone_index = coalesce(g.phone_index, s.phone_index), address = coalesce(g.address, s.address),
    name = coalesce(g.name, s.name), phone = coalesce(g.phone, s.phone),
    postal_address = coalesce(g.postal_address, s.postal_address), language = coalesce(g.language, s.language),
    time_zone = coalesce(g.time_zone, s.time_zone), used_on = current_date,
    flags = s.flags | CASE WHEN g.phone_hash IS NOT NULL
        AND EXISTS (SELECT FROM suppressions o WHERE o.hash = g.phone_hash AND o.account_id = s.account_id)
        THEN 4 ELSE 0 END
FROM given g JOIN locked USING (token)
WHERE s.token = g.token;

-- name: wrapped_keys
-- Wrapped data keys by token.
SELECT k.token, k.account_id, k.epoch, k.wrapped
FROM data_keys k
WHERE k.token = ANY (string_to_array($1, chr(31)));

-- name: processor
-- A processor's contract.
SELECT name, tool, fields, approved AND approved_from <= current_date, country, purpose, approved_from, sub_processors,
    transfer, reasons
FROM processors WHERE name = $1;

-- name: replace_processors
-- The register as the file has it; who is no longer in the file loses its approval.
WITH given AS (
    SELECT name, tool, fields, approved, country, purpose, approved_from, string_to_array(sub_processors, chr(31)) AS sub,
        transfer, reasons, announced_on
    FROM unnest(
        $1::text[], $2::text[], $3::smallint[], $4::boolean[], $5::text[], $6::text[], $7::date[], $8::text[],
        $9::text[], $10::text[], $11::date[]
    ) AS p (
        name, tool, fields, approved, country, purpose, approved_from, sub_processors, transfer, reasons, announced_on
    )
), gone AS (
    UPDATE processors SET approved = false WHERE name <> ALL ($1::text[])
)
INSERT INTO processors (
    name, tool, fields, approved, country, purpose, approved_from, sub_processors, transfer, reasons, announced_on
)
SELECT name, tool, fields, approved, country, purpose, approved_from, sub, transfer, reasons, announced_on
FROM given ORDER BY name
ON CONFLICT (name) DO UPDATE SET
    tool = excluded.tool, fields = excluded.fields, approved = excluded.approved, country = excluded.country,
    purpose = excluded.purpose, approved_from = excluded.approved_from, sub_processors = excluded.sub_processors,
    transfer = excluded.transfer, reasons = excluded.reasons,
    announced_on = excluded.announced_on, loaded_at = now();

-- name: processors
-- The whole register.
SELECT name, tool, fields, approved AND approved_from <= current_date, country, purpose, approved_from, sub_processors,
    transfer, reasons
FROM processors ORDER BY name;

-- name: objecting_accounts
-- Which of some accounts object to a processor.
SELECT account_id FROM objections WHERE processor = $1 AND account_id = ANY ($2::text[]);

-- name: object_to_processor
-- An account's objection.
INSERT INTO objections (account_id, processor, reason) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING;

-- name: lift_objection
-- The end of an account's objection.
DELETE FROM objections WHERE account_id = $1 AND processor = $2;

-- name: record_bases
-- Legal bases; one that ends by its date is looked at when something is disclosed.
WITH told AS (
    SELECT * FROM unnest(
        $1::text[], $2::text[], $3::text[], $4::text[], $5::boolean[], $6::text[], $7::text[], $8::text[],
        $9::timestamptz[], $10::timestamptz[], $11::text[]
    ) AS t (
        account_id, token, purpose, kind, attested, text_digest, language, source, given_at, expires_at, recorded_by
    )
), flagged AS (
    UPDATE subjects SET flags = flags | 8
    WHERE token IN (SELECT token FROM told WHERE expires_at IS NOT NULL) AND flags & 8 = 0
)
INSERT INTO bases (
    account_id, token, purpose, kind, attested, text_digest, language, source, given_at, expires_at, recorded_by
)
SELECT * FROM told;

-- name: withdraw_bases
-- The end of bases, also of those that nobody recorded; persons are flagged so that disclosures look.
WITH told AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS t (account_id, token, purpose, kind)
), flagged AS (
    UPDATE subjects SET flags = flags | 8 WHERE token = ANY ($2::text[])
), ended AS (
    UPDATE bases b SET withdrawn_at = now() FROM told t
    WHERE b.token = t.token AND b.purpose = t.purpose AND b.kind = t.kind AND b.withdrawn_at IS NULL
        AND b.token = ANY ($2::text[])
    RETURNING b.token, b.purpose, b.kind
)
INSERT INTO bases (account_id, token, purpose, kind, attested, given_at, withdrawn_at, recorded_by)
SELECT account_id, token, purpose, kind, true, now(), now(), $5::text FROM told t
WHERE NOT EXISTS (SELECT FROM ended e WHERE e.token = t.token AND e.purpose = t.purpose AND e.kind = t.kind);

-- name: withdraw_bases_again
-- Ends of bases that were told before the database was put back. What was recorded later stands, and a basis that nobody
-- recorded gets its row once.
WITH told AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
        AS t (account_id, token, purpose, kind, moment)
), flagged AS (
    UPDATE subjects SET flags = flags | 8 WHERE token = ANY ($2::text[])
), ended AS (
    UPDATE bases b SET withdrawn_at = t.moment FROM told t
    WHERE b.token = t.token AND b.purpose = t.purpose AND b.kind = t.kind AND b.withdrawn_at IS NULL
        AND b.recorded_at <= t.moment AND b.token = ANY ($2::text[])
)
INSERT INTO bases (account_id, token, purpose, kind, attested, given_at, withdrawn_at, recorded_by)
SELECT DISTINCT ON (t.token, t.purpose, t.kind)
    t.account_id, t.token, t.purpose, t.kind, true, t.moment, t.moment, 'vault'
FROM told t JOIN subjects s ON s.token = t.token AND s.account_id = t.account_id
WHERE s.token = ANY ($2::text[]) AND NOT EXISTS (
    SELECT FROM bases b WHERE b.token = t.token AND b.purpose = t.purpose AND b.kind = t.kind
)
ORDER BY t.token, t.purpose, t.kind, t.moment;

-- name: suppress_again
-- Opt-outs that were told before the database was put back.
INSERT INTO suppressions (account_id, hash, tool, reason, made_at)
SELECT * FROM unnest($1::text[], $2::bytea[], $3::text[], $4::text[], $5::timestamptz[])
ON CONFLICT DO NOTHING;

-- name: suppress
-- Opt-outs.
INSERT INTO suppressions (account_id, hash, tool, reason)
SELECT * FROM unnest($1::text[], $2::bytea[], $3::text[], $4::text[])
ON CONFLICT DO NOTHING;

-- name: lift_suppressions
-- Opt-outs taken back.
DELETE FROM suppressions s USING unnest($1::text[], $2::bytea[]) AS t (account_id, hash)
WHERE s.account_id = t.account_id AND s.hash = t.hash AND s.hash = ANY ($2::bytea[]);

-- name: flag_persons
-- Bits set and bits cleared in what stands against disclosures.
UPDATE subjects s SET flags = (s.flags | t.set_bits) & ~t.clear_bits
FROM unnest($1::text[], $2::smallint[], $3::smallint[]) AS t (token, set_bits, clear_bits)
WHERE s.token = t.token AND s.token = ANY ($1::text[]);

-- name: add_to_outbox
-- Events on their way to Kafka.
INSERT INTO outbox (topic, key, value, headers)
SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::text[]::jsonb[])
RETURNING id;

-- name: bases_of_person
-- Legal bases of a person, oldest first.
SELECT purpose, kind, attested, text_digest, language, source, given_at, expires_at, withdrawn_at, recorded_by
FROM bases WHERE token = $1 ORDER BY id;

-- name: enter_disclosures
-- Rules `vaultEpoch`, `spent` and `ledgerFirst` in one statement: of the items asked for, those that the provider's
-- contract, the person and the instruction allow get their ledger row, and come back with the wrapped key and the sealed
-- fields. The call's row in the access log carries a digest over the ledger rows.
WITH asked AS (
    SELECT * FROM unnest(
            string_to_array($1, chr(31)), string_to_array($2, chr(31)), string_to_array($3, chr(31)),
            string_to_array($4, chr(31)), string_to_array($5, chr(31)), string_to_array($6, chr(31))::int[],
            string_to_array($7, chr(31))::int[], string_to_array($8, chr(31))
        ) WITH ORDINALITY
        AS a (account_id, message_id, token, legal_basis, instruction_digest, epoch, attempt, message_purpose, ordinal)
), contract AS (
    SELECT CASE WHEN tool = 'email' THEN 3 ELSE 5 END AS blocking FROM processors
    WHERE name = $10::text AND approved AND approved_from <= current_date AND fields & $9::smallint = $9::smallint
), known AS (
    SELECT a.*, k.epoch AS key_epoch, k.wrapped,
        CASE WHEN $9::smallint & 1 <> 0 THEN s.address END AS address,
        CASE WHEN $9::smallint & 2 <> 0 THEN s.name END AS name,
        CASE WHEN $9::smallint & 4 <> 0 THEN s.phone END AS phone,
        CASE WHEN $9::smallint & 8 <> 0 THEN s.postal_address END AS postal_address,
        CASE WHEN $9::smallint & 16 <> 0 THEN s.language END AS language,
        CASE WHEN $9::smallint & 32 <> 0 THEN s.time_zone END AS time_zone
    FROM asked a
    CROSS JOIN contract
    JOIN subjects s ON s.token = a.token AND s.account_id = a.account_id
    JOIN data_keys k ON k.token = a.token
    WHERE s.token = ANY (string_to_array($3, chr(31))) AND k.token = ANY (string_to_array($3, chr(31)))
        AND s.flags & contract.blocking = 0
        AND (s.flags & 8 = 0 OR NOT EXISTS (
            SELECT FROM bases b
            WHERE b.token = a.token AND b.purpose = a.message_purpose AND b.kind = split_part(a.legal_basis, ':', 1)
                AND coalesce(least(b.withdrawn_at, b.expires_at), 'infinity') <= now()
                AND NOT EXISTS (
                    SELECT FROM bases later
                    WHERE later.token = b.token AND later.purpose = b.purpose AND later.kind = b.kind AND later.id > b.id
                )
        ))
        AND NOT EXISTS (SELECT FROM objections o WHERE o.account_id = a.account_id AND o.processor = $10::text)
), served AS (
    INSERT INTO instructions AS i (account_id, message_id, epoch)
    SELECT account_id, message_id, epoch FROM known ORDER BY account_id, message_id
    ON CONFLICT (account_id, message_id) DO UPDATE SET epoch = excluded.epoch
        WHERE i.epoch <= excluded.epoch AND i.spent_at IS NULL
    RETURNING account_id, message_id
), disclosed AS (
    SELECT k.*,
        (k.address IS NOT NULL)::int + (k.name IS NOT NULL)::int * 2 + (k.phone IS NOT NULL)::int * 4
        + (k.postal_address IS NOT NULL)::int * 8 + (k.language IS NOT NULL)::int * 16
        + (k.time_zone IS NOT NULL)::int * 32 AS fields
    FROM known k JOIN served USING (account_id, message_id)
), call AS (
    INSERT INTO access_log (caller, operation, purpose, case_id, user_id, provider, outcome, items, answered, digest)
    SELECT $11::text, $12::text, $13::text, $14::text, $15::text, $10::text, 'answered', $16::int, count(*),
        sha256(convert_to(string_agg(json_build_array(
            ordinal, account_id, message_id, token, fields, coalesce(legal_basis, ''), instruction_digest, epoch, attempt
        )::text, E'\n' ORDER BY ordinal), 'UTF8'))
    FROM disclosed
    RETURNING id
), entered AS (
    INSERT INTO disclosures (
        call_id, ordinal, account_id, message_id, token, fields, legal_basis, instruction_digest, epoch, attempt
    )
    SELECT call.id, ordinal, account_id, message_id, token, fields, coalesce(legal_basis, ''), instruction_digest,
        epoch, attempt
    FROM disclosed CROSS JOIN call
)
SELECT ordinal, key_epoch, wrapped, address, name, phone, postal_address, language, time_zone
FROM disclosed;

-- name: person_states
-- What stands against a disclosure to persons.
SELECT token, account_id, flags FROM subjects WHERE token = ANY ($1::text[]);

-- name: withdrawn_bases
-- Of persons, the purposes and kinds whose latest basis was withdrawn.
SELECT token, purpose, kind FROM (
    SELECT DISTINCT ON (token, purpose, kind) token, purpose, kind, withdrawn_at
    FROM bases WHERE token = ANY ($1::text[]) ORDER BY token, purpose, kind, id DESC
) latest WHERE withdrawn_at IS NOT NULL;

-- name: unsettled
-- Disclosures since a moment whose messages are not known to be handed over, the last of each: what a caller that lost
-- its memory may have begun.
SELECT d.message_id, max(d.epoch) AS epoch, max(d.attempt) AS attempt
FROM (
    SELECT id FROM access_log WHERE provider = ANY (ARRAY(SELECT name FROM processors)) AND at >= $1 AND caller = $2
) AS c
CROSS JOIN LATERAL (SELECT * FROM disclosures WHERE call_id = c.id OFFSET 0) AS d
CROSS JOIN LATERAL (
    SELECT NOT EXISTS (
        SELECT FROM instructions
        WHERE account_id = d.account_id AND message_id = d.message_id AND spent_at IS NOT NULL
    ) AS is_open OFFSET 0
) AS s
WHERE s.is_open
GROUP BY d.message_id
ORDER BY d.message_id;

-- name: instructions
-- What is known of instructions that were refused.
SELECT i.account_id, i.message_id, i.epoch, i.spent_at, i.spent_call || '.' || i.spent_ordinal AS entry, l.at
FROM instructions i
LEFT JOIN LATERAL (SELECT at FROM access_log WHERE id = i.spent_call OFFSET 0) AS l ON true
WHERE i.account_id = ANY ($1::text[]) AND i.message_id = ANY ($2::text[]);

-- name: spend
-- Marks instructions spent and acknowledges the ledger entry of the attempt, or the last one; once.
WITH told AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::timestamptz[])
        AS t (account_id, message_id, state, attempt, occurred_at)
)
INSERT INTO instructions AS i (account_id, message_id, epoch, spent_at, spent_state, spent_call, spent_ordinal)
SELECT t.account_id, t.message_id, 0, t.occurred_at, t.state, entry.call_id, entry.ordinal
FROM told t
LEFT JOIN LATERAL (
    SELECT d.call_id, d.ordinal FROM disclosures d
    WHERE d.message_id = t.message_id AND d.account_id = t.account_id
    ORDER BY (d.attempt = t.attempt) DESC NULLS LAST, d.call_id DESC
    LIMIT 1
) AS entry ON true
ORDER BY t.account_id, t.message_id
ON CONFLICT (account_id, message_id) DO UPDATE SET
    spent_at = excluded.spent_at, spent_state = excluded.spent_state,
    spent_call = excluded.spent_call, spent_ordinal = excluded.spent_ordinal
    WHERE i.spent_at IS NULL;

-- name: insert_unauthorised
-- Records without authority, each once.
INSERT INTO unauthorised (topic, partition, record_offset, event_id, reason)
SELECT * FROM unnest($1::text[], $2::int[], $3::bigint[], $4::text[], $5::text[])
ON CONFLICT DO NOTHING;

-- name: log_access
-- One call.
INSERT INTO access_log (caller, operation, purpose, case_id, user_id, provider, outcome, items, answered, touched)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

-- name: disclosures_of_message
-- The ledger of one message, oldest first, with the acknowledgement of the entry that was spent.
SELECT d.*, l.at, l.provider, l.purpose, l.caller,
    CASE WHEN i.spent_call = d.call_id AND i.spent_ordinal = d.ordinal THEN i.spent_at END AS acknowledged_at
FROM disclosures d
CROSS JOIN LATERAL (SELECT at, provider, purpose, caller FROM access_log WHERE id = d.call_id OFFSET 0) AS l
LEFT JOIN LATERAL (
    SELECT spent_at, spent_call, spent_ordinal FROM instructions
    WHERE account_id = d.account_id AND message_id = d.message_id OFFSET 0
) AS i ON true
WHERE d.message_id = $1
ORDER BY d.call_id, d.ordinal
LIMIT $2;

-- name: unauthorised_counts
-- How many records had no authority, by reason.
SELECT reason, count(*) AS records FROM unauthorised GROUP BY reason ORDER BY reason;

-- name: erased_tokens
-- Which tokens were persons that are erased.
SELECT token FROM erasures WHERE token = ANY (string_to_array($1, chr(31)));

-- name: find_tokens
-- Persons by blind index of their address, or of their phone.
SELECT w.ordinal, s.token
FROM unnest(string_to_array($1, chr(31)), $2::bytea[], $3::bytea[]) WITH ORDINALITY
    AS w (account_id, identity_index, phone_index, ordinal)
CROSS JOIN LATERAL (
    SELECT token FROM subjects WHERE identity_index = w.identity_index AND account_id = w.account_id
    UNION
    SELECT token FROM subjects WHERE phone_index = w.phone_index AND account_id = w.account_id
    OFFSET 0
) AS s
ORDER BY w.ordinal, s.token;

-- name: lock_persons
-- The persons of some tokens, held until the transaction ends.
SELECT token, account_id FROM subjects
WHERE token = ANY (string_to_array($1, chr(31))) ORDER BY token FOR UPDATE;

-- name: erase_persons
-- Key, fields and blind indexes of locked persons gone, the erasure recorded and counted, a task for each provider that
-- ever received one of them; returns what was not recorded before. A key that a restored database has moved to a later
-- epoch than its erasure tells is recorded with that one.
WITH told AS (
    SELECT * FROM unnest(
        string_to_array($1, chr(31)), string_to_array($2, chr(31)), $3::timestamptz[], string_to_array($4, chr(31)),
        string_to_array($5, chr(31)), string_to_array($6, chr(31))::int[]
    ) AS t (token, account_id, erased_at, reason, asked_by, epoch)
), keys AS (
    DELETE FROM data_keys WHERE token = ANY (string_to_array($1, chr(31))) RETURNING token, epoch
), persons AS (
    DELETE FROM subjects WHERE token = ANY (string_to_array($1, chr(31)))
), recorded AS (
    INSERT INTO erasures (token, account_id, erased_at, reason, asked_by, epoch)
    SELECT told.token, account_id, erased_at, reason, asked_by, greatest(told.epoch, keys.epoch) AS epoch
    FROM told LEFT JOIN keys USING (token) ORDER BY token, epoch DESC
    ON CONFLICT (token) DO NOTHING
    RETURNING token, account_id
), counted AS (
    UPDATE erasure_count SET erased = erased + (SELECT count(*) FROM recorded)
), tasks AS (
    INSERT INTO notification_tasks (account_id, token, provider, kind)
    SELECT DISTINCT r.account_id, r.token, l.provider, 'erasure'
    FROM recorded r
    CROSS JOIN LATERAL (SELECT DISTINCT call_id FROM disclosures WHERE token = r.token OFFSET 0) AS d
    CROSS JOIN LATERAL (SELECT provider FROM access_log WHERE id = d.call_id OFFSET 0) AS l
)
SELECT token FROM recorded;

-- name: erasure_count
-- How many erasures this database knows.
SELECT erased FROM erasure_count;

-- name: erasure
-- One erasure, with the end of the epoch whose keys could still open an old copy.
SELECT e.token, e.account_id, e.erased_at, e.reason, e.epoch, p.destroyed_at AS unreadable_at
FROM erasures e LEFT JOIN epochs p USING (epoch)
WHERE e.token = $1;

-- name: make_epoch
-- The partition and the row of an epoch.
SELECT make_epoch($1);

-- name: drop_epoch
-- The end of an epoch from which no data key is left.
SELECT drop_epoch($1);

-- name: epoch_age
-- The newest epoch and its age in seconds.
SELECT epoch, extract(epoch FROM now() - began_at)::float8 FROM epochs ORDER BY epoch DESC LIMIT 1;

-- name: accounts_without_key
-- Accounts that have no key of an epoch yet.
SELECT account_id FROM accounts a
WHERE account_id > $2 AND NOT EXISTS (
    SELECT FROM account_keys k WHERE k.account_id = a.account_id AND k.epoch = $1
)
ORDER BY account_id LIMIT $3;

-- name: add_account_keys
-- Keys of accounts in a new epoch.
INSERT INTO account_keys (account_id, epoch, wrapped)
SELECT account_id, $3, wrapped FROM unnest($1::text[], $2::bytea[]) AS g (account_id, wrapped)
ON CONFLICT DO NOTHING;

-- name: keys_of_epoch
-- Data keys of an epoch in the order of their tokens.
SELECT k.token, k.account_id, k.epoch, k.wrapped
FROM data_keys k
WHERE k.epoch = $1 AND k.token > $2
ORDER BY k.token LIMIT $3;

-- name: lock_moves
-- Keeps out who holds keys until the transaction ends: what ran beside a move would miss a row in its new partition.
SELECT pg_advisory_xact_lock(5501);

-- name: hold_keys
-- Keeps moves out until the transaction ends, and others that hold keys not.
SELECT pg_advisory_xact_lock_shared(5501);

-- name: lock_epochs
-- One process ends epochs at a time; false when another one is at it.
SELECT pg_try_advisory_lock(5502);

-- name: unlock_epochs
-- Lets others end epochs.
SELECT pg_advisory_unlock(5502);

-- name: move_keys
-- Data keys into the partition of another epoch; some are not taken along.
WITH moved AS (
    DELETE FROM data_keys
    WHERE epoch = $4 AND token = ANY (string_to_array($1, chr(31)) || string_to_array($6, chr(31)))
)
INSERT INTO data_keys (token, account_id, wrapped, epoch)
SELECT token, account_id, wrapped, $5
FROM unnest(string_to_array($1, chr(31)), string_to_array($2, chr(31)), $3::bytea[]) AS m (token, account_id, wrapped);

-- name: lock_sequencer
-- One sequencer at a time; false when another one is at it.
SELECT pg_try_advisory_xact_lock(5503);

-- name: last_checkpoint
-- The newest head: size and right edge.
SELECT size, nodes FROM log_checkpoints ORDER BY size DESC LIMIT 1;

-- name: pending_entries
-- Rows of the access log that have no position yet, oldest first.
SELECT l.* FROM (SELECT entry_id FROM log_pending ORDER BY entry_id LIMIT $1) AS p
CROSS JOIN LATERAL (SELECT * FROM access_log WHERE id = p.entry_id OFFSET 0) AS l
ORDER BY l.id;

-- name: add_leaves
-- Positions and hashes of entries, and the signed head over them.
WITH given AS (
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS g (position, entry_id, hash)
), added AS (
    INSERT INTO log_leaves (position, entry_id, hash) SELECT position, entry_id, hash FROM given
), done AS (
    DELETE FROM log_pending WHERE entry_id = ANY ($2::bigint[])
)
INSERT INTO log_checkpoints (size, nodes, event) VALUES ($4, $5, $6);

-- name: unpublished_checkpoints
-- Heads that Kafka has not acknowledged.
SELECT size, event FROM log_checkpoints WHERE NOT published ORDER BY size LIMIT 100;

-- name: checkpoints_published
-- Heads that Kafka has acknowledged.
UPDATE log_checkpoints SET published = true WHERE size = ANY ($1::bigint[]);

-- name: log_entries
-- Entries of the log in their order, from a position on, each with its ledger rows.
SELECT f.position, l.*, (
    SELECT json_agg(json_build_array(
        d.ordinal, d.account_id, d.message_id, d.token, d.fields, d.legal_basis, d.instruction_digest, d.epoch, d.attempt
    ) ORDER BY d.ordinal)
    FROM disclosures d WHERE d.call_id = l.id
) AS ledger
FROM (SELECT * FROM log_leaves WHERE position >= $1 ORDER BY position LIMIT $2) AS f
CROSS JOIN LATERAL (SELECT * FROM access_log WHERE id = f.entry_id OFFSET 0) AS l
ORDER BY f.position;

-- name: leaf_hashes
-- Hashes of the first leaves, in their order.
SELECT hash FROM log_leaves WHERE position < $1 ORDER BY position;

-- name: gather_in_memory
-- The next query gathers a million persons: for once in memory.
SET LOCAL work_mem = '128MB';

-- name: breach_scope
-- What a provider received between two times: persons, disclosures and fields in all, and a page of the persons with
-- their field sets, how often, when first and last. One pass over the ledger.
WITH exposed AS MATERIALIZED (
    SELECT d.account_id, d.token, bit_or(d.fields)::int AS fields, count(*) AS disclosures, min(c.at) AS first,
        max(c.at) AS last
    FROM (SELECT id, at FROM access_log WHERE provider = $1 AND at >= $2 AND at < $3) AS c
    CROSS JOIN LATERAL (SELECT account_id, token, fields FROM disclosures WHERE call_id = c.id OFFSET 0) AS d
    GROUP BY d.account_id, d.token
)
SELECT total.*, page.*
FROM (
    SELECT count(*), coalesce(sum(disclosures), 0)::bigint, coalesce(bit_or(fields), 0)::int FROM exposed
) AS total (persons, all_disclosures, all_fields)
LEFT JOIN (SELECT * FROM exposed WHERE token > $4 ORDER BY token LIMIT $5) AS page ON true
ORDER BY page.token;

-- name: list_unauthorised
-- The newest records without authority.
SELECT topic, partition AS record_partition, record_offset, event_id, reason, seen_at
FROM unauthorised ORDER BY seen_at DESC, record_offset DESC LIMIT $1;

-- name: ended_accounts
-- Which of some accounts have ended, or are about to.
SELECT account_id FROM account_ends WHERE account_id = ANY ($1::text[]) AND confirmed_at IS NOT NULL;

-- name: persons
-- Persons with their sealed fields and wrapped data key.
SELECT s.token, s.account_id, s.kind, s.flags, s.created_at, s.used_on, k.epoch, k.wrapped,
    s.address, s.name, s.phone, s.postal_address, s.language, s.time_zone
FROM subjects s
LEFT JOIN LATERAL (SELECT epoch, wrapped FROM data_keys WHERE token = s.token OFFSET 0) AS k ON true
WHERE s.token = ANY ($1::text[])
ORDER BY s.token;

-- name: tokens_of_account
-- Persons of an account in the order of their tokens.
SELECT token FROM subjects WHERE account_id = $1 AND token > $2 ORDER BY token LIMIT $3;

-- name: erasures
-- Erasures of persons, with the end of the epoch whose keys could still open an old copy.
SELECT e.token, e.account_id, e.erased_at, e.reason, p.destroyed_at AS unreadable_at
FROM erasures e LEFT JOIN epochs p USING (epoch)
WHERE e.token = ANY ($1::text[])
ORDER BY e.token;

-- name: disclosures
-- What was disclosed of each person, newest first, before an entry and up to a limit each; with the acknowledgement. The
-- inner part keeps the planner from reading the ledger backwards until it has met the person often enough.
SELECT d.token, d.call_id, d.ordinal, l.at, l.provider, p.country, p.purpose AS why, d.fields, d.message_id,
    d.legal_basis, d.attempt,
    CASE WHEN i.spent_call = d.call_id AND i.spent_ordinal = d.ordinal THEN i.spent_at END AS acknowledged_at
FROM unnest($1::text[]) AS w (token)
CROSS JOIN LATERAL (
    SELECT * FROM (SELECT * FROM disclosures WHERE token = w.token OFFSET 0) AS theirs
    WHERE (call_id, ordinal) < ($2::bigint, $3::smallint)
    ORDER BY call_id DESC, ordinal DESC LIMIT $4
) AS d
CROSS JOIN LATERAL (SELECT at, provider FROM access_log WHERE id = d.call_id OFFSET 0) AS l
LEFT JOIN LATERAL (
    SELECT spent_call, spent_ordinal, spent_at FROM instructions
    WHERE account_id = d.account_id AND message_id = d.message_id OFFSET 0
) AS i ON true
LEFT JOIN LATERAL (SELECT country, purpose FROM processors WHERE name = l.provider OFFSET 0) AS p ON true
ORDER BY d.token, d.call_id DESC, d.ordinal DESC;

-- name: bases
-- Legal bases of persons, oldest first.
SELECT token, purpose, kind, attested, text_digest, language, source, given_at, expires_at, withdrawn_at, recorded_by,
    coalesce(least(withdrawn_at, expires_at), 'infinity') > now() AS in_force
FROM bases WHERE token = ANY ($1::text[]) ORDER BY token, id;

-- name: opt_outs
-- Opt-outs by keyed hash.
SELECT hash, account_id, tool, reason, made_at FROM suppressions WHERE hash = ANY ($1::bytea[]) ORDER BY made_at;

-- name: handlings
-- Calls by which somebody looked persons up, read their messages, or changed something of them; the newest, up to a
-- limit each.
SELECT w.token, l.at, l.caller, l.operation, l.purpose
FROM unnest($1::text[]) AS w (token)
CROSS JOIN LATERAL (
    SELECT * FROM (SELECT * FROM access_log WHERE touched @> ARRAY[w.token] OFFSET 0) AS theirs
    WHERE outcome = 'answered'
    ORDER BY id DESC LIMIT $2
) AS l
ORDER BY w.token, l.id;

-- name: notices_of
-- Providers that have to be told something about persons.
SELECT token, provider, kind, made_at, due_at, done_at FROM notification_tasks
WHERE token = ANY ($1::text[]) ORDER BY token, id;

-- name: rules_for
-- The rules of accounts, and those of all.
SELECT account_id, kind, unused_days, basis_ended_days FROM retention_rules
WHERE account_id = ANY ($1::text[]) OR account_id = '*';

-- name: all_rules
-- Every rule.
SELECT account_id, kind, unused_days, basis_ended_days, set_by, set_at FROM retention_rules ORDER BY account_id, kind;

-- name: set_rule
-- A rule of an account and kind.
INSERT INTO retention_rules (account_id, kind, unused_days, basis_ended_days, set_by) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (account_id, kind) DO UPDATE SET
    unused_days = excluded.unused_days, basis_ended_days = excluded.basis_ended_days, set_by = excluded.set_by,
    set_at = now();

-- name: remove_rule
-- The end of an account's own rule.
DELETE FROM retention_rules WHERE account_id = $1 AND kind = $2 AND account_id <> '*';

-- name: basis_ends
-- When the last of all recorded bases of persons ended; persons with one in force, or with none, are left out.
SELECT token, max(least(withdrawn_at, expires_at)) AS ended_at
FROM bases WHERE token = ANY ($1::text[])
GROUP BY token HAVING bool_and(coalesce(least(withdrawn_at, expires_at), 'infinity') <= now());

-- name: read_all
-- The next query reads a whole table: for once that is the cheaper way.
SET LOCAL enable_seqscan = on;

-- name: due_counts
-- How many persons are due, by account, kind and rule, and how many of them are restricted and therefore kept.
WITH ended AS (
    SELECT token, max(least(withdrawn_at, expires_at)) AS ended_at FROM bases
    WHERE $1::text IS NULL OR account_id = $1
    GROUP BY token HAVING bool_and(coalesce(least(withdrawn_at, expires_at), 'infinity') <= now())
), kept AS (
    SELECT s.account_id, s.kind, s.flags & 1 AS restricted, s.used_on, e.ended_at,
        coalesce(own.unused_days, general.unused_days) AS unused_days,
        CASE WHEN own.kind IS NULL THEN general.basis_ended_days ELSE own.basis_ended_days END AS basis_ended_days
    FROM subjects s
    JOIN retention_rules general ON general.kind = s.kind AND general.account_id = '*'
    LEFT JOIN retention_rules own ON own.kind = s.kind AND own.account_id = s.account_id
    LEFT JOIN ended e ON e.token = s.token
    WHERE $1::text IS NULL OR s.account_id = $1
), due AS (
    SELECT account_id, kind, restricted, 'unused' AS rule, unused_days AS days FROM kept
    WHERE used_on < current_date - unused_days
    UNION ALL
    SELECT account_id, kind, restricted, 'basis-ended', basis_ended_days FROM kept
    WHERE used_on >= current_date - unused_days AND ended_at >= used_on
        AND ended_at < now() - make_interval(days => basis_ended_days)
)
SELECT account_id, kind, rule, days, count(*) AS persons, sum(restricted)::bigint AS kept
FROM due GROUP BY account_id, kind, rule, days ORDER BY account_id, kind, rule;

-- name: lock_due
-- Persons that are due and not restricted, held until the transaction ends; whoever uses one of them waits.
SELECT s.token, s.account_id FROM subjects s
CROSS JOIN LATERAL (
    SELECT unused_days, basis_ended_days FROM retention_rules
    WHERE kind = s.kind AND account_id IN (s.account_id, '*') ORDER BY account_id = '*' LIMIT 1
) AS r
WHERE ($1::text IS NULL OR s.account_id = $1) AND s.token > $2 AND s.flags & 1 = 0
    AND (
        s.used_on < current_date - r.unused_days
        OR r.basis_ended_days IS NOT NULL AND EXISTS (
            SELECT FROM bases b WHERE b.token = s.token
            HAVING count(*) > 0
                AND max(coalesce(least(b.withdrawn_at, b.expires_at), 'infinity'))
                    < now() - make_interval(days => r.basis_ended_days)
                AND max(coalesce(least(b.withdrawn_at, b.expires_at), 'infinity')) >= s.used_on
        )
    )
ORDER BY s.token LIMIT $3
FOR UPDATE OF s;

-- name: rectify
-- The fields of persons in a new edition, and the data keys that open it; a NULL removes a value.
WITH given AS (
    SELECT * FROM unnest(
        $1::text[], $2::bytea[], $3::bytea[], $4::smallint[], $5::int[], $6::bytea[], $7::bytea[], $8::bytea[],
        $9::bytea[], $10::bytea[], $11::bytea[], $12::bytea[]
    ) AS g (
        token, identity_index, phone_index, flags, epoch, wrapped, address, name, phone, postal_address, language,
        time_zone
    )
), rekeyed AS (
    UPDATE data_keys k SET wrapped = g.wrapped FROM given g
    WHERE k.token = g.token AND k.epoch = g.epoch AND k.token = ANY ($1::text[])
)
UPDATE subjects s
SET identity_index = g.identity_index, phone_index = g.phone_index, flags = s.flags | g.flags, address = g.address,
    name = g.name, phone = g.phone, postal_address = g.postal_address, language = g.language, time_zone = g.time_zone
FROM given g
WHERE s.token = g.token AND s.token = ANY ($1::text[]);

-- name: holders
-- Who has some identity indexes now.
SELECT account_id, identity_index, token FROM subjects WHERE identity_index = ANY ($1::bytea[]);

-- name: add_notices
-- A notice for each provider that ever received one of some persons.
INSERT INTO notification_tasks (account_id, token, provider, kind)
SELECT DISTINCT w.account_id, w.token, l.provider, $3::text
FROM unnest($1::text[], $2::text[]) AS w (account_id, token)
CROSS JOIN LATERAL (SELECT DISTINCT call_id FROM disclosures WHERE token = w.token OFFSET 0) AS d
CROSS JOIN LATERAL (SELECT provider FROM access_log WHERE id = d.call_id OFFSET 0) AS l;

-- name: open_notices
-- Notices that nobody has done yet, the most urgent first.
SELECT id, account_id, token, provider, kind, made_at, due_at FROM notification_tasks
WHERE done_at IS NULL ORDER BY due_at, id LIMIT $1;

-- name: count_open_notices
-- How many notices are not done.
SELECT count(*) FROM notification_tasks WHERE done_at IS NULL;

-- name: finish_notices
-- Notices that are done now; those that were done before keep their evidence.
UPDATE notification_tasks t
SET done_at = coalesce(t.done_at, now()), evidence = coalesce(t.evidence, g.evidence)
FROM unnest($1::bigint[], $2::text[]) AS g (id, evidence)
WHERE t.id = g.id AND t.id = ANY ($1::bigint[])
RETURNING t.id, t.done_at;

-- name: register
-- The whole register with its dates, and how many accounts object to each processor.
SELECT p.name, p.tool, p.fields, p.approved, p.approved_from, p.announced_on, p.country, p.purpose, p.sub_processors,
    p.transfer, p.reasons, p.loaded_at,
    CASE
        WHEN NOT p.approved THEN 'not-approved'
        WHEN p.approved_from > current_date THEN 'in-notice'
        ELSE 'approved'
    END AS state
FROM processors p ORDER BY p.name;

-- name: objections
-- Every objection.
SELECT account_id, processor, reason, made_at FROM objections ORDER BY account_id, processor;

-- name: account_counts
-- Persons by account and kind, with the fields that some of them have.
SELECT account_id, kind, count(*) AS persons,
    (bool_or(address IS NOT NULL)::int + bool_or(name IS NOT NULL)::int * 2 + bool_or(phone IS NOT NULL)::int * 4
    + bool_or(postal_address IS NOT NULL)::int * 8 + bool_or(language IS NOT NULL)::int * 16
    + bool_or(time_zone IS NOT NULL)::int * 32) AS fields
FROM subjects GROUP BY account_id, kind ORDER BY account_id, kind;

-- name: account_purposes
-- Purposes for which accounts have bases on record.
SELECT account_id, array_agg(DISTINCT purpose || ' (' || kind || ')' ORDER BY purpose || ' (' || kind || ')') AS purposes
FROM bases GROUP BY account_id;

-- name: all_accounts
-- Every account that has keys, and whether it is ending.
SELECT a.account_id, a.created_at FROM accounts a ORDER BY a.account_id;

-- name: measures
-- What the database says of itself: tables with forced row-level security, the role at work, epochs, the log's head.
SELECT
    (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND c.relforcerowsecurity) AS walled_tables,
    (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute t ON t.attrelid = c.oid
        WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND t.attname = 'account_id'
            AND NOT c.relforcerowsecurity) AS unwalled_tables,
    (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user) AS is_above_walls,
    (SELECT max(epoch) FROM epochs) AS epoch,
    (SELECT began_at FROM epochs ORDER BY epoch DESC LIMIT 1) AS epoch_began_at,
    (SELECT size FROM log_checkpoints ORDER BY size DESC LIMIT 1) AS log_size,
    (SELECT signed_at FROM log_checkpoints ORDER BY size DESC LIMIT 1) AS log_signed_at,
    (SELECT erased FROM erasure_count) AS erased;

-- name: ask_end
-- The first step of an account's end; asking again makes a new confirmation until it is confirmed.
INSERT INTO account_ends AS e (account_id, asked_by, confirmation) VALUES ($1, $2, $3)
ON CONFLICT (account_id) DO UPDATE
    SET asked_at = now(), asked_by = excluded.asked_by, confirmation = excluded.confirmation, exported_at = NULL
    WHERE e.confirmed_at IS NULL;

-- name: account_end
-- How far an account's end is.
SELECT account_id, confirmation, asked_at, asked_by, exported_at, confirmed_at, epoch, ended_at
FROM account_ends WHERE account_id = $1;

-- name: mark_exported
-- That an account was exported whole after its end was asked for.
UPDATE account_ends SET exported_at = now() WHERE account_id = $1 AND confirmed_at IS NULL AND asked_at <= $2;

-- name: confirm_end
-- The second step; once.
UPDATE account_ends SET confirmed_at = coalesce(confirmed_at, now()) WHERE account_id = $1;

-- name: has_account
-- Whether an account has keys.
SELECT EXISTS (SELECT FROM accounts WHERE account_id = $1);

-- name: count_persons
-- How many persons an account has, and how many of it are erased.
SELECT (SELECT count(*) FROM subjects WHERE account_id = $1) AS persons,
    (SELECT count(*) FROM erasures WHERE account_id = $1) AS erased;

-- name: lock_some
-- Some persons of an account, held until the transaction ends.
SELECT token, account_id FROM subjects WHERE account_id = $1 ORDER BY token LIMIT $2 FOR UPDATE;

-- name: drop_account_keys
-- The keys and secrets of an account, its opt-outs (nothing can be compared with them any more) and its own rules.
WITH keys AS (
    DELETE FROM account_keys WHERE account_id = $1
), opt_outs AS (
    DELETE FROM suppressions WHERE account_id = $1
), rules AS (
    DELETE FROM retention_rules WHERE account_id = $1
)
DELETE FROM accounts WHERE account_id = $1;

-- name: finish_end
-- That nothing of an account opens any more, since the end of an epoch.
UPDATE account_ends SET epoch = $2, ended_at = now() WHERE account_id = $1 AND ended_at IS NULL;

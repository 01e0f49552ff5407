-- Every policy that was ever in force here, with its text: a verdict is replayed by the policy that it names.
CREATE TABLE policies (
    policy text PRIMARY KEY,
    document text NOT NULL,
    kept_at timestamptz NOT NULL
);

-- What was decided about policies, and by whom; the topic keeps only the newest of each.
CREATE TABLE policy_states (
    policy text NOT NULL,
    revision bigint NOT NULL,
    status text NOT NULL CHECK (status IN ('shadow', 'active', 'rolled-back')),
    reason text NOT NULL,
    decided_by text NOT NULL CHECK (decided_by IN ('person', 'machine')),
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (policy, revision)
);

-- How many messages a rule with a cap has stopped on a day (UTC), over all copies.
CREATE TABLE rule_days (
    day date NOT NULL,
    rule text NOT NULL,
    messages bigint NOT NULL,
    PRIMARY KEY (day, rule)
);

-- Bases were kept in other words (`legitimate-interest`) than messages name theirs in, so that to end one ended nothing.
SELECT set_config('vault.accounts', '*', true);
UPDATE bases SET kind = replace(kind, '-', '_') WHERE kind LIKE '%-%';

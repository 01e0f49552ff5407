-- The vault does not see when a user or an administrator is at work: the day he was entered must not end him soon.
SELECT set_config('vault.accounts', '*', true);
UPDATE retention_rules SET unused_days = 3650
WHERE account_id = '*' AND kind IN ('user', 'administrator') AND set_by = 'default';

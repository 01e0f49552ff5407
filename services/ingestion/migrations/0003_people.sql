-- Who a user or administrator is stands in the vault, as a person of that kind; here is the token, if he was named.
ALTER TABLE users ADD COLUMN person_token text;

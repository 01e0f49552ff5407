-- Who complained, if he said so: a token of the vault, where he is a person of kind complainant. His address and name
-- stand there alone, also not as a digest here: the digest of the request leaves them out.
ALTER TABLE complaints ADD COLUMN complainant_token text CHECK (length(complainant_token) BETWEEN 1 AND 100);

-- An attempt is settled in place (HOT): no index looks at its result any more. Who asks for open attempts finds them by
-- deliveries that are `handing`; only an attempt of a later round may be open when its delivery is not, since an earlier
-- one that was in doubt may be known as accepted meanwhile. Those are few.
CREATE INDEX attempts_again ON attempts (message_id) WHERE round > 0;
DROP INDEX attempts_open;

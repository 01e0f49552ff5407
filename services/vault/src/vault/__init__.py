"""Personal data: subjects, keys, disclosure ledger."""

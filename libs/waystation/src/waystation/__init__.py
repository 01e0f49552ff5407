"""The waystation command: local stack, demo, traces, ledger, topics, dead letters."""

"""The transactional outbox: events stored with the change that they tell, published after the commit.

Each service that writes events outside of a Kafka batch has this table (rule `oneTransaction`):

    CREATE TABLE outbox (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        topic text NOT NULL, key bytea NOT NULL, value bytea NOT NULL,
        headers jsonb NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now()
    );
"""

from common.outbox.relay import OutboxRelay, StoredRecord, outbox_columns

__all__ = ["OutboxRelay", "StoredRecord", "outbox_columns"]

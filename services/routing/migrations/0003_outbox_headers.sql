-- Headers are written and read whole: as text they are neither parsed nor built anew.
ALTER TABLE outbox ALTER COLUMN headers TYPE text USING headers::text;
ALTER TABLE outbox ALTER COLUMN headers SET STORAGE EXTERNAL;

-- A delivery is inserted leased, begun once and settled once: half of a page is left for the begun row, so that beginning
-- an attempt touches no index (HOT) and settling finds the page again. Attempts change once.
ALTER TABLE deliveries SET (fillfactor = 50);
ALTER TABLE attempts SET (fillfactor = 60);

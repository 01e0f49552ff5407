"""HTTP: problem documents, health, the server, and the client of the vault."""

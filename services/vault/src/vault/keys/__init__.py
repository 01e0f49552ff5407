"""Keys: root, account (one key-encryption key per epoch), subject; what each may seal."""

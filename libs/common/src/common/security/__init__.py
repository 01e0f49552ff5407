"""Signatures over batches, service tokens, and sealed content."""

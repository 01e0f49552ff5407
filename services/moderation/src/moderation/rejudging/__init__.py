"""Re-judgement: what judged messages carried is kept as hashes, so that a later "bad" finds them again."""

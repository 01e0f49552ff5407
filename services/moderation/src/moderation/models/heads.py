"""The ten categories, in the order in which weights and scores hold them."""

from __future__ import annotations

HEADS = ("hate", "toxic", "threat", "sexual", "gambling", "drugs", "weapons", "extremism", "phish", "spam")

"""Scores of learnt models: a linear tier for every text and a small transformer behind its gate."""

from moderation.models.bank import ModelBank, Scores
from moderation.models.heads import HEADS
from moderation.models.manifest import ModelFileError

__all__ = ["HEADS", "ModelBank", "ModelFileError", "Scores"]

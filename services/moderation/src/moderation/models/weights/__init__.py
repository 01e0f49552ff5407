"""The weights that ship with the service; `docs/model-card.md` tells where they come from."""

from pathlib import Path

WEIGHTS = Path(__file__).parent

"""Proposed thresholds per head and tool, in `thresholds.json` beside the weights; the policy takes them over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, TypeAdapter, ValidationError

from moderation.models.heads import HEADS
from moderation.models.manifest import ModelFileError

if TYPE_CHECKING:
    from pathlib import Path

THRESHOLDS_FILE = "thresholds.json"
TOOLS = ("email", "sms", "chat", "form", "voice")
_Document = TypeAdapter(dict[str, dict[str, Annotated[float, Field(gt=0, le=1)]]])


def read_thresholds(file: Path) -> dict[str, dict[str, float]]:
    """Return `{head: {tool: threshold}}`, complete. Raises ModelFileError."""
    try:
        found = _Document.validate_json(file.read_bytes())
    except OSError as error:
        raise ModelFileError(f"{file}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelFileError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    for head in HEADS:
        missing = set(TOOLS) - set(found.get(head, {}))
        if missing:
            raise ModelFileError(f"{file}: {head}: no threshold for {', '.join(sorted(missing))}")
    return found

"""The processors file: who may be given personal data, and which fields."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vault.domain import EEA, Processor
from vault.errors import ProcessorsFileError

if TYPE_CHECKING:
    from pathlib import Path

_Text = Annotated[str, Field(min_length=1, max_length=500)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(min_length=1, max_length=100)]
    tool: _Text
    fields: Annotated[
        list[Literal["address", "name", "phone", "postal_address", "language", "time_zone"]], Field(min_length=1)
    ]
    approved: bool
    announced_on: date | None = None
    approved_from: date = date(2000, 1, 1)
    sub_processors: list[_Text] = []
    transfer: Annotated[str, Field(max_length=500)] = ""
    reasons: Annotated[str, Field(max_length=500)] = ""
    country: Annotated[str, Field(pattern="^[A-Z]{2}$")]
    purpose: _Text

    @model_validator(mode="after")
    def _a_transfer_has_its_tool(self) -> _Entry:
        if self.approved and self.country not in EEA and not self.transfer:
            raise ValueError(f"{self.name}: transfer must name the tool for {self.country} (Art. 44 to 49 GDPR)")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    processors: list[_Entry]


def read_processors(path: Path) -> list[Processor]:
    """Return the register; raise ProcessorsFileError naming the entry that does not fit."""
    try:
        entries = _File.model_validate(yaml.safe_load(path.read_text("utf-8"))).processors
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ProcessorsFileError(f"{path} cannot be read: {type(error).__name__}") from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise ProcessorsFileError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        raise ProcessorsFileError(f"{path}: a processor is listed twice; keep one entry per name")
    return [
        Processor(
            entry.name,
            entry.tool,
            frozenset(entry.fields),
            entry.approved,
            entry.country,
            entry.purpose,
            entry.approved_from,
            tuple(entry.sub_processors),
            entry.transfer,
            entry.reasons,
            entry.announced_on,
        )
        for entry in entries
    ]

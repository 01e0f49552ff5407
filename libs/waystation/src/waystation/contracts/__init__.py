"""What others may rely on, generated from the models, the routes and the topic registry.

    python -m waystation.contracts           write contracts/ and docs/events.md, docs/metrics.md
    python -m waystation.contracts --check   say what differs and exit 1

Schema snapshots of events, the AsyncAPI document of all topics, an OpenAPI document for each service, the table of
events. A file that changes shows in review what others will see. Golden examples beside the snapshots are written by
hand, once, and never changed afterwards: what an old producer wrote must decode for ever.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from common.events import EVENTS
from common.kafka.topics import load_registry
from waystation.contracts.asyncapi import asyncapi_document, read_examples
from waystation.contracts.catalogue import catalogue
from waystation.contracts.openapi import openapi_documents
from waystation.contracts.statements import STATEMENTS
from waystation.metrics_document import metrics_document

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from common.events.envelope import Contract

ASYNCAPI = "contracts/asyncapi.yaml"


def generate(checkout: Path) -> dict[str, str]:
    """Return the text of every generated file by its path in the checkout."""
    registry = load_registry(checkout / "deploy" / "topics.yaml")
    files = {}
    for event in EVENTS:
        folder = f"contracts/{event.TYPE}"
        files[f"{folder}/schema.json"] = _schema(event)
        if event in STATEMENTS:
            files[f"{folder}/statement.schema.json"] = _schema(STATEMENTS[event])
    files["docs/events.md"] = catalogue(registry)
    files["docs/metrics.md"] = metrics_document()
    files[ASYNCAPI] = asyncapi_document(registry, read_examples(checkout))
    return {**files, **openapi_documents()}


def write(checkout: Path, wanted: Mapping[str, str]) -> list[str]:
    """Bring the generated files to what `generate` returned; return the paths of those that changed."""
    changed = differences(checkout, wanted)
    for path in changed:
        if path not in wanted:
            (checkout / path).unlink()
            continue
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        (checkout / path).write_text(wanted[path], "utf-8")
    return changed


def differences(checkout: Path, wanted: Mapping[str, str]) -> list[str]:
    """Return the paths of files that are missing, left over, or not what `generate` returned."""
    present = {
        path: (checkout / path).read_text("utf-8") if (checkout / path).is_file() else None
        for path in (*wanted, *_snapshots(checkout))
    }
    return sorted(path for path, text in present.items() if text != wanted.get(path))


def _snapshots(checkout: Path) -> list[str]:
    folder = checkout / "contracts"
    found = [*folder.glob("*/*schema.json"), *folder.glob("openapi/*.json"), *folder.glob("*.yaml")]
    return [str(path.relative_to(checkout)) for path in found]


def _schema(model: type[Contract]) -> str:
    return json.dumps(model.model_json_schema(), indent=2, sort_keys=True) + "\n"

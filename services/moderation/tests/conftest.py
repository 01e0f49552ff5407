import sys
from pathlib import Path

import pytest
import yaml

from moderation.policy.reading import read_policy

POLICY_FILE = Path(__file__).parents[3] / "deploy" / "policies" / "road.yaml"
DATA = Path(__file__).parent / "data"
sys.path.append(str(Path(__file__).parent))  # for hostile_messages: test modules are imported by file


@pytest.fixture(scope="session")
def policy():
    return read_policy(POLICY_FILE)


@pytest.fixture(scope="session")
def portable_policy():
    return read_policy(POLICY_FILE, "re2")


@pytest.fixture(scope="session")
def clean_texts():
    return yaml.safe_load((DATA / "clean_business.yaml").read_text("utf-8"))


@pytest.fixture(scope="session")
def violating_texts():
    return yaml.safe_load((DATA / "violating.yaml").read_text("utf-8"))

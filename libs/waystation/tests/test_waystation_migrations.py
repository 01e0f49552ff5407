"""Migrations: their order, and what an edited one means. Applying them is tested on PostgreSQL."""

from __future__ import annotations

import pytest

from common.postgres.migrations import Migration, MigrationError, pending_migrations, read_migrations

FIRST, SECOND = Migration("0001_a.sql", "SELECT 1"), Migration("0002_b.sql", "SELECT 2")


def test_files_are_read_in_the_order_of_their_names(tmp_path):
    (tmp_path / "0002_b.sql").write_text("SELECT 2")
    (tmp_path / "0001_a.sql").write_text("SELECT 1")
    (tmp_path / "README.md").write_text("no")
    assert read_migrations(tmp_path) == [FIRST, SECOND]
    assert read_migrations(tmp_path / "missing") == []


def test_only_what_is_new_is_pending():
    assert pending_migrations([FIRST, SECOND], {}) == [FIRST, SECOND]
    assert pending_migrations([FIRST, SECOND], {FIRST.name: FIRST.sha256}) == [SECOND]


def test_an_applied_file_that_was_changed_is_named():
    with pytest.raises(MigrationError, match=r"0001_a\.sql was changed"):
        pending_migrations([FIRST], {FIRST.name: SECOND.sha256})


def test_an_applied_file_that_is_gone_is_named():
    with pytest.raises(MigrationError, match=r"0002_b\.sql was applied but its file is gone"):
        pending_migrations([FIRST], {FIRST.name: FIRST.sha256, SECOND.name: SECOND.sha256})

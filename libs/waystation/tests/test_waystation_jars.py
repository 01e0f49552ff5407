"""Kafka's jars: the lock file, the download, the checksums. A small HTTP server stands for Maven Central."""

from __future__ import annotations

import hashlib
import http.server
import threading

import pytest

from waystation.errors import CommandError
from waystation.stack import checkout_folder
from waystation.stack.jars import Jar, cache_folder, ensure_jars, kafka_version, read_lock

CONTENT = {"/a/one-1.jar": b"one" * 1000, "/b/two-2.jar": b"two" * 50_000}
JARS = [Jar(path[1:], hashlib.sha256(content).hexdigest(), len(content)) for path, content in CONTENT.items()]


class Counter:
    """Adds up what a download reports."""

    def __init__(self):
        self.total = self.arrived = self.ended = 0

    def begin(self, total_bytes):
        self.total = total_bytes

    def advance(self, count_bytes):
        self.arrived += count_bytes

    def end(self):
        self.ended += 1


@pytest.fixture
def maven(monkeypatch):
    """A Maven repository on loopback; yields its contents and the list of what was asked."""
    contents, asked = dict(CONTENT), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            body = contents.get(self.path)
            self.send_response(200 if body is not None else 404)
            self.send_header("content-length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("WAYSTATION_MAVEN_URL", f"http://127.0.0.1:{server.server_port}")
    yield contents, asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_missing_jars_are_downloaded_once_and_reported(maven, tmp_path):
    report = Counter()
    files = ensure_jars(JARS, tmp_path / "cache", report)
    assert [file.read_bytes() for file in files] == list(CONTENT.values())
    assert (report.total, report.arrived, report.ended) == (153_000, 153_000, 1)
    ensure_jars(JARS, tmp_path / "cache", report)
    assert sorted(maven[1]) == sorted(CONTENT)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["one-1.jar", "two-2.jar"]


def test_a_jar_that_was_changed_in_the_cache_is_named(maven, tmp_path):
    files = ensure_jars(JARS, tmp_path, Counter())
    files[1].write_bytes(b"other")
    with pytest.raises(CommandError, match=r"two-2\.jar does not have the SHA-256"):
        ensure_jars(JARS, tmp_path, Counter())


def test_a_download_with_another_checksum_is_refused_and_leaves_nothing(maven, tmp_path):
    maven[0]["/a/one-1.jar"] = b"evil"
    with pytest.raises(CommandError, match=r"one-1\.jar does not have the SHA-256"):
        ensure_jars(JARS, tmp_path, Counter())
    assert not (tmp_path / "one-1.jar").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_download_that_fails_says_what_to_do(maven, tmp_path):
    del maven[0]["/a/one-1.jar"]
    with pytest.raises(CommandError, match="WAYSTATION_MAVEN_URL names a mirror"):
        ensure_jars(JARS, tmp_path, Counter())


def test_the_lock_file_lists_distinct_jars_of_one_kafka_version():
    jars = read_lock(checkout_folder() / "deploy" / "local" / "kafka.lock")
    assert len({jar.name for jar in jars}) == len(jars) > 80
    assert kafka_version(jars) == "4.3.1"
    assert any(jar.name == "kafka-tools-4.3.1.jar" for jar in jars)


def test_a_broken_lock_line_is_named(tmp_path):
    lock = tmp_path / "kafka.lock"
    lock.write_text("# header\n\nabc 12 x.jar\n")
    with pytest.raises(CommandError, match=r"kafka\.lock:3 is not"):
        read_lock(lock)


def test_the_cache_is_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("4.3.1") == tmp_path / "waystation" / "kafka-4.3.1"

"""Kafka's jars: listed with SHA-256 in a lock file, downloaded once into the user's cache, verified at each start."""

from __future__ import annotations

import hashlib
import os
import secrets
import ssl
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import certifi
import httpx

from waystation.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterable

MAVEN_CENTRAL = "https://repo1.maven.org/maven2"
PARALLEL_DOWNLOADS = 8
DOWNLOAD_TRIES = 4
CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of the lock file."""

    path: str
    sha256: str
    size_bytes: int

    @property
    def name(self) -> str:
        """The file name, unique within a lock."""
        return self.path.rpartition("/")[2]


class DownloadReport(Protocol):
    """Hears how a download goes on; called from several threads."""

    def begin(self, total_bytes: int) -> None:
        """So much is going to be downloaded."""

    def advance(self, count_bytes: int) -> None:
        """So much more arrived; negative when a try is begun anew."""

    def end(self) -> None:
        """All arrived, or it failed."""


def read_lock(path: Path) -> list[Jar]:
    """The jars of a lock file, in its order.

    Raises:
        CommandError: a line is not `sha256 size path`.
    """
    jars = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.split()
        if len(parts) != 3 or len(parts[0]) != 64 or not parts[1].isdecimal():
            raise CommandError(f"{path}:{number} is not `sha256 size path`", "write it anew with lock_kafka.py")
        jars.append(Jar(parts[2], parts[0], int(parts[1])))
    return jars


def cache_folder(version: str) -> Path:
    """`kafka-<version>` in the user's cache folder (XDG base directory specification)."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "waystation" / f"kafka-{version}"


def kafka_version(jars: Iterable[Jar]) -> str:
    """The version of the broker in a lock."""
    broker = next(jar for jar in jars if jar.name.startswith("kafka_2.13-"))
    return broker.name.removeprefix("kafka_2.13-").removesuffix(".jar")


def ensure_jars(jars: list[Jar], folder: Path, report: DownloadReport) -> list[Path]:
    """Download what is missing, verify everything; returns the files in the lock's order.

    Raises:
        CommandError: a download failed, or a file differs from the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [jar for jar in jars if not (folder / jar.name).is_file()]
    if missing:
        _download_all(missing, folder, report)
    for jar in jars:
        if _digest(folder / jar.name) != jar.sha256:
            raise CommandError(
                f"{folder / jar.name} does not have the SHA-256 of the lock file",
                "somebody or something changed it: delete that file, the next start downloads it again",
            )
    return [folder / jar.name for jar in jars]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download_all(jars: list[Jar], folder: Path, report: DownloadReport) -> None:
    """All jars, several at a time; the first failure ends it."""
    report.begin(sum(jar.size_bytes for jar in jars))
    trust = ssl.create_default_context()
    trust.load_verify_locations(certifi.where())
    try:
        with (
            httpx.Client(verify=trust, timeout=30, follow_redirects=True) as client,
            ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool,
        ):
            downloads = [pool.submit(_download, client, jar, folder, report) for jar in jars]
            try:
                for download in as_completed(downloads):
                    download.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        report.end()


def _download(client: httpx.Client, jar: Jar, folder: Path, report: DownloadReport) -> None:
    url = f"{os.environ.get('WAYSTATION_MAVEN_URL', MAVEN_CENTRAL)}/{jar.path}"
    for attempt in range(1, DOWNLOAD_TRIES + 1):
        try:
            _fetch(client, url, jar, folder, report)
        except httpx.HTTPError as error:
            if attempt == DOWNLOAD_TRIES or _is_final(error):
                raise CommandError(
                    f"cannot download {url}: {error or type(error).__name__}",
                    "check the network (HTTPS_PROXY is honoured); WAYSTATION_MAVEN_URL names a mirror",
                ) from error
            time.sleep(attempt)
        else:
            return


def _is_final(error: httpx.HTTPError) -> bool:
    """Whether another try would get the same answer: what is not there is not there."""
    return isinstance(error, httpx.HTTPStatusError) and error.response.is_client_error


def _fetch(client: httpx.Client, url: str, jar: Jar, folder: Path, report: DownloadReport) -> None:
    """One try: into a draft beside its place, checked, then moved there."""
    draft = folder / f".{jar.name}.{secrets.token_hex(4)}"
    digest, received = hashlib.sha256(), 0
    try:
        with client.stream("GET", url) as answer, draft.open("wb") as file:
            answer.raise_for_status()
            for chunk in answer.iter_bytes(CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
                received += len(chunk)
                report.advance(len(chunk))
        if digest.hexdigest() != jar.sha256:
            raise CommandError(
                f"{url} does not have the SHA-256 of the lock file",
                "do not use it: the mirror or the way to it changed the file; try again from another network",
            )
        draft.replace(folder / jar.name)
    except httpx.HTTPError:
        report.advance(-received)
        raise
    finally:
        draft.unlink(missing_ok=True)

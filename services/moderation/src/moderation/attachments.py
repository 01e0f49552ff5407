"""What an attachment's bytes and name tell: known files, signatures, programs, macros, names that hide it.

A zip archive is looked into, one level deep and within bounds; what cannot be read (encrypted, damaged, too large) is
reported, not guessed.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moderation.lists import HashLists
    from moderation.policy.document import FileKind
    from moderation.signatures import SignatureBank

# The test signature every scanner must find (eicar.org), in two halves so that this file is not taken for it.
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}" + rb"$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
_EICAR_BASE64 = b"WDVPIVAlQEFQWzRcUFpYNTQoUF4pN0NDKTd9" + b"JEVJQ0FSLVNUQU5EQVJE"

# fmt: off
PROGRAM_ENDINGS = frozenset((
    "exe", "scr", "pif", "bat", "cmd", "cpl", "msi", "msp", "dll", "sys", "jar", "lnk", "hta", "vbs", "vbe", "js",
    "jse", "wsf", "wsh", "ps1", "reg", "apk", "app", "dmg", "iso",
))
# fmt: on
SCRIPT_ENDINGS = frozenset(["bat", "cmd", "hta", "vbs", "vbe", "js", "jse", "wsf", "wsh", "ps1", "lnk", "reg"])
# "com" is a program only behind another ending: alone it is mostly a site's name.
_HIDDEN_ENDINGS = PROGRAM_ENDINGS | {"com"}
# fmt: off
_HARMLESS_ENDINGS = frozenset((
    "pdf", "doc", "docx", "xls", "xlsx", "ppt", "pptx", "odt", "ods", "txt", "rtf", "csv", "htm", "html", "xml",
    "jpg", "jpeg", "png", "gif", "tif", "tiff", "bmp", "svg", "mp3", "mp4", "wav", "avi", "zip", "eml", "msg",
    "ics",
))
# fmt: on
_RIGHT_TO_LEFT = "\u202e"
_ELF = b"\x7fELF"
_MACH_O = (b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe")
_SHORTCUT = b"\x4c\x00\x00\x00\x01\x14\x02\x00"
_DEX = b"dex\n03"
_ZIP = b"PK\x03\x04"
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_OLE_MACROS = ("_VBA_PROJECT".encode("utf-16-le"), "VBA".encode("utf-16-le"))
_OLE_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
_MACRO_ENDINGS = frozenset(("docm", "dotm", "xlsm", "xltm", "xlam", "pptm", "ppam", "xll"))
_WEB_ENDINGS = frozenset(("htm", "html", "shtml", "xhtml", "svg", "mht", "mhtml"))
_ARCHIVE_ENDINGS = frozenset(
    ("zip", "rar", "7z", "gz", "tar", "tgz", "cab", "iso", "img", "vhd", "ace", "arj", "xz", "bz2")
)
_BOMB_RATIO = 200
_BOMB_BYTES = 100 * 1024 * 1024
_SEARCHED_BYTES_MAX = 4 * 1024 * 1024
_CLOSED_ARCHIVES = {b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "rar"}

MEMBERS_MAX = 500
MEMBERS_READ_MAX = 100
_SIGNATURE_MEMBER_BYTES_MAX = 64 * 1024
_HEAD_BYTES = 4096


@dataclass(slots=True)
class Budget:
    """What may still be looked at in the files of one message, so that none takes long; bytes are scanned by YARA-X."""

    scanned_bytes: int = 384 * 1024
    members_listed: int = 1_000
    members_read: int = MEMBERS_READ_MAX


@dataclass(frozen=True, slots=True)
class FileFinding:
    """What was found, and where in the attachment's bytes (the whole of it when the name or a member tells)."""

    kind: FileKind
    start: int
    end: int
    matched: bytes


@dataclass(frozen=True, slots=True)
class Inspection:
    """What an attachment is, and what of it could not be read."""

    findings: tuple[FileFinding, ...]
    degraded: tuple[str, ...] = ()


def inspect(
    filename: str,
    content: bytes,
    signatures: SignatureBank | None = None,
    lists: HashLists | None = None,
    budget: Budget | None = None,
) -> Inspection:
    """Look at one attachment, as far as the message's budget goes; never raises, whatever it holds."""
    budget = budget or Budget()
    kinds: dict[FileKind, FileFinding] = {}
    if (eicar := find_eicar(content)) is not None:
        kinds["eicar"] = eicar
    told: list[FileKind] = [*_name_kinds(filename), *_content_kinds(content)]
    degraded: tuple[str, ...] = ()
    if content.startswith(_ZIP):
        members, degraded = _inspect_zip(content, budget)
        told += members
    elif any(content.startswith(magic) for magic in _CLOSED_ARCHIVES):
        degraded = ("archive-not-readable",)
    elif content.startswith(_OLE):
        told += _ole_kinds(content)
    if lists is not None and lists.has_file(content):
        told.append("listed")
    if signatures is not None and signatures.matches(content[: budget.scanned_bytes]):
        told.append("signature")
    if len(content) > budget.scanned_bytes:
        degraded = (*degraded, "attachment-too-large")
    budget.scanned_bytes = max(0, budget.scanned_bytes - len(content))
    for kind in told:
        kinds.setdefault(kind, FileFinding(kind, 0, len(content), content))
    return Inspection(tuple(kinds.values()), degraded)


def find_eicar(content: bytes) -> FileFinding | None:
    """Return where the signature stands, plain or still in base64."""
    for signature in (EICAR, _EICAR_BASE64):
        start = content.find(signature)
        if start >= 0:
            return FileFinding("eicar", start, start + len(signature), signature)
    return None


def _ole_kinds(content: bytes) -> Iterator[FileKind]:
    head = content[:_SEARCHED_BYTES_MAX]
    if _OLE_ENCRYPTED in head:
        yield "encrypted"
    elif any(mark in head for mark in _OLE_MACROS):
        yield "macro"


def _name_kinds(filename: str) -> Iterator[FileKind]:
    # Spaces before the last dot push the true ending out of sight; a direction mark turns it round.
    name = filename.replace(_RIGHT_TO_LEFT, "").strip().rstrip(".").lower()
    parts = [part.strip() for part in name.split(".")]
    if len(parts) < 2:
        return
    hides = _RIGHT_TO_LEFT in filename or (len(parts) > 2 and parts[-2] in _HARMLESS_ENDINGS)
    if hides and parts[-1] in _HIDDEN_ENDINGS:
        yield "double-extension"
    if parts[-1] in PROGRAM_ENDINGS:
        yield "script" if parts[-1] in SCRIPT_ENDINGS else "executable"
    if parts[-1] in _MACRO_ENDINGS:
        yield "macro"
    if parts[-1] in _WEB_ENDINGS:
        yield "web-page"


def _content_kinds(content: bytes) -> Iterator[FileKind]:
    if _is_windows_program(content) or content.startswith((_ELF, *_MACH_O, _DEX)):
        yield "executable"
    if content.startswith(_SHORTCUT):
        yield "script"


def _is_windows_program(content: bytes) -> bool:
    if not content.startswith(b"MZ"):
        return False
    header = int.from_bytes(content[0x3C:0x40], "little")
    return content[header : header + 4] == b"PE\0\0" or b"DOS mode" in content[:512]


def _inspect_zip(content: bytes, budget: Budget) -> tuple[list[FileKind], tuple[str, ...]]:
    listed = content.count(b"PK\x01\x02")
    if listed > MEMBERS_MAX:
        return ["bomb"], ("archive-too-large",)
    if listed > budget.members_listed:
        return [], ("archive-too-large",)
    budget.members_listed -= listed
    kinds: list[FileKind] = []
    degraded: set[str] = set()
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            members = archive.infolist()
            read = members[: budget.members_read]
            budget.members_read -= len(read)
            if len(members) > len(read):
                degraded.add("archive-too-large")
            unpacked = sum(member.file_size for member in members)
            if unpacked > _BOMB_BYTES and unpacked > _BOMB_RATIO * len(content):
                return ["bomb"], ("archive-too-large",)
            for member in read:
                kinds += _member_name_kinds(member.filename)
                if member.flag_bits & 1:
                    kinds.append("encrypted")
                    degraded.add("archive-encrypted")
                else:
                    kinds += _member_kinds(archive, member)
    except Exception:  # noqa: BLE001  the library raises a dozen kinds of errors on damaged archives
        degraded.add("archive-damaged")
    if "nested" in kinds:
        degraded.add("archive-nested")
    return kinds, tuple(sorted(degraded))


def _member_name_kinds(filename: str) -> Iterator[FileKind]:
    yield from (kind for kind in _name_kinds(filename) if kind != "web-page" or filename.count("/") == 0)
    if filename.endswith("vbaProject.bin"):
        yield "macro"
    if filename.lower().rpartition(".")[2] in _ARCHIVE_ENDINGS:
        yield "nested"


def _member_kinds(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[FileKind]:
    small = member.file_size <= _SIGNATURE_MEMBER_BYTES_MAX
    with archive.open(member) as file:
        head = file.read(_SIGNATURE_MEMBER_BYTES_MAX if small else _HEAD_BYTES)
    if find_eicar(head) is not None:
        yield "eicar"
    yield from _content_kinds(head)

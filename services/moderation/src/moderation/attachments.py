"""What an attachment's bytes and name tell: known files, signatures, programs, macros, names that hide it.

Archives are looked into, zip and tar within one another once, all within bounds; what cannot be read (encrypted,
damaged, too large, of another kind) is reported, not guessed.
"""

from __future__ import annotations

import bz2
import lzma
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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
_UNPACKING_COSTS_BYTES = 50_000
_BOMB_RATIO = 200
_BOMB_BYTES = 100 * 1024 * 1024
_SEARCHED_BYTES_MAX = 4 * 1024 * 1024
_BZIP2_BYTES_MAX = 256 * 1024
"""A megabyte of bzip2 takes a tenth of a second, a hundred times as long as gzip."""
_CLOSED_ARCHIVES = (
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
    b"MSCF\0\0\0\0",
    b"\x28\xb5\x2f\xfd",
    b"\x60\xea",
    b"\x1f\x9d",
)
_DISC_AT, _DISC = 0x8001, b"CD001"
_GZIP, _BZIP2, _XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"
_TAR_AT, _TAR = 257, b"ustar"
_TAR_BLOCK = 512
_XZ_MEMORY_BYTES_MAX = 32 * 1024 * 1024
_ZIP_END = b"PK\x05\x06"
_ZIP_END_WITHIN_BYTES = 22 + 65_535  # with the longest comment
# Documents are zip archives too; nobody takes them for one within another.
_DOCUMENT_MARKS = (
    b"[Content_Types].xml",
    b"_rels/",
    b"mimetype",
    b"META-INF/",
    b"docProps/",
    b"word/",
    b"xl/",
    b"ppt/",
)
_MACRO_PARTS = (b"vbaproject", b"macroenabled")

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
    unpacked_bytes: int = 1024 * 1024
    """Of tar and compressed files, and of archives within archives."""


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
    filenames: str | Sequence[str],
    content: bytes,
    signatures: SignatureBank | None = None,
    lists: HashLists | None = None,
    budget: Budget | None = None,
) -> Inspection:
    """Look at one attachment and its names, as far as the message's budget goes; never raises, whatever it holds."""
    budget = budget or Budget()
    kinds: dict[FileKind, FileFinding] = {}
    if (eicar := find_eicar(content)) is not None:
        kinds["eicar"] = eicar
    filenames = (filenames,) if isinstance(filenames, str) else filenames
    told: list[FileKind] = [kind for filename in filenames for kind in _name_kinds(filename)]
    inside, missed = _inside(content, budget, level=0)
    told += inside
    degraded = tuple(sorted(missed))
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
    for name in filename.partition("\0")[::2]:  # what some systems cut the name to, and what stands behind
        yield from _kinds_of_name(name, turned=_RIGHT_TO_LEFT in filename)


def _kinds_of_name(filename: str, *, turned: bool) -> Iterator[FileKind]:
    # Spaces before the last dot push the true ending out of sight; a direction mark turns it round. Windows takes no
    # dots and spaces at the end, and a name with invisible characters or a wide dot is mended by many readers.
    name = filename if filename.isascii() else unicodedata.normalize("NFKC", filename)
    name = "".join(character for character in name if unicodedata.category(character) not in ("Cf", "Cc"))
    name = name.lower().strip().rstrip(". ")
    parts = [part.strip() for part in name.split(".")]
    if len(parts) < 2:
        return
    hides = turned or (len(parts) > 2 and parts[-2] in _HARMLESS_ENDINGS)
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


def _inside(content: bytes, budget: Budget, level: int) -> tuple[list[FileKind], set[str]]:
    """What a file's bytes tell, and what of it could not be read; `level` counts the archives around it."""
    kinds = [*_content_kinds(content)]
    degraded: set[str] = set()
    inner: tuple[list[FileKind], set[str]] = [], set()
    if content.startswith(_ZIP) or _ZIP_END in content[-_ZIP_END_WITHIN_BYTES:]:
        inner = _inspect_zip(content, budget, level)
    elif content.startswith((_GZIP, _BZIP2, _XZ)):
        unpacked, degraded = _unpacked(content, budget)
        inner = _inspect_tar(unpacked, budget, level) if _is_tar(unpacked) else ([*_file_kinds(unpacked)], set())
    elif _is_tar(content):
        inner = _inspect_tar(content, budget, level)
    elif content.startswith(_CLOSED_ARCHIVES) or content.startswith(_DISC, _DISC_AT):
        degraded = {"archive-not-readable"}
    elif content.startswith(_OLE):
        kinds += _ole_kinds(content)
    return [*kinds, *inner[0]], degraded | inner[1]


def _file_kinds(content: bytes) -> Iterator[FileKind]:
    if find_eicar(content) is not None:
        yield "eicar"
    yield from _content_kinds(content)


def _is_tar(content: bytes) -> bool:
    return content.startswith(_TAR, _TAR_AT)


class _Stream(Protocol):
    """One compressed stream, as the decompressors of the standard library read it."""

    @property
    def eof(self) -> bool:
        """Whether its end was reached."""

    @property
    def unused_data(self) -> bytes:
        """What stands behind it."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Return at most so much of it."""


def _stream(content: bytes) -> _Stream:
    if content.startswith(_GZIP):
        return zlib.decompressobj(wbits=31)
    if content.startswith(_BZIP2):
        return bz2.BZ2Decompressor()
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES_MAX)


def _unpacked(content: bytes, budget: Budget) -> tuple[bytes, set[str]]:
    """The beginning of a compressed file, as far as the budget goes."""
    pieces: list[bytes] = []
    read_max = _BZIP2_BYTES_MAX if content.startswith(_BZIP2) else _SEARCHED_BYTES_MAX
    too_large, content = len(content) > read_max, content[:read_max]
    try:
        while content.startswith((_GZIP, _BZIP2, _XZ)) and budget.unpacked_bytes > 0:
            stream = _stream(content)
            pieces.append(stream.decompress(content, budget.unpacked_bytes))
            slow_bytes = len(content) if content.startswith(_BZIP2) else 0  # also where nothing comes out
            budget.unpacked_bytes -= max(len(pieces[-1]), slow_bytes, _UNPACKING_COSTS_BYTES)
            if not stream.eof:
                return b"".join(pieces), {
                    "archive-too-large" if too_large or budget.unpacked_bytes <= 0 else "archive-damaged"
                }
            content = stream.unused_data
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
        return b"".join(pieces), {"archive-damaged"}
    return b"".join(pieces), {"archive-too-large"} if budget.unpacked_bytes <= 0 and content else set()


def _inspect_tar(content: bytes, budget: Budget, level: int) -> tuple[list[FileKind], set[str]]:
    kinds: list[FileKind] = []
    degraded: set[str] = set()
    try:
        for name, start, size in _tar_members(content):
            if budget.members_read <= 0:
                degraded.add("archive-too-large")
                break
            budget.members_read -= 1
            kinds += _member_name_kinds(name)
            file = BytesIO(content[start : start + min(size, max(_SIGNATURE_MEMBER_BYTES_MAX, budget.unpacked_bytes))])
            inner, missed = _inside_member(file.read, size, budget, level)
            kinds += inner
            degraded |= missed
    except ValueError:
        degraded.add("archive-damaged")
    if "nested" in kinds:
        degraded.add("archive-nested")
    return kinds, degraded


def _tar_members(content: bytes) -> Iterator[tuple[str, int, int]]:
    """Name, start and size of each file; the library's reader takes quadratic time for some headers (CVE-2024-6232)."""
    at, long_name = 0, b""
    while (header := content[at : at + _TAR_BLOCK]).strip(b"\0"):
        field = header[124:136]
        size = int.from_bytes(field[1:], "big") if field[:1] == b"\x80" else int(field.strip(b" \0") or b"0", 8)
        if size < 0:
            raise ValueError(field)
        start, kind = at + _TAR_BLOCK, header[156:157]
        if kind == b"L":
            long_name = content[start : start + size].rstrip(b"\0")
        elif kind == b"x":
            long_name = content[start : start + size].partition(b" path=")[2].partition(b"\n")[0]
        else:
            name = long_name or header[345:500].rstrip(b"\0") + b"/" + header[:100].rstrip(b"\0")
            yield name.lstrip(b"/").decode("utf-8", "replace"), start, size
            long_name = b""
        at = start + -(-size // _TAR_BLOCK) * _TAR_BLOCK


def _inside_member(
    read: Callable[[int], bytes], size: int, budget: Budget, level: int
) -> tuple[list[FileKind], set[str]]:
    """What a member of an archive tells: all of a small one, of an archive as much as the budget has left."""
    content = read(min(size, _HEAD_BYTES))
    archive = content.startswith((_ZIP, _GZIP, _BZIP2, _XZ, *_CLOSED_ARCHIVES)) or _is_tar(content)
    ole = content.startswith(_OLE)
    document = ole or (content.startswith(_ZIP) and any(mark in content for mark in _DOCUMENT_MARKS))
    if size <= _SIGNATURE_MEMBER_BYTES_MAX:
        content += read(size)
    elif (archive or ole) and size <= budget.unpacked_bytes:
        content += read(size)
        budget.unpacked_bytes -= size
    kinds = [*_file_kinds(content)]
    if archive and not document:
        kinds.append("nested")
    if not (archive or ole):
        return kinds, set()
    if len(content) < size or (archive and level > 0):
        return kinds, {"archive-too-large"}
    inner, missed = _inside(content, budget, level + 1)
    return [*kinds, *inner], missed


def _inspect_zip(content: bytes, budget: Budget, level: int) -> tuple[list[FileKind], set[str]]:
    listed = content.count(b"PK\x01\x02")
    if listed > MEMBERS_MAX:
        return ["bomb"], {"archive-too-large"}
    if listed > budget.members_listed:
        return [], {"archive-too-large"}
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
                return ["bomb"], {"archive-too-large"}
            for member in read:
                kinds += _member_name_kinds(member.filename)
                if member.flag_bits & 1:
                    kinds.append("encrypted")
                    degraded.add("archive-encrypted")
                else:
                    inner, missed = _inside_zipped(archive, member, budget, level)
                    kinds += inner
                    degraded |= missed
    except Exception:  # noqa: BLE001  the library raises a dozen kinds of errors on damaged archives
        if content.startswith(_ZIP):
            degraded.add("archive-damaged")
    if "nested" in kinds:
        degraded.add("archive-nested")
    return kinds, degraded


def _member_name_kinds(filename: str) -> Iterator[FileKind]:
    yield from (kind for kind in _name_kinds(filename) if kind != "web-page" or filename.count("/") == 0)
    if filename.lower().endswith("vbaproject.bin"):
        yield "macro"
    if filename.lower().rpartition(".")[2] in _ARCHIVE_ENDINGS:
        yield "nested"


def _inside_zipped(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, budget: Budget, level: int
) -> tuple[list[FileKind], set[str]]:
    with archive.open(member) as file:
        kinds, degraded = _inside_member(file.read, member.file_size, budget, level)
    if member.filename.lower() == "[content_types].xml":
        with archive.open(member) as file:
            types = file.read(_SIGNATURE_MEMBER_BYTES_MAX).lower()
        kinds += ["macro"] if any(part in types for part in _MACRO_PARTS) else []
    return kinds, degraded

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile

import pytest
from hostile_messages import zipped
from hypothesis import given, settings
from hypothesis import strategies as st

from moderation.attachments import inspect

WINDOWS_PROGRAM = b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0" + bytes(100)


def kinds(filename, content=b""):
    return sorted(finding.kind for finding in inspect(filename, content).findings)


@pytest.mark.parametrize(
    ("filename", "found"),
    [
        ("invoice.pdf", []),
        ("invoice.2026.01.pdf", []),
        ("example.com", []),
        ("backup.tar.gz", []),
        ("setup.exe", ["executable"]),
        ("invoice.pdf.exe", ["double-extension", "executable"]),
        ("invoice.PDF.Scr ", ["double-extension", "executable"]),
        ("photo.jpg          .exe", ["double-extension", "executable"]),
        ("eicar.txt.com", ["double-extension"]),
        ("invoice\u202efdp.exe", ["double-extension", "executable"]),
        ("update.vbs", ["script"]),
        ("evil.js. .", ["script"]),
        ("evil.j\u200bs", ["script"]),
        ("evil\uff0ejs", ["script"]),
        ("evil.js\0.txt", ["script"]),
        (("a.txt", "evil.js"), ["script"]),
        ("", []),
    ],
)
def test_names_that_tell(filename, found):
    assert kinds(filename) == found


@pytest.mark.parametrize("content", [WINDOWS_PROGRAM, b"\x7fELF\x02", b"\xcf\xfa\xed\xfe"])
def test_programs_are_known_by_their_bytes(content):
    assert kinds("notes.txt", content) == ["executable"]


def test_a_text_that_begins_with_mz_is_no_program():
    assert kinds("notes.txt", b"MZ-Chemie AG, meeting notes") == []


def test_a_program_inside_a_zip_is_found():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("docs/readme.txt", "hello")
        archive.writestr("docs/invoice.pdf.exe", WINDOWS_PROGRAM)
    assert kinds("documents.zip", buffer.getvalue()) == ["double-extension", "executable"]


def tarred(mode, *members, form=tarfile.PAX_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=form) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


PROGRAM_IN_ZIP = zipped(("a", WINDOWS_PROGRAM))
EMPTY_END = b"PK\x05\x06" + bytes(18)


@pytest.mark.parametrize(
    "archive",
    [
        b"xx" + PROGRAM_IN_ZIP,
        EMPTY_END + PROGRAM_IN_ZIP,
        *(tarred(f"w:{kind}", ("a", b"x" * 700), ("b", WINDOWS_PROGRAM)) for kind in ("", "gz", "bz2", "xz")),
        gzip.compress(WINDOWS_PROGRAM),
        gzip.compress(b"") + gzip.compress(WINDOWS_PROGRAM),
    ],
)
def test_a_program_is_found_in_each_archive_that_is_opened(archive):
    assert kinds("a", archive) == ["executable"]


@pytest.mark.parametrize("kind", [b"L", b"x", b"0"])
def test_a_tar_archive_whose_member_leads_back_to_itself_is_damaged(kind):
    header = bytearray(512)
    header[:1], header[124:136], header[156:157], header[257:262] = b"a", b"-1000".ljust(12, b"\0"), kind, b"ustar"
    assert inspect("a.tar", bytes(header) * 2).degraded == ("archive-damaged",)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("folders", [1, 11])
def test_names_in_a_tar_archive_are_judged(form, folders):
    name = f"{'folder of ten/' * folders}evil.js"
    assert kinds("a.tar", tarred("w", (name, b"x"), form=form)) == ["script"]


def test_an_archive_in_an_archive_is_known_by_its_bytes_and_looked_into():
    assert kinds("a.zip", zipped(("invoice.dat", PROGRAM_IN_ZIP))) == ["executable", "nested"]
    assert kinds("a.tgz", tarred("w:gz", ("invoice.dat", PROGRAM_IN_ZIP))) == ["executable", "nested"]
    assert kinds("a.zip", zipped(("a.zip", zipped(("b.zip", PROGRAM_IN_ZIP))))) == ["nested"]


def test_a_document_in_an_archive_is_no_archive_in_one():
    document = zipped(("[Content_Types].xml", b"<Types/>"), ("word/document.xml", b"<w/>"))
    assert inspect("a.zip", zipped(("letter.docx", document))).findings == ()
    assert inspect("a.zip", zipped(("letter.docx", document))).degraded == ()


@pytest.mark.parametrize(
    "document",
    [
        zipped(("word/vbaProject.bin", b"x")),
        zipped(("word/vbaproject.bin", b"x")),
        zipped(("[Content_Types].xml", b"<Override ContentType='application/vnd.ms-office.vbaProject'/>")),
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100_000) + "_VBA_PROJECT".encode("utf-16-le"),
    ],
)
def test_macros_are_found_in_a_document_whatever_its_name_is(document):
    assert kinds("invoice.doc", document) == ["macro"]
    assert kinds("a.zip", zipped(("invoice.doc", document))) == ["macro"]


@pytest.mark.parametrize("content", [b"MSCF\0\0\0\0", bytes(0x8001) + b"CD001", b"\x28\xb5\x2f\xfd"])
def test_archives_of_kinds_that_are_not_opened_are_noted(content):
    assert inspect("a", content).degraded == ("archive-not-readable",)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_of_a_compressed_file_a_megabyte_is_read(pack):
    assert inspect("a", pack(bytes(50_000_000))).degraded == ("archive-too-large",)
    assert inspect("a", pack(b"hello" * 99)[:-9]).degraded == ("archive-damaged",)


def test_an_encrypted_archive_is_noted_not_guessed():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("secret.txt", "x")
    data = bytearray(buffer.getvalue())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    assert inspect("secret.zip", bytes(data)).degraded == ("archive-encrypted",)


def test_a_damaged_or_closed_archive_is_noted():
    assert inspect("a.zip", b"PK\x03\x04 broken").degraded == ("archive-damaged",)
    assert inspect("a.7z", b"7z\xbc\xaf\x27\x1c rest").degraded == ("archive-not-readable",)


def test_an_archive_with_too_many_members_is_not_walked():
    assert inspect("a.zip", b"PK\x03\x04" + b"PK\x01\x02" * 501).degraded == ("archive-too-large",)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.text(max_size=40))
def test_nothing_is_raised_whatever_the_bytes(content, filename):
    inspect(filename, content)
    for start in (b"PK\x03\x04", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", bytes(257) + b"ustar"):
        inspect(filename, start + content)

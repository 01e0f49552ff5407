import io
import struct
import zipfile

import pytest
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
    inspect(filename, b"PK\x03\x04" + content)

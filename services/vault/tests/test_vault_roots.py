"""The root key in other places: AWS KMS against moto's server, transit against a fake that keeps the protocol."""

from __future__ import annotations

import base64
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import boto3
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from moto.server import ThreadedMotoServer

from vault.errors import KeyFileError
from vault.keys.blobs import BlobError
from vault.keys.epochs import STANDING, KeyFolder
from vault.keys.root import RootKey
from vault.kms.aws import AwsRoot
from vault.kms.transit import TransitRoot
from vault.roots import PLUG_INS, EitherRoot, RootSettings, find_root, refuse_file_in_production

KEY, PLACE = bytes(range(32)), b"9:epoch-key|1:1|"
TOKEN = "s.fake"


class Transit(BaseHTTPRequestHandler):
    """The two calls of the transit engine that are used, as the engine's documentation has them."""

    keys: ClassVar[dict[str, AESGCM]] = {}

    def do_POST(self):
        self.answer(*self.handled())

    do_PUT = do_POST  # noqa: N815  the server looks for this name

    def handled(self):
        if self.headers.get("X-Vault-Token") != TOKEN:
            return 403, {"errors": ["permission denied"]}
        _, _, mount, operation, name = self.path.split("/")
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        cipher = self.keys.get(name)
        if mount != "transit" or cipher is None:
            return 400, {"errors": ["encryption key not found"]}
        bound = base64.b64decode(body["associated_data"])
        if operation == "encrypt":
            nonce = os.urandom(12)
            blob = nonce + cipher.encrypt(nonce, base64.b64decode(body["plaintext"]), bound)
            return 200, {"data": {"ciphertext": "vault:v1:" + base64.b64encode(blob).decode(), "key_version": 1}}
        try:
            blob = base64.b64decode(body["ciphertext"].removeprefix("vault:v1:"), validate=True)
            plaintext = cipher.decrypt(blob[:12], blob[12:], bound)
        except (InvalidTag, ValueError):
            return 400, {"errors": ["cipher: message authentication failed"]}
        return 200, {"data": {"plaintext": base64.b64encode(plaintext).decode()}}

    def answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        """Stay silent."""


@pytest.fixture(scope="module")
def transit_url():
    Transit.keys = {"root": AESGCM(os.urandom(32)), "other": AESGCM(os.urandom(32))}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Transit)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture(scope="module")
def aws():
    """Endpoint and key ids of a KMS that moto plays."""
    environment = {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client("kms", endpoint_url=endpoint)
    ids = [client.create_key()["KeyMetadata"]["KeyId"] for _ in range(2)]
    client.close()
    yield endpoint, ids
    server.stop()
    for name, text in before.items():
        os.environ.pop(name) if text is None else os.environ.__setitem__(name, text)


def check_root(root, another, refused=BlobError):
    blob = root.wrap(KEY, PLACE)
    assert KEY not in blob
    assert root.unwrap(blob, PLACE) == KEY
    for broken, place in ((blob, b"another place"), (b"garbage", PLACE)):
        with pytest.raises(BlobError):
            root.unwrap(broken, place)
    with pytest.raises(refused):
        another.unwrap(blob, PLACE)


@pytest.mark.filterwarnings("default")
def test_a_root_in_aws_kms_wraps_for_a_place_and_no_other(aws):
    endpoint, (one, other) = aws
    # moto denies access where KMS itself says IncorrectKeyException
    check_root(AwsRoot(one, endpoint=endpoint), AwsRoot(other, endpoint=endpoint), (BlobError, KeyFileError))
    with pytest.raises(KeyFileError, match="NotFoundException"):
        AwsRoot("nobody", endpoint=endpoint).wrap(KEY, PLACE)


def test_aws_without_a_region_is_told_as_a_root_that_cannot_be_used(monkeypatch, tmp_path):
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(KeyFileError, match="NoRegionError"):
        AwsRoot("key")


def test_a_root_in_a_transit_engine_wraps_for_a_place_and_no_other(transit_url):
    check_root(TransitRoot(transit_url, TOKEN, "root"), TransitRoot(transit_url, TOKEN, "other"))
    with pytest.raises(KeyFileError, match="does the key exist"):
        TransitRoot(transit_url, TOKEN, "nobody").wrap(KEY, PLACE)
    with pytest.raises(KeyFileError, match="Forbidden"):
        TransitRoot(transit_url, "wrong", "root").wrap(KEY, PLACE)
    with pytest.raises(KeyFileError, match="cannot be used"):
        TransitRoot("http://127.0.0.1:9", TOKEN, "root").wrap(KEY, PLACE)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "way", ["file to aws", "file to transit", "aws to another", "aws to transit", "transit to file"]
)
def test_a_deployment_moves_its_root(tmp_path, transit_url, aws, way):
    """Both roots known everywhere first, then the keys wrapped anew, then the old root forgotten."""
    endpoint, (key_id, another) = aws
    roots = {
        "file": RootKey(os.urandom(32)),
        "aws": AwsRoot(key_id, endpoint=endpoint),
        "another": AwsRoot(another, endpoint=endpoint),
        "transit": TransitRoot(transit_url, TOKEN, "root"),
    }
    old, new = (roots[name] for name in way.split(" to "))
    made = KeyFolder(tmp_path, old).load_or_make(7)
    KeyFolder(tmp_path, old).load_or_make(STANDING)
    still_old = KeyFolder(tmp_path, EitherRoot(old, new))
    changing = KeyFolder(tmp_path, EitherRoot(new, old))
    assert changing.load(7).number == 7
    assert changing.rewrap() == [STANDING, 7]
    for folder in (still_old, KeyFolder(tmp_path, new)):
        assert folder.load(7).unwrap(made.wrap(KEY, PLACE), PLACE) == KEY
    with pytest.raises(KeyFileError):
        KeyFolder(tmp_path, old).load(7)


def test_a_key_of_neither_root_is_refused_by_the_present_one(transit_url):
    present, other = TransitRoot("http://127.0.0.1:9", TOKEN, "root"), TransitRoot(transit_url, TOKEN, "root")
    assert EitherRoot(present, other).unwrap(other.wrap(KEY, PLACE), PLACE) == KEY
    with pytest.raises(KeyFileError, match="cannot be used"):
        EitherRoot(present, other).unwrap(TransitRoot(transit_url, TOKEN, "other").wrap(KEY, PLACE), PLACE)


def test_a_root_is_found_by_its_name(tmp_path, transit_url):
    path = tmp_path / "root.key"
    path.write_bytes(base64.b64encode(KEY))
    assert "root.key" in find_root("file", RootSettings(key_file=path)).describe()
    assert "root.key" in find_root(f"file:{path}", RootSettings()).describe()
    told = RootSettings(transit_url=transit_url, transit_token=TOKEN)
    assert find_root("transit:root", told).describe() == "transit key transit/root"


def test_another_package_brings_a_root_by_an_entry_point(tmp_path, monkeypatch):
    about = tmp_path / "acme_roots-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-roots\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[{PLUG_INS}]\nhsm = acme_roots:open_hsm\n")
    (tmp_path / "acme_roots.py").write_text("def open_hsm(slot):\n    return f'the root in {slot}'\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_root("hsm:slot-1", RootSettings()) == "the root in slot-1"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("file", "ROOT_KEY_FILE"),
        ("transit:x", "TRANSIT_URL"),
        ("aws:", "none of"),
        ("", "none of"),
        ("hsm:1", "none of"),
    ],
)
def test_a_root_that_cannot_be_found_says_what_is_missing(name, said):
    with pytest.raises(KeyFileError, match=said):
        find_root(name, RootSettings())


def test_production_refuses_a_file_unless_told_in_so_many_words():
    with pytest.raises(KeyFileError, match="VAULT_FILE_ROOT_IN_PRODUCTION=accepted"):
        refuse_file_in_production("file", production=True, accepted=False)
    refuse_file_in_production("file", production=True, accepted=True)
    refuse_file_in_production("file", production=False, accepted=False)
    refuse_file_in_production("aws:key", production=True, accepted=False)

"""The client against servers that are not ours; each is skipped where it is not installed."""

import asyncio
import hashlib
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult

from routing.domain import AttemptResult
from routing.providers.smtp import SmtpPool, parse_smtp_url

CONTENT = b"From: a@example.org\r\nTo: b@example.net\r\nSubject: x\r\n\r\n.dot\r\n..two\r\nplain\r\n.\r\nend\r\n"
ACCEPTED, DOUBT = AttemptResult.ACCEPTED, AttemptResult.DOUBT
SMTP_SINK = shutil.which("smtp-sink", path="/usr/sbin:/usr/bin:/usr/local/sbin")
EXIM = shutil.which("exim4", path="/usr/sbin:/usr/bin:/usr/local/sbin")
POSTFIX = shutil.which("postfix", path="/usr/sbin:/usr/bin:/usr/local/sbin")
NODE = shutil.which("node")
NODE_PLACES = [Path.cwd() / "node_modules", *map(Path, filter(None, os.environ.get("NODE_PATH", "").split(":")))]
NODE_MODULES = next((place for place in NODE_PLACES if (place / "smtp-server").exists()), None)
HARAKA = shutil.which("haraka") or next(
    (str(place / ".bin" / "haraka") for place in NODE_PLACES if (place / "Haraka").exists()), None
)


def _is_root():
    return os.geteuid() == 0


async def send(pool, rcpt_to="b@example.net", content=CONTENT):
    return await pool.send(mail_from="a@example.org", rcpt_to=rcpt_to, content=content, deadline=None)


@asynccontextmanager
async def pool_to(url):
    pool = SmtpPool(parse_smtp_url(url))
    try:
        yield pool
    finally:
        await pool.close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(command, port, **options):
    """A server process, once its port answers; ended by its own id."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(timeout=10)
        process.stderr.close()


class Keeper:
    def __init__(self):
        self.envelopes = []

    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):  # noqa: N802 - aiosmtpd's name
        if address.startswith("refuse"):
            return f"550 5.1.1 <{address}> unknown"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server, session, envelope):  # noqa: N802 - aiosmtpd's name
        self.envelopes.append((envelope.mail_from, envelope.rcpt_tos, envelope.content))
        return "250 2.0.0 kept"


@asynccontextmanager
async def aiosmtpd_server(*, implicit_tls=None, **options):
    keeper = Keeper()
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(keeper, hostname="fake.invalid", enable_SMTPUTF8=True, **options),
        "127.0.0.1",
        0,
        ssl=implicit_tls,
    )
    try:
        yield keeper, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def test_aiosmtpd_gets_every_byte_and_its_refusals_are_understood():
    async with aiosmtpd_server() as (keeper, port), pool_to(f"smtp://127.0.0.1:{port}") as pool:
        outcomes = await asyncio.gather(*(send(pool) for _ in range(50)))
        assert {outcome.result for outcome in outcomes} == {ACCEPTED}
        refused = await send(pool, "refuse@example.net")
        assert (refused.result, refused.reason) == (AttemptResult.REFUSED, "refused at RCPT: 550 5.1.1")
        german = CONTENT + "grüß\r\n".encode()
        assert (await send(pool, "grüß@example.net", german)).result is ACCEPTED
    assert keeper.envelopes[0] == ("a@example.org", ["b@example.net"], CONTENT)
    assert keeper.envelopes[-1] == ("a@example.org", ["grüß@example.net"], german)


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # aiosmtpd does not see implicit TLS
@pytest.mark.parametrize("scheme", ["smtps", "smtp+starttls"])
async def test_aiosmtpd_with_tls_and_authentication(scheme, tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def check(server, session, envelope, mechanism, data):
        return AuthResult(success=(data.login, data.password) == (b"routing", b"s3cret"), handled=False, auth_data=data)

    options = {"authenticator": check, "auth_required": True}
    options |= (
        {"auth_require_tls": False, "implicit_tls": context}
        if scheme == "smtps"
        else {"tls_context": context, "require_starttls": True}
    )
    async with aiosmtpd_server(**options) as (keeper, port):
        async with pool_to(f"{scheme}://routing:s3cret@127.0.0.1:{port}?ca_file={tmp_path}/ca.pem") as pool:
            assert (await send(pool)).result is ACCEPTED
        async with pool_to(f"{scheme}://routing:wrong@127.0.0.1:{port}?ca_file={tmp_path}/ca.pem") as pool:
            outcome = await send(pool)
            assert (outcome.result, outcome.reason) == (AttemptResult.UNREACHED, "refused at AUTH PLAIN: 535 5.7.8")
    assert [content for _, _, content in keeper.envelopes] == [CONTENT]


@contextmanager
def smtp_sink(*options):
    port = free_port()
    user = ["-u", "nobody"] if Path("/etc/debian_version").exists() and _is_root() else []
    with running([SMTP_SINK, *user, *options, f"127.0.0.1:{port}", "100"], port):
        yield port


needs_smtp_sink = pytest.mark.skipif(SMTP_SINK is None, reason="needs smtp-sink: apt-get install postfix")


@needs_smtp_sink
async def test_smtp_sink_takes_a_thousand_mails_over_sixteen_connections(record_property):
    with smtp_sink() as port:
        async with pool_to(f"smtp://127.0.0.1:{port}") as pool:
            began = time.process_time()
            outcomes = await asyncio.gather(*(send(pool) for _ in range(1000)))
            record_property("us of CPU a mail", round((time.process_time() - began) * 1000))
            assert pool.health().connections_open == 16
    assert {outcome.result for outcome in outcomes} == {ACCEPTED}


@needs_smtp_sink
@pytest.mark.parametrize(
    ("options", "result", "reason"),
    [
        (["-q", "."], DOUBT, "connection lost at final dot"),
        (["-q", "data"], AttemptResult.UNREACHED, "connection lost at DATA"),
        (["-Q", "rcpt"], AttemptResult.LATER, "later at RCPT: 421"),
        (["-f", "rcpt"], AttemptResult.REFUSED, "refused at RCPT: 500 5.3.0"),
        (["-r", "mail"], AttemptResult.LATER, "later at MAIL: 450 4.3.0"),
        (["-f", "."], AttemptResult.REFUSED, "refused at final dot: 500 5.3.0"),
        (["-r", "."], AttemptResult.LATER, "later at final dot: 450 4.3.0"),
        (["-q", "connect"], AttemptResult.UNREACHED, "connection lost at greeting"),
        (["-p"], ACCEPTED, "accepted at final dot: 250 2.0.0"),
        (["-8"], ACCEPTED, "accepted at final dot: 250 2.0.0"),
    ],
)
async def test_the_faults_of_smtp_sink_have_their_outcomes(options, result, reason):
    with smtp_sink(*options) as port:
        async with pool_to(f"smtp://127.0.0.1:{port}") as pool:
            for _ in range(2):
                outcome = await send(pool)
                assert outcome.result is result
                assert outcome.reason.startswith(reason)


NODE_SERVER = """
const {SMTPServer} = require('smtp-server');
const crypto = require('crypto');
new SMTPServer({disabledCommands: ['STARTTLS'], authOptional: true, logger: false,
  onRcptTo(address, session, done) {
    if (address.address.startsWith('refuse')) { const e = new Error('unknown'); e.responseCode = 550; return done(e); }
    done();
  },
  onData(stream, session, done) {
    const hash = crypto.createHash('sha256');
    stream.on('data', part => hash.update(part));
    stream.on('end', () => done(null, hash.digest('hex')));
  },
}).listen(+process.argv[1], '127.0.0.1');
"""


@pytest.mark.skipif(
    NODE is None or NODE_MODULES is None, reason="needs node and, here or on NODE_PATH, npm install smtp-server"
)
async def test_npm_smtp_server_gets_every_byte():
    port = free_port()
    with running([NODE, "-e", NODE_SERVER, str(port)], port, cwd=NODE_MODULES.parent):
        async with pool_to(f"smtp://127.0.0.1:{port}") as pool:
            outcomes = await asyncio.gather(*(send(pool) for _ in range(100)))
            refused = await send(pool, "refuse@example.net")
    assert {outcome.result for outcome in outcomes} == {ACCEPTED}
    assert hashlib.sha256(CONTENT).hexdigest() in outcomes[0].reply.text
    assert (refused.result, refused.reply.code) == (AttemptResult.REFUSED, 550)


async def many_at_once(port):
    """Mails wait for two connections, so that most are begun behind another; a third of them has a bad recipient."""
    async with pool_to(f"smtp://127.0.0.1:{port}?connections=2") as pool:
        outcomes = await asyncio.gather(
            *(send(pool, "b@example.net" if number % 3 else "refuse@example.net") for number in range(60))
        )
        assert pool.health().failures == 0
    wanted = [ACCEPTED if number % 3 else AttemptResult.REFUSED for number in range(60)]
    assert [outcome.result for outcome in outcomes] == wanted


POSTFIX_SERVICES = """
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
discard unix - - n - - discard
error unix - - n - - error
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
"""
STRICT = "smtpd_data_restrictions = reject_unauth_pipelining\nsmtpd_forbid_unauth_pipelining = yes\n"


@contextmanager
def readable_folder():
    """A folder that a server's own user may enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="waystation-smtp-"))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def exim(port):
    with readable_folder() as folder:
        configuration = folder / "exim.conf"
        configuration.write_text(
            f"""
primary_hostname = exim.invalid
spool_directory = {folder}/spool
log_file_path = {folder}/%s.log
pid_file_path = {folder}/exim.pid
queue_only = true
acl_smtp_rcpt = rcpt
begin acl
rcpt:
  deny local_parts = refuse
       message = 5.1.1 unknown
  accept
"""
        )
        if _is_root():
            shutil.chown(folder, "Debian-exim", "Debian-exim")
        with running([EXIM, "-bdf", "-C", str(configuration), "-oX", f"127.0.0.1.{port}"], port):
            yield


@pytest.mark.skipif(EXIM is None, reason="needs exim4: apt-get install exim4-daemon-light")
async def test_exim_takes_mail_and_refuses_a_recipient():
    port = free_port()
    with exim(port):
        async with pool_to(f"smtp://127.0.0.1:{port}") as pool:
            outcomes = [await send(pool) for _ in range(5)]
            refused = await send(pool, "refuse@example.net")
        await many_at_once(port)
    assert [outcome.result for outcome in outcomes] == [ACCEPTED] * 5
    assert refused.result is AttemptResult.REFUSED


@contextmanager
def postfix(port, more):
    with readable_folder() as folder:
        for name in ("queue", "data"):
            (folder / name).mkdir()
        shutil.chown(folder / "data", "postfix")
        (folder / "main.cf").write_text(
            f"""compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
mail_owner = postfix
setgid_group = postdrop
myhostname = postfix.invalid
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
default_transport = discard
smtpd_recipient_restrictions = check_recipient_access inline:{{{{refuse@example.net = REJECT}}}}, permit_mynetworks, reject
{more}"""
        )
        (folder / "master.cf").write_text(f"127.0.0.1:{port} inet n - n - - smtpd{POSTFIX_SERVICES}")
        subprocess.run([POSTFIX, "-c", str(folder), "start"], check=True, capture_output=True, timeout=60)
        try:
            yield
        finally:
            subprocess.run([POSTFIX, "-c", str(folder), "stop"], check=True, capture_output=True, timeout=60)


@pytest.mark.skipif(POSTFIX is None or not _is_root(), reason="needs root and Postfix: apt-get install postfix")
@pytest.mark.parametrize("more", ["", STRICT], ids=["as it comes", "strict with commands in groups"])
async def test_postfix_takes_mails_begun_behind_one_another(more):
    port = free_port()
    with postfix(port, more):
        await many_at_once(port)


@contextmanager
def haraka(port):
    refuse = "exports.hook_rcpt = (next, connection, params) => next(params[0].user === 'refuse' ? DENY : OK)\n"
    with readable_folder() as folder:
        subprocess.run([HARAKA, "-i", str(folder)], check=True, capture_output=True, timeout=60)
        for name, text in {
            "config/smtp.ini": f"listen=127.0.0.1:{port}\nnodes=0\n",
            "config/plugins": "refuse\nqueue/discard\n",
            "config/log.ini": "[main]\nlevel=error\n",
            "plugins/refuse.js": refuse,
        }.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        with running([HARAKA, "-c", str(folder)], port, env={**os.environ, "YES_REALLY_DO_DISCARD": "1"}):
            yield


@pytest.mark.skipif(HARAKA is None, reason="needs Haraka: npm install Haraka, here, on NODE_PATH or on the PATH")
async def test_haraka_which_takes_nothing_behind_a_final_dot_takes_every_mail():
    port = free_port()
    with haraka(port):
        await many_at_once(port)

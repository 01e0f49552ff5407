"""A whole road to rehearse on: a stack, the SMTP laboratory as a process, an account, a load. For tests and benches."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from waystation.laboratory import read_record
from waystation.operator import ServiceClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from waystation.laboratory import RecordedMail
    from waystation.stack.stack import Stack

LABORATORY_START_SECONDS = 10.0
RETRY_PAUSE_SECONDS = 0.25
INBOX = "orders@blumen-winter.example"

SENTENCES = (
    "Your bouquet is bound on the morning of the delivery and carried to the door.",
    "If nobody is at home, our driver leaves it with a neighbour and puts a note into your letter box.",
    "Please put the stems into fresh water as soon as you can and cut them a little at an angle.",
    "You can change the time of the delivery in your account until six in the evening of the day before.",
    "The invoice is attached to this message and can be found in your account as well.",
    "Our shop in the station street is open from Monday to Saturday between eight and seven.",
    "The vase is packed in cardboard made from old paper; please hand it in where you collect paper.",
    "For questions about this order our team answers every working day between nine and five.",
    "Roses keep longest in a cool room, away from fruit and from direct sun.",
    "Your card was charged when the order was placed, and nothing more is due.",
    "We have noted your wish for a handwritten card and will add it to the flowers.",
    "The greenhouse that grows them is twelve kilometres from here and heated with wood from the region.",
    "Should a flower arrive damaged, send us a photo within two days and we will replace it.",
    "A second bouquet to the same address costs no further delivery.",
    "The name on the bell that you gave us is the one our driver will look for.",
    "We deliver on public holidays too, though then only before noon.",
    "Your account shows all orders of the last three years with their dates and prices.",
    "Thank you for the kind words about last month's arrangement; the team was glad to read them.",
    "The next market with our stand takes place on the second Saturday of the month.",
    "With kind regards from everybody in the workshop.",
)


@dataclass(frozen=True, slots=True)
class Admitted:
    """What the door answered 202 to: the message's id, the SHA-256 of its final bytes, and its recipient."""

    message_id: str
    digest: str
    recipient: str


@dataclass(slots=True)
class Account:
    """An account of the rehearsal, with the key of its administrator."""

    account_id: str
    api_key: str


@dataclass(slots=True)
class Rehearsal:
    """Drives a running stack from outside, as a channel program would."""

    stack: Stack
    record: Path
    digest_only: bool = False
    write_first: bool = False
    """The laboratory records a mail before it answers: nothing it acknowledged is lost when it is killed."""
    _laboratory: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _counted: tuple[int, int] = field(default=(0, 0), init=False)
    """Bytes of the record that were read, and mails in them."""

    def start_laboratory(self) -> None:
        """Start the SMTP laboratory on the stack's SMTP port and wait until it listens; one that runs is left alone."""
        if self._laboratory is not None and self._laboratory.poll() is None:
            return
        self.record.mkdir(parents=True, exist_ok=True)
        port_file = self.record / "port"
        port_file.unlink(missing_ok=True)
        asked = {"--digest-only": self.digest_only, "--write-first": self.write_first}
        options = [option for option, wanted in asked.items() if wanted]
        self._laboratory = subprocess.Popen(  # noqa: S603  our own module, our own arguments
            [
                *(sys.executable, "-m", "waystation.laboratory", "--port", str(self.stack.port("smtp"))),
                *("--record", str(self.record), "--port-file", str(port_file), *options),
            ]
        )
        ends = time.monotonic() + LABORATORY_START_SECONDS
        while not port_file.exists():
            if self._laboratory.poll() is not None or time.monotonic() > ends:
                raise RuntimeError("the SMTP laboratory did not start")
            time.sleep(0.05)

    @property
    def laboratory_pid(self) -> int:
        """The process id of the laboratory."""
        assert self._laboratory is not None, "start the laboratory first"
        return self._laboratory.pid

    def stop_laboratory(self) -> None:
        """Stop the laboratory; its record stays."""
        if self._laboratory is not None:
            self._laboratory.terminate()
            self._laboratory.wait(10)
            self._laboratory = None

    def kill_laboratory(self) -> None:
        """SIGKILL the laboratory: every call that is open loses its provider."""
        assert self._laboratory is not None, "start the laboratory first"
        self._laboratory.kill()
        self._laboratory.wait(10)
        self._laboratory = None

    def recorded_count(self) -> int:
        """Return how many mails the record holds; only what was appended since the last call is read."""
        path = self.record / "mails.jsonl"
        if not path.exists():
            return 0
        with path.open("rb") as file:
            size, mails = self._counted
            file.seek(size)
            for chunk in iter(lambda: file.read(1 << 20), b""):
                size, mails = size + len(chunk), mails + chunk.count(b"\n")
            self._counted = size, mails
        return mails

    def recorded(self) -> list[RecordedMail]:
        """Return what the laboratory has seen so far."""
        path = self.record / "mails.jsonl"
        return read_record(path) if path.exists() else []

    def create_account(self, name: str) -> Account:
        """Create an account with one inbox whose administrator accepts the rules."""
        with ServiceClient(self.stack) as operator:
            wanted = {"name": name, "inboxes": [{"address": INBOX}], "accept_rules": "1"}
            answer = operator.post("ingestion", "/v1/accounts", wanted)
        return Account(answer["id"], answer["users"][0]["api_key"])

    async def send(
        self, account: Account, items: Sequence[dict[str, Any]], *, batch: int = 100, connections: int = 4
    ) -> list[Admitted]:
        """Send items in batches; what is not answered for good is sent again under its idempotency key."""
        chunks = [items[start : start + batch] for start in range(0, len(items), batch)]
        queue = iter(chunks)
        admitted: list[Admitted] = []

        async def worker(client: httpx.AsyncClient) -> None:
            for chunk in queue:
                admitted.extend(await self.send_chunk(client, account, chunk))

        limits = httpx.Limits(max_connections=connections, keepalive_expiry=30)
        async with httpx.AsyncClient(
            base_url=self.stack.url("ingestion"), timeout=30, limits=limits, trust_env=False
        ) as client:
            await asyncio.gather(*(worker(client) for _ in range(connections)))
        return admitted

    async def send_chunk(
        self, client: httpx.AsyncClient, account: Account, chunk: Sequence[dict[str, Any]]
    ) -> list[Admitted]:
        """Send one batch until each of its items is answered for good."""
        left, admitted = list(chunk), []
        headers = {"authorization": f"Bearer {account.api_key}"}
        while left:
            try:
                response = await client.post("/v1/messages:batch", json={"items": left}, headers=headers)
            except httpx.TransportError:
                await asyncio.sleep(RETRY_PAUSE_SECONDS)
                continue
            if response.status_code != httpx.codes.OK:
                _expect_temporary(response)
                await asyncio.sleep(RETRY_PAUSE_SECONDS)
                continue
            answers = response.json()["items"]
            again = []
            for item, answer in zip(left, answers, strict=True):
                if answer["status"] == httpx.codes.ACCEPTED:
                    message = answer["message"]
                    admitted.append(Admitted(message["id"], message["digest"], item["recipient"]["address"]))
                elif answer["status"] in {429, 503}:
                    again.append(item)
                else:
                    raise RuntimeError(f"the door refused an item of the rehearsal: {answer}")
            left = again
            if left:
                await asyncio.sleep(RETRY_PAUSE_SECONDS)
        return admitted

    def states(self) -> Counter[str]:
        """Return how many deliveries are in each state, as routing's own rows say."""
        with ServiceClient(self.stack) as operator:
            counted = operator.post("routing", "/v1/ledger", {})["accounts"]
        states: Counter[str] = Counter()
        for account in counted.values():
            states.update(account)
        return states

    def wait_until_at_rest(self, messages: int, timeout_seconds: float) -> Counter[str]:
        """Wait until that many deliveries exist and none is planned or handing; return the counts."""
        ends = time.monotonic() + timeout_seconds
        while True:
            states = self.states()
            moving = states["planned"] + states["handing"]
            if states.total() >= messages and not moving:
                return states
            if time.monotonic() > ends:
                raise TimeoutError(f"after {timeout_seconds:.0f} s: {dict(states)} of {messages} messages")
            time.sleep(0.5)


class Load:
    """A load that goes on in a thread of its own while its owner kills and starts things.

    Items leave in small batches at a steady pace; `burst` sends more at once; `finish` sends the rest and waits for the
    last answer. What the door does not answer for good is sent again, under its idempotency key.
    """

    def __init__(self, rehearsal: Rehearsal, account: Account, load: Sequence[dict[str, Any]]) -> None:
        self._rehearsal = rehearsal
        self._account = account
        self._left = list(load)
        self._admitted: list[Admitted] = []
        self._sending: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None
        self._pace = (5, 0.25)
        self._ending = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._client = httpx.AsyncClient(
            base_url=rehearsal.stack.url("ingestion"),
            timeout=httpx.Timeout(30, pool=None),
            limits=httpx.Limits(max_connections=6, keepalive_expiry=30),
            trust_env=False,
        )
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self, *, batch: int = 5, every_seconds: float = 0.25) -> None:
        """Begin to send `batch` items every so many seconds."""
        self._pace = (batch, every_seconds)
        self._thread.start()

    @property
    def left(self) -> int:
        """How many items have not been sent yet."""
        return len(self._left)

    def burst(self, count: int, *, batch: int = 50) -> None:
        """Send that many items at once."""
        for _ in range(0, count, batch):
            self._tell(self._send_next, batch)

    def finish(self, timeout_seconds: float) -> list[Admitted]:
        """Send what is left, wait for all answers, return what was admitted.

        Raises:
            TimeoutError: the door did not answer for good in time.
        """
        self.stop(timeout_seconds, send_rest=True)
        if self._error is not None:
            raise self._error
        return self._admitted

    def stop(self, timeout_seconds: float = 5.0, *, send_rest: bool = False) -> None:
        """End the load; by default what is left is not sent. Safe to call again."""
        if not send_rest:
            self._left.clear()
        self._tell(self._ending.set)
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            self._tell(self._give_up)
            self._thread.join(5.0)

    def _tell(self, what: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the load has ended and its loop is closed
            self._loop.call_soon_threadsafe(what, *arguments)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._send_all())
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  told by `finish`
            self._error = self._error or error
        finally:
            self._loop.close()

    async def _send_all(self) -> None:
        async with self._client:
            batch, every_seconds = self._pace
            while not self._ending.is_set():
                self._send_next(batch)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), every_seconds)
            while self._left:
                self._send_next(100)
            while self._sending:
                await asyncio.gather(*self._sending)

    def _send_next(self, count: int) -> None:
        chunk, self._left[:count] = self._left[:count], []
        if chunk:
            task = self._loop.create_task(self._send(chunk))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send(self, chunk: Sequence[dict[str, Any]]) -> None:
        try:
            self._admitted += await self._rehearsal.send_chunk(self._client, self._account, chunk)
        except RuntimeError as error:
            self._error = self._error or error

    def _give_up(self) -> None:
        self._error = TimeoutError(f"the door has not answered {len(self._sending)} batches for good")
        for task in self._sending:
            task.cancel()


@dataclass(frozen=True, slots=True)
class Reckoning:
    """Instructed bytes against recorded bytes. Each field lists message ids, but `foreign`: digests nobody instructed.

    `lost`: said to be handed over, yet never accepted by the laboratory. `doubled`: accepted more than once.
    `untrue`: said not to be handed over, yet accepted. `unplanned`: routing has no delivery. `doubtful`: in doubt, of
    which the laboratory has `doubtful_seen` accepted or kept.
    """

    lost: list[str]
    doubled: list[str]
    untrue: list[str]
    unplanned: list[str]
    foreign: list[str]
    doubtful: list[str]
    doubtful_seen: list[str]

    @property
    def wrong(self) -> dict[str, list[str]]:
        """What must not be, by kind."""
        kinds = ("lost", "doubled", "untrue", "unplanned", "foreign")
        return {kind: found for kind in kinds if (found := getattr(self, kind))}


def reckon(admitted: Iterable[Admitted], recorded: Iterable[RecordedMail], states: Mapping[str, str]) -> Reckoning:
    """Match recorded bytes with the digests that the door promised; `states` are routing's, by message id."""
    expected = {one.message_id: one.digest for one in admitted}
    mails = list(recorded)
    accepted = Counter(mail.sha256 for mail in mails if mail.accepted)
    kept = {mail.sha256 for mail in mails if mail.accepted or mail.answer in {"cut", "garbage"}}

    def those(*wanted: str | None) -> list[str]:
        return [message_id for message_id in expected if states.get(message_id) in wanted]

    said, doubtful = those("handed_over", "delivered"), those("in_doubt")
    resting = those("refused", "withheld", "expired", "held", "planned")
    return Reckoning(
        lost=[one for one in said if not accepted[expected[one]]],
        doubled=[one for one, digest in expected.items() if accepted[digest] > 1],
        untrue=[one for one in resting if accepted[expected[one]]],
        unplanned=those(None),
        foreign=sorted({mail.sha256 for mail in mails} - set(expected.values())),
        doubtful=doubtful,
        doubtful_seen=[one for one in doubtful if expected[one] in kept],
    )


def _expect_temporary(response: httpx.Response) -> None:
    if response.status_code not in {429, 503}:
        raise RuntimeError(f"the door refused a batch of the rehearsal: {response.status_code} {response.text[:300]}")


def items(recipients: Iterable[str], *, text_bytes: int = 1500, tag: str = "") -> list[dict[str, Any]]:
    """Return one order confirmation per recipient, each with its own idempotency key and text."""
    made = []
    for number, recipient in enumerate(recipients):
        head = f"Good day,\n\nthank you for order {tag}{number:06d}. We deliver on Thursday before noon.\n\n"
        made.append(
            {
                "tool": "email",
                "inbox": INBOX,
                "recipient": {"address": recipient},
                "content": {
                    "subject": f"Order {tag}{number:06d} is confirmed",
                    "text": head + _sentences(number, text_bytes - len(head)) + "\n",
                },
                "purpose": "order-confirmation",
                "legal_basis": {"kind": "contract", "attested": True},
                "idempotency_key": f"{tag}{recipient}-{number}",
            }
        )
    return made


def _sentences(first: int, size_bytes: int) -> str:
    """Return that much of what a florist writes, each mail beginning with another sentence."""
    lines: list[str] = []
    while sum(map(len, lines)) + len(lines) <= size_bytes:
        lines.append(SENTENCES[(first + len(lines)) % len(SENTENCES)])
    return "\n".join(lines)[: max(0, size_bytes)]


def eml_item(raw: bytes, recipient: str, key: str) -> dict[str, Any]:
    """Return an item that carries a person's own mail."""
    return {
        "tool": "email",
        "inbox": INBOX,
        "recipient": {"address": recipient},
        "content": {"eml": base64.b64encode(raw).decode()},
        "purpose": "correspondence",
        "legal_basis": {"kind": "contract", "attested": True},
        "idempotency_key": key,
    }

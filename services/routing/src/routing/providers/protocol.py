"""What every adapter offers: it hands over only a verified instruction that a verified verdict allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from common.events.intake import VerifiedInstruction
    from common.events.screening import VerifiedVerdict
    from routing.domain import Outcome


class Disclosed(NamedTuple):
    """What the vault disclosed for one hand-over, opened in this process. Lives only until the call has ended."""

    envelope_sender: str
    recipient_address: str
    content: bytes
    message_key: bytes


class Provider(Protocol):
    """A Service provider. `fields` is what its contract lets it receive beside the content."""

    @property
    def name(self) -> str:
        """The provider's name in the vault's register of processors."""

    @property
    def fields(self) -> tuple[Literal["address", "name"], ...]:
        """The recipient's fields that a hand-over needs."""

    @property
    def calls_at_once(self) -> int:
        """How many calls can be under way at a time."""

    async def hand_over(
        self,
        instruction: VerifiedInstruction,
        verdict: VerifiedVerdict,
        mail: Disclosed,
        *,
        deadline: Callable[[], float],
        beyond: Callable[[], None],
    ) -> Outcome:
        """Transfer one message; never raises for what the provider does.

        `deadline` returns monotonic seconds, later ones once the lease is renewed: ask whenever something is written.
        `beyond` is called right before the bytes after which the provider may have accepted: where it was not called,
        nothing was.
        """

    async def close(self) -> None:
        """End open connections in order."""

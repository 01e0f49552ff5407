"""Proof documents: who signed what about a message, checked with public keys alone. docs/proof.md tells the format.

Nothing here needs a service, Kafka or a database.
"""

from waystation.proof.checking import Checked, Code, MessageProof, PublishedKeys, check
from waystation.proof.documents import FORMAT, Part, document, read_parts

__all__ = ["FORMAT", "Checked", "Code", "MessageProof", "Part", "PublishedKeys", "check", "document", "read_parts"]

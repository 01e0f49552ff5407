"""The local stack: Kafka and PostgreSQL without Docker or root, and the five services, in one folder."""

from waystation.stack.addresses import Report, Silence, StackAddresses
from waystation.stack.layout import HOST, SERVICES, Layout, StackState, checkout_folder, default_home
from waystation.stack.processes import ProcessRecord
from waystation.stack.stack import ComponentStatus, Stack

__all__ = [
    "HOST",
    "SERVICES",
    "ComponentStatus",
    "Layout",
    "ProcessRecord",
    "Report",
    "Silence",
    "Stack",
    "StackAddresses",
    "StackState",
    "checkout_folder",
    "default_home",
]

"""Service providers behind one small protocol."""

from routing.providers.protocol import Disclosed, Provider

__all__ = ["Disclosed", "Provider"]

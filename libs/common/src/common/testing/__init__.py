"""Hand-written fakes and factories for tests of several services; nothing here is imported by a service."""

"""Contracts of HTTP calls between services."""

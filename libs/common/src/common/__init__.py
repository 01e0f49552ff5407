"""Contracts and infrastructure shared by the five services."""

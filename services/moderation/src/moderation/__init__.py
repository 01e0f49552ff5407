"""Screening: policies, verdicts, evidence."""

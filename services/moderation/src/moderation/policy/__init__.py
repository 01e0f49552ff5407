"""Policies as data: the closed schema of the file, and reading it with errors that name line and column."""

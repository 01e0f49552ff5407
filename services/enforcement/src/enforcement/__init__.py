"""Complaints, standing, due process."""

"""Asking a model for a structured answer: what judges and moderators share."""

"""Judges: who says whether a reply is safe. ``opening.open_judge`` makes one from what ``--judge`` was given."""

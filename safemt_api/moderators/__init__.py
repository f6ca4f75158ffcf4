"""Moderators: what stands between the user and the target. ``opening.open_moderator`` makes one from what ``--moderator`` was given."""

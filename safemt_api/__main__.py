"""``python -m safemt_api`` is ``safemt-api``."""

from __future__ import annotations

from safemt_api.cli import main

if __name__ == "__main__":
    main()

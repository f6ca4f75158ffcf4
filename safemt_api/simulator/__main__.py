"""``python -m safemt_api.simulator``."""

from __future__ import annotations

import sys

from safemt_api.simulator.process import main

if __name__ == "__main__":
    sys.exit(main())

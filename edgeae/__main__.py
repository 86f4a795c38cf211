"""``python -m edgeae`` is the ``edgeae`` command."""

from __future__ import annotations

from edgeae.cli import main

if __name__ == "__main__":
    main()

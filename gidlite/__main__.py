"""``python -m gidlite`` is the ``gidlite`` command."""

from gidlite.cli import main

if __name__ == "__main__":
    main()

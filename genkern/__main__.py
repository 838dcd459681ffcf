"""``python -m genkern`` is ``genkern``."""

from .cli import main

if __name__ == "__main__":
    main()

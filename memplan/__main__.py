"""``python -m memplan``: the same as the command ``memplan``."""

from memplan.app.cli import main

if __name__ == "__main__":
    main()

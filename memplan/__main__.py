"""``python -m memplan``: the command line, where the script of that name is not on the path."""

from memplan.app.cli import main

if __name__ == "__main__":
    main()

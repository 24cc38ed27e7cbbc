"""``python -m paramem`` is the ``paramem`` command."""

from paramem.cli import main

if __name__ == "__main__":
    main()

"""`python -m alike` is the command `alike`."""

from alike.flows.cli import main

if __name__ == "__main__":
    main()

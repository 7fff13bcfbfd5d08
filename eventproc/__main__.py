"""`python -m eventproc` is the command line."""

from eventproc.cli.main import main

if __name__ == "__main__":
    main()

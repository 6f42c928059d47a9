"""`python -m modelhaul` is the command."""

from modelhaul.cli.main import main

if __name__ == "__main__":
    main()

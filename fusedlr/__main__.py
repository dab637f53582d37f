"""The command line: ``python -m fusedlr``."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs a command; without typer only ``info``, in plain text."""
    try:
        import typer  # noqa: F401
    except ImportError:
        if sys.argv[1:] != ["info"]:
            sys.exit("The command line of fusedlr needs more packages: pip install 'fusedlr[cli]'")
        from fusedlr.cli.info import plain_text

        print(plain_text())
        return
    from fusedlr.cli.app import app

    app(prog_name="fusedlr")


if __name__ == "__main__":
    main()

"""`python -m pulsar_relay`, and what the `pulsar-relay` command calls."""

from __future__ import annotations

from pulsar_relay.cli import commands


def main() -> None:
    """Run the command that the process's arguments name, and end the process with its exit code."""
    commands(prog_name="pulsar-relay")


if __name__ == "__main__":
    main()

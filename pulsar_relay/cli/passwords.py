"""Where passwords come from: a prompt that does not show them, or standard input. Never from an argument,
which whoever is on the machine can read.
"""

from __future__ import annotations

import sys

import click


def read_password(prompt: str = "Password", *, is_new: bool = False) -> str:
    """One line; a new one is asked for twice. Raises click.UsageError if there is none."""
    if sys.stdin.isatty():
        password: str = click.prompt(prompt, hide_input=True, confirmation_prompt=is_new, err=True)
        return password
    line = sys.stdin.buffer.readline().removesuffix(b"\n").removesuffix(b"\r")
    if not line:
        raise click.UsageError("give the password as a line of standard input")
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise click.UsageError("the password is not UTF-8") from None

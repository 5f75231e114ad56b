"""Writes `config.yaml` and `docs/configuration.md` from the table of settings.

Run it as `python -m tools.configuration`. A test holds both equal to what this makes, so a setting cannot be
added, changed or removed in one place only.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

from pulsar_relay.keys import KEYS, SECTIONS, Key

ROOT = Path(__file__).resolve().parent.parent
YAML_PATH = ROOT / "config.yaml"
MANUAL_PATH = ROOT / "docs" / "configuration.md"

_YAML_HEAD = """\
Settings of the relay. Every key is here with its default, so this file changes nothing until you edit it;
keys you leave out keep their defaults. It is read when it lies in the directory the relay is started in or
in /etc/pulsar-relay, or is named by --config or RELAY_CONFIG. The environment goes before this file
(`RELAY_SERVER_PORT` sets server.port), and flags go before the environment. An unknown key or a value that
is not allowed stops the start, with a line that says why. `pulsar-relay config show` prints what is in
force and where each value came from.

Durations: 500ms, 30s, 1h30m, 7d; a plain number is seconds. Sizes: 64KiB (1024), 64KB (1000), 32MiB; a
plain number is bytes. Lists: with commas, or as YAML's own."""

_MANUAL_HEAD = """\
# Configuration

This page is written from the code's table of settings by `make configuration`; edit the table, not the
page.

## Where a value comes from

Later sources go before earlier ones:

1. the default, built in;
2. the configuration file: `--config FILE`, else the file that `RELAY_CONFIG` names, else `config.yaml`,
   `config.toml` or `config.yml` in the directory the relay is started in, else `config.toml` or
   `config.yaml` in `/etc/pulsar-relay`, else none. The one in the repository lists every key with its
   default. In TOML sections are tables;
3. the environment: `RELAY_<SECTION>_<KEY>`, such as `RELAY_SERVER_PORT` for `server.port`, and a few
   plain names (`VALKEY_HOST`, `VALKEY_PORT`, `VALKEY_USERNAME`, `VALKEY_PASSWORD`, `VALKEY_TLS`,
   `LOG_LEVEL`);
4. flags: `--set section.key=value` for every key, and flags of their own for the usual ones.

`pulsar-relay config show` prints the effective values and where each came from, secrets masked.

The names of pulsar-relay 0.2 (`PULSAR_*`, `.env`, flat keys in the file) are understood too, and in each
place the names on this page go before them: see [migrating](migrating.md).

Nothing is ignored and nothing is guessed. The relay refuses to start (exit code 2), and names all reasons
at once, when

- a key or section is unknown, in a file, in a flag, or as a variable that starts with `RELAY_`;
- a value is of the wrong kind or out of bounds, or a variable is set to nothing (only `VALKEY_USERNAME`
  and `VALKEY_PASSWORD` may be empty: no authentication);
- a key stands twice in the file, or two variables or two flags for one key disagree;
- settings contradict each other: Valkey's port without its host, a low mark above its high mark, and the
  like;
- the relay would listen beyond loopback without accounts, and `server.allow_open` does not say that this
  is meant; or its Valkey is on another machine and asks for no password, and `valkey.allow_open` does not;
- with accounts, the secret that signs tokens is not said, is one that everybody knows, or is short.

Durations are written `500ms`, `30s`, `1h30m` or `7d`; a plain number is seconds. Sizes are written
`64KiB` (1024 bytes), `64KB` (1000 bytes) or `32MiB`; a plain number is bytes. Lists are written with
commas, or in a file as a list of its own. Relative paths start at the
directory the relay is started in. Where `null` is allowed, it means "none"; a text that reads `null`
cannot be given.

## What a relay that runs takes over

`SIGHUP` (`systemctl reload pulsar-relay`) has the relay read all sources again; the environment and the
flags are those it was started with. If anything is wrong, each problem is logged and nothing changes. Else
every setting marked *reloaded* holds from now on: for topics at once, for requests and connections that
begin from now on. Those that are open go on as they began, and none is closed. Of the others a log line names
those that are different now and wait for a restart.
"""


def yaml_text() -> str:
    """The shipped configuration file."""
    lines = list(_wrapped(_YAML_HEAD, "# "))
    for section, text in SECTIONS.items():
        lines += ["", *_wrapped(text, "# "), f"{section}:"]
        for key in _keys_of(section):
            lines += [
                *_wrapped(_yaml_comment(key), "  # "),
                f"  {_last_part(key)}: {key.show(key.default)}",
                "",
            ]
        lines.pop()
    return "\n".join(lines) + "\n"


def manual_text() -> str:
    """The reference page."""
    parts = [_MANUAL_HEAD]
    for section, text in SECTIONS.items():
        parts.append(f"## `{section}`\n\n{text}\n")
        parts += [_manual_entry(key) for key in _keys_of(section)]
    return "\n".join(parts)


def _manual_entry(key: Key) -> str:
    default = f"default `{key.show(key.default)}`"
    names = [f"`{name}`" for name in key.environment]
    if key.declaration.flag:
        names.append(f"`{key.declaration.flag}`")
    names.append("reloaded" if key.declaration.reloads else "needs a restart")
    body = "\n".join(_lines(f"{key.declaration.text} Allowed: {key.allowed}.", 110))
    return f"### `{key.name}`\n\n{default} · {' · '.join(names)}\n\n{body}\n"


def _yaml_comment(key: Key) -> str:
    null = key.declaration.null
    return key.declaration.text + (f" null: {null}." if null else "")


def _keys_of(section: str) -> Iterator[Key]:
    return (key for key in KEYS.values() if key.section == section)


def _last_part(key: Key) -> str:
    return key.name.partition(".")[2]


def _wrapped(text: str, prefix: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield prefix.rstrip()
        yield from (prefix + line for line in _lines(paragraph, 110 - len(prefix)))


def _lines(paragraph: str, width: int) -> list[str]:
    return textwrap.wrap(" ".join(paragraph.split()), width, break_long_words=False, break_on_hyphens=False)


def main() -> None:
    YAML_PATH.write_text(yaml_text())
    MANUAL_PATH.write_text(manual_text())


if __name__ == "__main__":
    main()

"""Where messages are kept: Valkey, and everything that knows its commands.

Nothing outside this package imports `valkey`. The rest of the relay sees the `Store` port of
`actors.protocol`; only the composition root knows which adapter stands behind it, and whether the server is
an embedded one.
"""

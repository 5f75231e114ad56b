"""The device flow: a program without a browser is let in by somebody who has one (RFC 8628)."""

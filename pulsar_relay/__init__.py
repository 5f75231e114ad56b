"""A durable message relay: topics in Valkey streams over WebSocket, Server-Sent Events and long-poll."""

from __future__ import annotations

__version__ = "0.1.0"

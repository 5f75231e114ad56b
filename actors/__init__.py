"""How messages move: the actor runtime, the actors of the relay, and the ports to the world outside.

Nothing in this package knows HTTP, JSON, Valkey or Tornado.
"""

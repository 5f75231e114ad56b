"""Talking to a relay over the network, as the command line does. Knows nothing of what runs behind it."""

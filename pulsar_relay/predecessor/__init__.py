"""The relay's predecessor, as its deployments know it: its settings' names, and what it keeps in Valkey."""

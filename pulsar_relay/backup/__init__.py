"""Backups: the store's topics and consumers in one file, and back again."""

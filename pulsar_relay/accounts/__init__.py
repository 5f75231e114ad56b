"""Accounts: who somebody is, and what they may do. Without `auth.mode: accounts` nothing of it runs."""

"""Makes the load, in processes of their own. Nothing in here may be what limits a measurement."""

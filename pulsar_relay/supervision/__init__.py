"""Many workers on one port: the process that starts them, and how they answer as one."""

"""What `pulsar-relay doctor` looks at, and what it makes of it. Looks, and changes nothing."""

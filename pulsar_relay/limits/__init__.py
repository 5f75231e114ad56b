"""How much one user, or one address, may ask for; counted in Valkey for all workers together.

| key                          | type   | holds                                                          |
| ---------------------------- | ------ | -------------------------------------------------------------- |
| `relay:limit:<class>:<who>`  | string | when the bucket is full again, Unix microseconds               |
| `relay:backoff:<digest>`     | string | `<wrong passwords> <until when to wait, Unix milliseconds>`    |
| `relay:seats:<kind>:<who>`   | hash   | worker -> `<seats> <until when it has them, Unix milliseconds>` |

All expire. A script touches one of them, so in a cluster each has the shard its name falls to. Whoever
deletes them gives everybody a fresh start, and nothing else. They are written also to a store that is full:
they are small, and an operator has to log in to make room.
"""

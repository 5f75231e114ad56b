"""The front end: Tornado request handlers that turn requests into messages to actors, and answers into
bytes.
"""

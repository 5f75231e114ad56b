"""OpenID Connect: people sign in at a provider of the configuration, and are users here. Nothing that a
provider answers is believed before it is checked, nor waited for without an end.
"""

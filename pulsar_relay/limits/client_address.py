"""Whose address a request comes from, when reverse proxies stand in between. Pure.

A header is a claim. It counts only where a proxy that the settings name made it: read from the right, each
hop that is such a proxy vouches for the one before it, and the first that is none is the client. What stands
left of it is what the client says of itself.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MOST_HOPS = 32
"""Looked at; more is nobody's chain of proxies."""
HOUSEHOLD_BITS = 64
"""Of an IPv6 address: whoever has one has all that begin alike."""
_PORT = re.compile(r"(?P<v4>[0-9.]+):[0-9]{1,5}|\[(?P<v6>[0-9A-Fa-f:.%]+)\](?::[0-9]{1,5})?")
_FOR = re.compile(r"""(?:^|;)\s*for\s*=\s*(?:"(?P<quoted>[^"]*)"|(?P<bare>[^\s;,"]+))""", re.IGNORECASE)


class TrustedProxies:
    """Those of `server.trusted_proxies`. `header` is the one they set: `x-forwarded-for` or `forwarded`; the
    other is what a client may have sent through them, and is not looked at.
    """

    def __init__(self, networks: Iterable[str], header: str) -> None:
        self._networks: Sequence[Network] = tuple(map(ipaddress.ip_network, networks))
        self.header = header
        self._hop = _forwarded_for if header == "forwarded" else str.strip

    def client(self, peer: str, header: Iterable[str]) -> str:
        """The client's address as text. `peer` is who has connected; `header` are the values of the header in
        the order they came. A hop that cannot be read ends the way: the last proxy that can be is it then.
        """
        address = parsed(peer)
        if address is None or not self._trusts(address):
            return peer if address is None else str(address)
        hops = ",".join(header).rsplit(",", MOST_HOPS)[-MOST_HOPS:]
        for text in reversed(hops):
            hop = parsed(self._hop(text))
            if hop is None:
                break
            address = hop
            if not self._trusts(hop):
                break
        return str(address)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def parsed(text: str) -> Address | None:
    """An address, with or without a port; IPv4 where it is IPv4 in an IPv6 coat. None for anything else."""
    match = _PORT.fullmatch(text)
    if match is not None:
        text = match["v4"] or match["v6"]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@lru_cache(maxsize=4096)
def household(address: str) -> str:
    """What limits are counted by: the address, of IPv6 the network of one household. As it is if it is none:
    that of a Unix socket's peer, say.
    """
    known = parsed(address)
    if isinstance(known, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((known, HOUSEHOLD_BITS), strict=False))
    return address if known is None else str(known)


def _forwarded_for(element: str) -> str:
    match = _FOR.search(element)
    return "" if match is None else (match["quoted"] or match["bare"] or "")

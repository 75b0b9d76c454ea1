"""What may be asked of the open web, and what its answers allow: public hosts, opt-outs, waits that were asked for."""

import asyncio
import email.utils
import functools
import ipaddress
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from components.core.data.ingest import Reject

OPT_OUTS = {"noai", "noimageai", "noindex", "noimageindex", "none"}  # `none` is short for noindex, nofollow
VALUED_DIRECTIVES = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


def check_url(url: URL, allowed_private_hosts: frozenset[str]) -> None:
    """Refuses what isn't HTTP, and literal addresses that aren't public; names are left to `PublicResolver`.

    Raises:
        Reject: `bad_url` or `private_host`.
    """
    if url.scheme not in ("http", "https") or not url.host:
        raise Reject("bad_url")
    try:
        ipaddress.ip_address(url.host)
    except ValueError:
        return
    if url.host not in allowed_private_hosts and not is_public(url.host):
        raise Reject("private_host")


def is_public(address: str) -> bool:
    """Returns whether an IP address belongs to the open internet, also where IPv6 wraps an IPv4 address."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        in_nat64 = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else None
        inner = ip.ipv4_mapped or ip.sixtofour or in_nat64
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast


class PublicResolver(AbstractResolver):
    """Looks host names up in threads of its own and refuses those with an address that isn't public.

    The connection goes to the addresses that were checked, so that a name can't change its mind in between.
    """

    def __init__(self, allowed_private_hosts: frozenset[str], num_threads: int) -> None:
        self._allowed = allowed_private_hosts
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="dns")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Returns the addresses of a host.

        Raises:
            Reject: `private_host`.
            OSError: The name has no address.
        """
        look_up = functools.partial(
            socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
        found = await asyncio.get_running_loop().run_in_executor(self._pool, look_up)
        addresses = [(kind, protocol, str(address[0])) for kind, _, protocol, _, address in found]
        if host not in self._allowed and not all(is_public(address) for _, _, address in addresses):
            raise Reject("private_host")
        numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=protocol, flags=numeric)
            for kind, protocol, address in addresses
        ]

    async def close(self) -> None:
        """Drops look-ups that haven't begun; those under way end unheard."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def has_opted_out(robots_tags: Iterable[str], user_agent: str) -> bool:
    """Returns whether `X-Robots-Tag` headers refuse machine learning or indexing to everyone or to this agent.

    A header is `directive, directive` or `agent: directive, agent: directive`; an agent holds until the next one.
    """
    own_name = user_agent.partition("/")[0].strip().lower()
    for header in robots_tags:
        agent = own_name
        for part in header.lower().split(","):
            head, colon, tail = (text.strip() for text in part.partition(":"))
            if colon and head not in VALUED_DIRECTIVES:
                agent, head = head, tail
            if agent == own_name and head in OPT_OUTS:
                return True
    return False


def retry_after_s(value: str, now: datetime) -> float:
    """Returns the seconds that a `Retry-After` header asks for, which is a number or a date; 0 where it's neither."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - now).total_seconds())

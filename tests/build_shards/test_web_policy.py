"""What may be asked of the web, case by case."""

from datetime import UTC, datetime

import pytest

from components.build_shards.web_policy import has_opted_out, is_public, retry_after_s

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_of_the_open_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fd00::1",
        "fec0::1",
        "ff02::1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_addresses_of_machines_networks_and_groups_are_not(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], False),
        (["all"], False),
        (["nofollow, NoAI"], True),
        (["noimageai"], True),
        (["noindex"], True),
        (["none"], True),
        (["nofollow", "noimageindex"], True),
        (["googlebot: noindex"], False),
        (["googlebot: nofollow, noindex"], False),
        (["googlebot: nofollow, Ceteris: noai"], True),
        (["max-snippet:-1, noai"], True),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST"], False),
    ],
)
def test_opting_out_is_heard_when_it_is_said_to_us(headers: list[str], expected: bool) -> None:
    assert has_opted_out(headers, "ceteris/0.1 (data@example.org)") is expected


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", 0),
        ("7", 7),
        (" 120 ", 120),
        ("-5", 0),
        ("soon", 0),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30),
        ("Sun, 01 Mar 2026 12:00:30 -0000", 30),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0),
    ],
)
def test_a_wait_is_a_number_or_a_date(value: str, seconds: float) -> None:
    assert retry_after_s(value, NOW) == seconds

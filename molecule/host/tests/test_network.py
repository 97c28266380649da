"""What can be reached from the network, over IPv4 and IPv6, and what cannot."""

from __future__ import annotations

import ipaddress
import json

import pytest


@pytest.fixture
def addresses(site) -> dict[int, str]:
    found = site.host.check_output("ip -json address show dev eth0 scope global")
    given = [ipaddress.ip_address(entry["local"]) for entry in json.loads(found)[0]["addr_info"] if "local" in entry]
    return {address.version: str(address) for address in given}


@pytest.mark.parametrize("version", [4, 6])
def test_neighbour_reaches_only_ssh_and_web_ports(neighbour, open_ports, addresses, version):
    assert open_ports(neighbour, addresses[version]) == [22, 80, 443]


def test_postgresql_has_no_port_at_all(host):
    listening = host.check_output("ss --listening --tcp --numeric --processes --no-header")
    assert "sshd" in listening
    assert "postgres" not in listening


def test_host_listens_on_no_udp_port(host):
    listening = host.check_output("ss --listening --udp --numeric --no-header")
    # Docker's own names for the container.
    assert [line for line in listening.splitlines() if "127.0.0.11:" not in line] == []


@pytest.mark.parametrize("version", [4, 6])
def test_the_host_can_be_pinged(neighbour, addresses, version):
    # There is no ping in the image; the kernel's own datagram socket does the same.
    kind = {4: ("AF_INET", "IPPROTO_ICMP", 8, 0), 6: ("AF_INET6", "IPPROTO_ICMPV6", 128, 129)}[version]
    family, protocol, request, reply = kind
    ping = (
        f"import socket; s = socket.socket(socket.{family}, socket.SOCK_RAW, socket.{protocol}); s.settimeout(5);"
        f"s.sendto(bytes([{request}, 0, {'0xf7, 0xff' if version == 4 else '0, 0'}, 0, 0, 0, 0]),"
        f' ("{addresses[version]}", 0));'
        f" print(s.recv(100)[{20 if version == 4 else 0}])"
    )
    assert int(neighbour.check_output(f"python3 -c '{ping}'")) == reply


def test_other_nftables_tables_are_kept(host, play):
    host.check_output("nft add table inet others; nft add chain inet others mine")
    host.check_output("touch /etc/nftables.conf")
    play("--tags=host")
    host.check_output("systemctl restart nftables")
    assert "chain mine" in host.check_output("nft list table inet others")
    assert "policy drop" in host.check_output("nft list table inet django_vps")
    host.check_output("nft delete table inet others")

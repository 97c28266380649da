"""The URL of a database that the stack does not manage."""

from __future__ import annotations

import pytest
from ansible_collections.django_vps.stack.plugins.plugin_utils.database_url import database_url, read_database_url

PLAIN = "postgres://shop:geheim@db.example.com/shop"


def parameters(url: str, **options) -> dict[str, str]:
    return read_database_url(url, "/etc/shop/pgpass", **options).parameters


@pytest.mark.parametrize(
    "url",
    [
        PLAIN,
        "postgresql://shop:geheim@db.example.com:6543/shop?sslmode=verify-ca&connect_timeout=3",
        "postgres://postgres.abcdef:geheim@aws-0-eu.pooler.example.com:6543/postgres",
        "postgres://shop:p%40ss%2Fw%23rd@10.0.0.7/shop?sslmode=disable",
        "postgres://shop:geheim@[fd00::7]:5432/shop?sslmode=disable",
        "postgres://shop:geheim@ep-x-pooler.example.com/shop?channel_binding=require",
    ],
)
def test_url_of_a_provider_is_accepted(url):
    assert database_url(url) is None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://shop:geheim@db.example.com/shop", "PostgreSQL"),
        ("db.example.com", "PostgreSQL"),
        ("postgres://shop@db.example.com/shop", "no password"),
        ("postgres://:geheim@db.example.com/shop", "no user"),
        ("postgres://shop:geheim@db.example.com", "no database"),
        ("postgres://shop:geheim@db.example.com:x/shop", "URL of a database"),
        ("postgres://shop:p@ss/word@db.example.com/shop", "PostgreSQL|one database|URL"),
        ("postgres://shop:geheim#1@db.example.com/shop", "PostgreSQL|URL"),
        ("postgres://shop:geheim@db.example.com/shop ", "space"),
        (f"{PLAIN}?sslmode=require", "sslmode=require"),
        (f"{PLAIN}?sslmode=disable", "sslmode=disable"),
        ("postgres://shop:geheim@203.0.113.7/shop?sslmode=prefer", "sslmode=prefer"),
        # A name that looks like a private address.
        ("postgres://shop:geheim@10.example.com/shop?sslmode=disable", "sslmode=disable"),
        ("postgres://shop:geheim@fd00.example.com:5432/shop?sslmode=disable", "sslmode=disable"),
        (f"{PLAIN}?host=other", "parameter host"),
        (f"{PLAIN}?service=other", "parameter service"),
        (f"{PLAIN}?a%0Ab=c", "parameter"),
    ],
)
def test_url_that_fails_or_leaks_is_refused(url, reason):
    what, advice = database_url(url)
    assert any(part in what for part in reason.split("|"))
    assert advice
    assert "geheim" not in what + advice


def test_server_is_verified_by_default():
    assert parameters(PLAIN)["sslmode"] == "verify-full"
    assert parameters(PLAIN)["sslrootcert"] == "/etc/ssl/certs/ca-certificates.crt"
    assert parameters(PLAIN, certificates="/etc/shop/ca.pem")["sslrootcert"] == "/etc/shop/ca.pem"
    assert "sslrootcert" not in parameters("postgres://shop:geheim@10.0.0.7/shop?sslmode=disable")


def test_parameters_of_the_url_come_first():
    found = parameters("postgres://shop:geheim@db.example.com:6543/shop?connect_timeout=3&options=endpoint%3Dx")
    assert (found["port"], found["connect_timeout"], found["options"]) == ("6543", "3", "endpoint=x")


def test_password_is_in_the_password_file_alone():
    service = read_database_url("postgres://us%3Aer:p%40s%3As%5C@[fd00::7]/shop", "/etc/shop/pgpass")
    assert service.parameters["passfile"] == "/etc/shop/pgpass"
    assert service.password_line == r"fd00\:\:7:5432:*:us\:er:p@s\:s" + "\\\\"
    assert not any("p@s" in value for value in service.parameters.values())
    assert service.parameters["user"] == "us:er"

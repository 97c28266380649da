# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Check certificates and the names in them."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterator

from ansible_collections.django_vps.stack.plugins.plugin_utils.inventory import Case, Problem, check_file, domains

with contextlib.suppress(ImportError):
    # ansible-core requires it, but the import test of ansible-test runs without it.
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

OWN_CERTIFICATE = ("letsencrypt_own_certificate", "letsencrypt_own_key")


def check_certificate_paths(case: Case) -> Iterator[Problem]:
    certificate = case.values.get("site_certificate")
    key = case.values.get("site_certificate_key")
    if certificate and key and posixpath.dirname(certificate) != posixpath.dirname(key):
        yield Problem(
            "site_certificate",
            "lies in another folder than site_certificate_key",
            "write one folder for both",
            certificate,
        )


def check_acme_email(case: Case) -> Iterator[Problem]:
    name = "letsencrypt_email"
    wanted = case.plays("letsencrypt") and case.values.get("letsencrypt_enabled") is True
    if name in case.specs and wanted and name not in case.given:
        advice = f"write {name}: me@example.com, or letsencrypt_enabled: false"
        yield Problem(name, "is not set, and the CA needs a contact address", advice)


def check_own_certificate(case: Case) -> Iterator[Problem]:
    for name in filter(case.values.get, OWN_CERTIFICATE):
        if case.values.get("letsencrypt_enabled") is True:
            yield Problem(name, "is not used while letsencrypt_enabled is true", "set letsencrypt_enabled: false")
        elif case.plays("letsencrypt"):
            yield from check_file(case, name)
    if not case.plays("letsencrypt") or case.values.get("letsencrypt_enabled") is not False:
        return
    if all(case.values.get(name) and case.find_file(case.values[name]) for name in OWN_CERTIFICATE):
        yield from check_key_pair(case, *(case.read_file(case.values[name]).encode() for name in OWN_CERTIFICATE))


def check_key_pair(case: Case, chain: bytes, key: bytes) -> Iterator[Problem]:
    """Yield the reasons why nginx or clients would refuse the certificate."""
    certificate, secret = OWN_CERTIFICATE
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
    except ValueError:
        advice = "write the certificate of the site first, then the intermediate certificates"
        yield Problem(certificate, "expected certificates in PEM format", advice)
        return
    try:
        own = serialization.load_pem_private_key(key, None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        advice = "remove the passphrase; ansible-vault encrypts it on the controller"
        yield Problem(secret, "expected a key in PEM format without a passphrase", advice)
        return
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if own.public_bytes(*form) != leaf.public_key().public_bytes(*form):
        yield Problem(secret, "is not the key of letsencrypt_own_certificate", "use the key of this certificate")
    # A self-signed certificate is for tests.
    if leaf.issuer == leaf.subject:
        return
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    known = names.get_values_for_type(x509.DNSName)
    for first in domains(case.values, "site_domains")[:1]:
        if first not in known and f"*.{first.partition('.')[2]}" not in known:
            advice = (
                f"request one for the first name of the site, or change that name; it has {', '.join(known) or 'none'}"
            )
            yield Problem(certificate, "does not include the first name of the site", advice, first)


def check_wildcards(case: Case) -> Iterator[Problem]:
    """Check that a wildcard comes after the canonical name, and that a DNS record can prove it."""
    for first in domains(case.values, "site_domains")[:1]:
        if first.startswith("*."):
            what = "expected the canonical name first, got a wildcard"
            yield Problem("site_domains", what, "write the canonical name first", first)
            return
    by_dns = case.values.get("letsencrypt_dns_plugin") or case.values.get("letsencrypt_dns_hook")
    if case.values.get("letsencrypt_enabled") is True and not by_dns:
        for name in domains(case.values, "letsencrypt_domains"):
            if name.startswith("*."):
                what = "has a wildcard, which needs a DNS challenge"
                advice = "set letsencrypt_dns_plugin or letsencrypt_dns_hook"
                yield Problem(said_as(case, "letsencrypt_domains"), what, advice, name)


def check_number_of_names(case: Case) -> Iterator[Problem]:
    """Check the limit of Let's Encrypt, 100 names in a certificate; names covered by a wildcard are not requested."""
    names = domains(case.values, "letsencrypt_domains")
    ordered = [name for name in names if name.startswith("*.") or f"*.{name.partition('.')[2]}" not in names]
    of_letsencrypt = "letsencrypt.org" in str(case.values.get("letsencrypt_directory_url"))
    if len(ordered) > 100 and case.values.get("letsencrypt_enabled") is True and of_letsencrypt:
        what = f"has {len(ordered)} names, and a certificate can have 100"
        yield Problem(said_as(case, "letsencrypt_domains"), what, "use a wildcard, or fewer names")


def check_dns_hook(case: Case) -> Iterator[Problem]:
    name = "letsencrypt_dns_hook"
    if case.values.get(name) and case.values.get("letsencrypt_dns_plugin"):
        yield Problem(name, "is not used beside letsencrypt_dns_plugin", "remove one of them")
    elif case.values.get(name) and case.plays("letsencrypt"):
        yield from check_file(case, name)


def check_ca_files(case: Case) -> Iterator[Problem]:
    for path in case.values.get("host_ca_certificates", ()):
        if not case.find_file(path):
            yield Problem("host_ca_certificates", "expected a file on the controller", "write the path of one", path)


def said_as(case: Case, name: str) -> str:
    """Return the variable that the inventory sets the domains of a role with."""
    return name if name in case.given else "site_domains"


#: The checks in the order of their messages.
CHECKS = (
    check_certificate_paths,
    check_acme_email,
    check_own_certificate,
    check_wildcards,
    check_number_of_names,
    check_dns_hook,
    check_ca_files,
)

# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Check types of values that the project and nginx read: source, environment, names, headers."""

from __future__ import annotations

import contextlib
import ipaddress
import posixpath
import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.django_vps.stack.plugins.plugin_utils.inventory import Refusal, Rule
from ansible_collections.django_vps.stack.plugins.plugin_utils.system_types import command, not_reserved
from ansible_collections.django_vps.stack.plugins.plugin_utils.value_types import (
    between,
    inside,
    managed,
    matching,
    unclean,
    wrong_kind,
)

with contextlib.suppress(ImportError):
    # ansible-core requires it, but the import test of ansible-test runs without it.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

#: Most bytes of one variable of an environment (MAX_ARG_STRLEN in execve(2)).
VARIABLE = 128 * 1024
#: Most bytes of all variables: a quarter of the 8 MiB for the stack of a process, less what else needs room there.
ENVIRONMENT = 15 * VARIABLE
#: Variables of the environment that the stack sets and relies on, each with the variable to set instead. The project
#: reads the others in its own notation, and the build checks the resulting settings.
MANAGED_ENV = {
    "DJANGO_SETTINGS_MODULE": "django_settings_module",
    "SECRET_KEY": "django_secret_key",
    "DJANGO_SECRET_KEY": "django_secret_key",
    "STATIC_ROOT": None,
    "MEDIA_ROOT": "site_media_root",
    "RELEASE": None,
    "APPLICATION": "django_application",
    "DATABASE_REPLICA_URL": "site_database",
    "PGSERVICEFILE": "site_database_service_file",
}
#: Variables that change the start of any program.
FOREIGN_ENV = re.compile(
    # Variables of ld.so(8).
    r"LD_(ASSUME_KERNEL|AUDIT|BIND_NO[TW]|DEBUG|DEBUG_OUTPUT|DYNAMIC_WEAK|HWCAP_MASK|LIBRARY_PATH|ORIGIN_PATH"
    r"|POINTER_GUARD|PREFER_MAP_32BIT_EXEC|PRELOAD|PROFILE|PROFILE_OUTPUT|SHOW_AUXV|TRACE_LOADED_OBJECTS"
    r"|USE_LOAD_BIAS|VERBOSE|WARN)|GLIBC_TUNABLES|GCONV_PATH"
    r"|PYTHON(PATH|HOME|STARTUP|INSPECT)|PATH|HOME|IFS|BASH_ENV|LISTEN_(FDS|FDNAMES|PID)|NOTIFY_SOCKET"
    r"|RUNTIME_DIRECTORY|GUNICORN_CMD_ARGS"
)
DOMAIN = re.compile(
    r"(?=.{4,253}\Z)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+(?=[^.]*[a-z])[a-z0-9][a-z0-9-]{0,61}[a-z0-9]"
)
#: What can be an address, also a misspelled one, which is not looked up as a path and so not shown.
ADDRESS = re.compile(r"[\s'\"]*([\w+.-]+:/+|[\w+-]+::|[^/@]+@[^/:]+:)")

ODD_DOMAINS = (
    (r"[\w+.-]+://.*", "got an address"),
    (r".*\*.*", "got a wildcard within a label"),
    (r".*/.*", "got a path"),
    (r".*\s.*", "got a space"),
    (r".*:\d*", "got a port"),
    (r".*[^\x00-\x7f].*", "got characters outside ASCII"),
    (r".*\.", "got a trailing dot"),
    (r".*[A-Z].*", "got upper case"),
    (r"[^.]*", "got no dot"),
    (r".{254,}", "got more than 253 characters"),
    (r"(.*\.)?[^.]{64,}(\..*)?", "got a label of more than 63 characters"),
)


def domain(value: str) -> Refusal | None:
    if DOMAIN.fullmatch(value):
        return None
    if is_ip_address(value):
        return "expected a domain name, got an IP address", "write a domain name"
    odd = next((f", {what}" for pattern, what in ODD_DOMAINS if re.fullmatch(pattern, value)), "")
    return f"expected a domain name{odd}", f"write {bare_name(value) or 'a name such as shop.example.com'}"


def name_or_wildcard(value: str) -> Refusal | None:
    return domain(value.removeprefix("*."))


def is_ip_address(value: str) -> bool:
    try:
        return bool(ipaddress.ip_address(value.strip("[]")))
    except ValueError:
        return False


def bare_name(value: str) -> str:
    """Return the probable domain name in a value: lower case, punycode, without scheme, port and path; else empty."""
    name = re.split(r"[/:?#;,\s]", re.sub(r"^[\w+.-]+://", "", value.strip()))[0]
    try:
        name = name.rstrip(".").lower().encode("idna").decode()
    except UnicodeError:
        return ""
    return name if DOMAIN.fullmatch(name) else ""


def allowed_host(value: str) -> Refusal | None:
    refusal = domain(value.removeprefix("."))
    return refusal and (refusal[0], refusal[1] + ", or .example.com for all below it")


def origin(value: str) -> Refusal | None:
    shape = re.fullmatch(r"https://(?:\*\.)?([^/:]+)(:[1-9][0-9]{0,4})?", value)
    if shape and not domain(shape[1]):
        return None
    return "expected an origin", "write https:// and a name, such as https://shop.example.com"


def email(value: str) -> Refusal | None:
    name, _at, host = value.rpartition("@")
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{0,63}", name) and DOMAIN.fullmatch(host.lower()):
        return None
    return "expected an e-mail address", "write one such as me@example.com"


def source(value: str) -> Refusal | None:
    """Check the address of a repository; check_source checks that a folder or an archive exists."""
    if value.startswith("-"):
        return ("starts with a dash, so that git would read it as an option", "write an address, a folder or a .tar.gz")
    if not ADDRESS.match(value):
        return None
    if re.match(r"[\s'\"]*(?!ssh://[^/:@]*@[^@]*\Z)([a-z+]+:/+|[^/@]*:).*@", value, re.IGNORECASE):
        return (
            "has credentials in the address, which are shown in process lists and .git/config",
            "remove them, and use an SSH key or a credential helper of git",
        )
    if re.fullmatch(
        r"https://[a-zA-Z0-9][\w.-]*(:\d+)?/[\w.~/%+-]+"
        r"|ssh://(\w[\w.-]*@)?[a-zA-Z0-9][\w.-]*(:\d+)?/[\w.~/%+-]+"
        r"|\w[\w.-]*@[a-zA-Z0-9][\w.-]*:[\w.~/][\w.~/%+-]*",
        value,
        re.ASCII,
    ):
        return None
    if value.startswith(("http://", "git://")):
        secure = "https" + value[value.index(":") :].partition("?")[0]
        return "is not encrypted", f"write {secure} or an ssh address"
    return (
        "expected an address of https or SSH, a folder or an archive",
        "write https://host/path, ssh://git@host/path, git@host:path, a folder or a .tar.gz",
    )


def site_name(value: str) -> Refusal | None:
    if re.fullmatch(r"[a-z]([a-z0-9-]{0,29}[a-z0-9])?", value):
        return not_reserved(value)
    return (
        "expected a name for a user, a folder and a unit",
        "use a lower-case letter, then up to 30 lower-case letters, digits and dashes, such as shop",
    )


def git_version(value: str) -> Refusal | None:
    odd = re.search(r"^[-./]|\.\.|//|/\.|@\{|[\s~^:?*\[\\;|&$`'\"<>(){}!]|\.lock(/|$)|[./]$", value)
    if odd or value == "@":
        return ("expected a branch, a tag or a commit", "write one such as main, v1.2 or a commit id")
    return None


def secret_key(value: str) -> Refusal | None:
    advice = "remove it, and the host generates one; or write 50 random characters"
    if value.startswith("django-insecure-"):
        return "is the insecure key of startproject", advice
    if len(value) < 50:
        return "expected 50 characters or more", advice
    if len(set(value)) < 5:
        return "expected 5 different characters or more", advice
    return too_large("DJANGO_SECRET_KEY", value, advice)


def variable(key: str, value: Any, sample: str) -> Refusal | None:
    """Check a variable of an environment; `sample` is an example of a name."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
        return ("expected the name of a variable", f"use letters, digits and _, as in {sample}")
    if FOREIGN_ENV.fullmatch(key):
        return "changes how programs start", "remove it"
    if refusal := wrong_kind(value, "str") or unclean(value, several_lines=True):
        return refusal
    return too_large(key, value, "put it into a file with django_files")


def size_of(key: str, value: str) -> int:
    """Return the bytes of a variable in an environment."""
    return len(f"{key}={value}".encode()) + 1


def too_large(key: str, value: str, advice: str) -> Refusal | None:
    if (size := size_of(key, value)) > VARIABLE:
        return f"has {size // 1024} KiB, and a variable can have {VARIABLE // 1024}", advice
    return None


def env_entry(key: str, value: Any) -> Refusal | None:
    if refusal := managed(MANAGED_ENV, key) or variable(key, value, "EMAIL_HOST"):
        return refusal
    if key == "DEBUG" and value.strip().lower() in ("true", "1", "t", "yes", "y", "on"):
        return "would show settings and source to every client", 'remove it, or write "False"'
    return None


def valkey_url(key: str, value: Any) -> Refusal | None:
    """Check a variable of the environment whose value is the number of a Valkey database."""
    if refusal := managed(MANAGED_ENV, key) or variable(key, "", "CELERY_BROKER_URL"):
        return refusal
    return wrong_kind(value, "int") or between(0, 15)(value)


def file_entry(key: str, value: Any) -> Refusal | None:
    """Check a file that is added to the source."""
    if refusal := inside("file")(key):
        return refusal
    if key != posixpath.normpath(key) or key.split("/")[0] == ".git":
        return "expected a path of a file", "write one such as config/local.py"
    return wrong_kind(value, "str") or unclean(value, several_lines=True)


def interpreter(value: str) -> Refusal | None:
    """Check an interpreter: a version of Python, a range of versions, or a path on the host."""
    if re.match(r"/(home|root|tmp|var/tmp|run)(/|$)", value):
        return "is in a folder that the site cannot read", "use a path such as /opt/python3.12/bin/python3"
    if re.fullmatch(r"(/[\w.+-]+)+", value):
        return None
    one = r"3\.\d+|(>=|<=|>|<|==|!=|~=)\s*\d+(\.\d+)*(\.\*)?"
    if re.fullmatch(rf"({one})(\s*,\s*({one}))*", value):
        return None
    return "expected a version of Python", 'write one such as "3.12", a range such as ">=3.11,<3.13", or a path'


def build_variable(key: str, value: Any) -> Refusal | None:
    return variable(key, value, "UV_EXTRA_INDEX_URL")


def requirement(value: str) -> Refusal | None:
    """Check a line of requirements.txt that becomes an argument of the installer."""
    if re.match(r"[A-Za-z0-9][\w.-]*\s*(\[[\w., -]+\])?\s*([<>=!~@;].*)?$", value):
        return None
    return "expected a requirement", "write one such as psycopg[binary]==3.2.9"


def build_commands(key: str, value: Any) -> Refusal | None:
    """Check the commands of one moment of a build."""
    moments = ("before_collectstatic", "after_collectstatic")
    if key not in moments:
        return f"expected {' or '.join(moments)}", "use one of these"
    if refusal := wrong_kind(value, "list"):
        return refusal
    refusals = (wrong_kind(item, "str") or unclean(item) or build_command(item) for item in value)
    return next(filter(None, refusals), None)


def build_command(value: str) -> Refusal | None:
    """Check a command that env(1) runs: variables can come first, and the program can be a file of the source."""
    program = re.sub(r"^(\s*[A-Za-z_]\w*=\S*\s+)+", "", value)
    return command(re.sub(r"^\s*[\w./@+-]*/", "", program)) or for_a_shell(value)


def for_a_shell(value: str) -> Refusal | None:
    if re.search(r"(^|\s)(&&?|\|\|?|\d?[<>]\S*)(\s|$)", re.sub(r"'.*?'|\".*?\"", "quoted", value)):
        return "has shell syntax, and no shell runs it", "write sh -c '...', or separate commands"
    return None


def management_command(value: str) -> Refusal | None:
    """Check the arguments of SITE-manage, of whose options `--owner` makes sense for a command of the inventory."""
    words = value.split()
    if words[:1] in (["python"], ["python3"], ["manage.py"], ["./manage.py"]) or not re.match(
        r"(--owner )?[a-z_]\w*(\s|$)", value, re.ASCII
    ):
        return "expected a command of manage.py", "write it without python manage.py, such as createcachetable"
    return command(value.removeprefix("--owner "))


def header(managed_names: Mapping[str, str | None]) -> Rule:
    """Return a rule for a header that nginx adds, whose value is in quotes in its configuration."""

    def rule(key: str, value: Any) -> Refusal | None:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,60}[A-Za-z0-9]", key):
            return "expected the name of a header", "write one such as Permissions-Policy"
        if len(str(value)) > 4000:
            return "expected at most 4000 characters, the limit of nginx", "shorten it"
        if refusal := managed(managed_names, key.title()) or wrong_kind(value, "str") or unclean(value):
            return refusal
        if re.search(r"\$|[^ -~]", value):
            return "expected ASCII characters without $, which nginx interprets", "remove the others"
        return None

    return rule


def body_limit(key: str, value: Any) -> Refusal | None:
    if refusal := LOCATION(key):
        return refusal
    return wrong_kind(value, "str") or BODY(value)


def private_key(value: str) -> Refusal | None:
    text = f"{value.strip()}\n".encode()
    load = serialization.load_ssh_private_key if b"OPENSSH" in text[:40] else serialization.load_pem_private_key
    try:
        load(text, password=None)
    except TypeError:
        return "expected a private key without a passphrase", "remove the passphrase, as by ssh-keygen -p"
    except (ValueError, UnsupportedAlgorithm):
        return "expected a private key", "write its text: {{ lookup('ansible.builtin.file', 'PATH') }}"
    return None


BODY = matching(r"[1-9][0-9]*[km]", "expected a number and k or m, without a space", "write one such as 20m or 512k")
LOCATION = matching(r"/[A-Za-z0-9_./-]*[A-Za-z0-9_/-]", "expected a URL path", "write one such as /accounts/login/")
LOCATION_OR_ALL = matching(
    r"/([A-Za-z0-9_./-]*[A-Za-z0-9_/-])?", "expected a URL path", "write one such as /accounts/login/, or / for all"
)
URL_PATH = matching(r"/([A-Za-z0-9_-]+/)+", "expected a URL path", "write one such as /static/")
GROUP = matching(
    r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?", "expected the name of a group or an extra", "write one such as production"
)

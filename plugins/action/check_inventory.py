# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Judge what the inventory says of a host, before the host is spoken to.

The argument specs of the roles say which variables there are and of what kind. What a spec
cannot say is in RULES, a rule for each variable, and in TOGETHER, rules for several at once.
A rule answers None, or what is wrong and what to do instead.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import ipaddress
import itertools
import keyword
import os
import posixpath
import re
import shlex
import tempfile
import zoneinfo
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml
from ansible import constants, context
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.common.yaml import yaml_load
from ansible.parsing.vault import EncryptedString
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template
from ansible.utils.vars import load_extra_vars
from ansible_collections.django_vps.stack.plugins.module_utils.project import find_project, refuse_settings, settings_of
from ansible_collections.django_vps.stack.plugins.module_utils.python import fits, wanted
from ansible_collections.django_vps.stack.plugins.module_utils.requirements import (
    KNOWN,
    Wish,
    find_requirements,
    requirements_of,
)
from ansible_collections.django_vps.stack.plugins.module_utils.site import StepError
from ansible_collections.django_vps.stack.plugins.plugin_utils.source import UNREADABLE, from_archive, selection

with contextlib.suppress(ImportError):
    # ansible-core brings it, though not to the import test of ansible-test.
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

COLLECTION = Path(__file__).parents[2]
#: A PyYAML that was built without libyaml has the slow one only.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def owners(text: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in text.split())


#: Who plays which part. Other roles are for every host.
GROUPS = {
    "web": ("nginx", "letsencrypt"),
    "app": ("django", "gunicorn", "deployer"),
    "database": ("postgres",),
    "valkey": ("valkey",),
}

#: What a site can do without.
OPTIONAL = ("valkey",)

#: The facts of the site belong to the inventory and to no role.
SITE = {
    "site_name": {"type": "str", "required": True},
    "site_domains": {"type": "list", "elements": "str", "required": True},
    "site_names_served": {"type": "list", "elements": "str", "default": []},
}

#: Plugins of certbot's that find their login in a file of names and values: those of both Debians, of 13, of 12.
DNS_PLUGINS = words("cloudflare rfc2136 desec infomaniak digitalocean dnsimple gandi gehirn linode ovh sakuracloud")

OWN_CERTIFICATE = ("letsencrypt_own_certificate", "letsencrypt_own_key")

#: What is set together or not at all.
PAIRS = (
    OWN_CERTIFICATE,
    ("letsencrypt_eab_kid", "letsencrypt_eab_hmac_key"),
    ("letsencrypt_dns_plugin", "letsencrypt_dns_credentials"),
    ("host_apt_mirror", "host_apt_security_mirror"),
)

#: What the playbooks take from the command line, beside the variables of roles.
OF_PLAYBOOKS = words("release host maintenance")
#: What is typed for one run, as -e name=true, and so arrives as a text.
TYPED = words("django_force_release django_allow_breaking_migrations")
#: May have several lines.
OF_LINES = {"django_build_git_key"}

#: What two sites on one host must not share.
ONE_SITE = ("site_name", "django_home", "django_user", "postgres_database", "gunicorn_service")

#: Folders of a site, of which none may lie in one of another site.
FOLDERS = ("django_home", "django_media_root", "django_config_dir")

#: What a host has once, though another role than that of the host says it.
HOST_WIDE = (
    *("nginx_tls_profile", "nginx_http3", "nginx_log_format", "nginx_log_truncated_addresses"),
    "letsencrypt_ca_bundle",
)

#: What all hosts of one site have to say the same of.
AGREED = (
    *ONE_SITE,
    *("site_names_served", "nginx_domains", "nginx_peer_port", "letsencrypt_share_port"),
    *("host_identity", "postgres_user", "valkey_port", "valkey_urls"),
    *("django_static_url", "django_media_url", "django_secret_key"),
    *("nginx_client_max_body_size", "nginx_body_limits", "nginx_streamed_paths", "nginx_websocket_paths"),
)

SAMPLES = {
    "site_name": "shop",
    "site_domains": "[shop.example.com, www.shop.example.com]",
    "django_source": "https://github.com/me/shop.git, or a folder, or a .tar.gz",
    "django_source_checksum": "sha256: and what sha256sum prints of the archive",
    "letsencrypt_email": "me@example.com",
    # Of a service or a timer.
    "name": "worker",
    "command": "python manage.py db_worker",
    "on_calendar": "daily",
    # Of a limit.
    "path": "/accounts/login/",
    "rate": "10r/m",
    # Of an administrator.
    "keys": '["ssh-ed25519 AAAA... ada@laptop"]',
}

#: Names that Debian, the stack and the clouds use for users, services, databases and in /etc.
RESERVED = words(
    """
    root daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc gnats nobody
    nogroup adm tty disk kmem dialout fax voice cdrom floppy tape sudo audio dip operator src shadow
    utmp video sasl plugdev staff users input sgx kvm render crontab netdev messagebus sshd polkitd
    tss uuidd tcpdump ntp ntpsec chrony postfix dovecot exim
    postgres postgresql nginx certbot letsencrypt gunicorn django django-vps redis valkey mysql memcached apache2 ssh
    cron dbus rsyslog journald systemd udev networking ufw fail2ban nftables iptables docker
    template0 template1 public none
    alternatives apparmor apt bash ca-certificates cloud console-setup cryptsetup default dhcp dpkg
    environment fonts fstab gai group gshadow gss host hostname hosts init initramfs-tools inputrc
    iproute2 issue kernel ld ldap libaudit lighttpd localtime locale logrotate machine-id magic mime
    modprobe modules motd mtab nanorc network networks nsswitch opt os-release pam passwd perl php
    ppp profile protocols python python3 resolv rpc runit security selinux services shells skel ssl
    subgid subuid sudoers supervisor sv sysctl terminfo timezone tmpfiles ufw vim wgetrc xattr xdg
    private
    conf dbus-org snap
    """
)

#: Units of the system and templates of them, beside the reserved names.
UNITS = words(
    """
    apt-daily apt-daily-upgrade autovt console-getty container-getty debug-shell dpkg-db-backup e2scrub emergency fstrim
    getty ifup initrd keyboard-setup kmod man-db networkd-dispatcher procps rc-local rescue serial-getty user
    user-runtime-dir wg-quick wpa_supplicant
    """
)

#: What clouds call the one who may do everything.
CLOUD_USERS = words("admin administrator debian ubuntu ec2-user azureuser cloud-user vagrant ansible")

#: Folders of the system that no site may take, and those that it may not lie in either.
SYSTEM_FOLDERS = words(
    """
    / /etc /home /media /mnt /opt /run /srv /usr /var /var/backups /var/cache /var/lib /var/local
    /var/lock /var/log /var/mail /var/opt /var/run /var/spool /var/tmp /var/www /var/www/html
    """
)
FOREIGN_FOLDERS = re.compile(r"/(bin|boot|dev|lib(32|64)?|libx32|lost\+found|proc|root|sbin|sys|tmp|usr|var/tmp)(/.*)?")

#: In /var/lib, of programs that Debian and the stack bring.
DATA_FOLDERS = words(
    """
    apt aspell chrony cloud containerd dbus docker dpkg emacsen-common fail2ban git grub initramfs-tools letsencrypt lxc
    machines man-db misc mysql nfs nginx ntpsec os-prober pam php polkit-1 portables postfix postgresql private python
    redis sasl2 snapd sudo swapspace systemd tpm ucf ufw unattended-upgrades update-notifier usbutils valkey vim xfonts
    xml-core
    """
)
#: Bytes of a path to a socket (unix(7)), and of one variable of an environment (MAX_ARG_STRLEN in execve(2)).
SOCKET_PATH, VARIABLE = 107, 128 * 1024
#: Below the home of a site.
SOCKET = "/releases/20261129T120000Z/gunicorn.sock"

#: What the stack sets itself: in the environment, for PostgreSQL, for gunicorn, in units. Behind the
#: equals sign is the variable that says it. Of the environment only what the stack relies on: the rest is for the
#: project to read in a notation of its own, and the settings are examined after they were read.
MANAGED_ENV = owners(
    """
    DJANGO_SETTINGS_MODULE=django_settings_module SECRET_KEY=django_secret_key
    DJANGO_SECRET_KEY=django_secret_key STATIC_ROOT= MEDIA_ROOT=django_media_root RELEASE=
    APPLICATION=django_application DATABASE_REPLICA_URL=postgres_database
    PGSERVICEFILE=postgres_service_file
    """
)
MANAGED_POSTGRES = owners(
    """
    listen_addresses= port= unix_socket_directories=postgres_socket_dir unix_socket_group=
    unix_socket_permissions= password_encryption= data_directory= config_file= hba_file=
    ident_file= external_pid_file=
    """
)
MANAGED_VALKEY = owners(
    """
    port= tls-port=valkey_port bind= bind-source-addr= unixsocket= unixsocketgroup= unixsocketperm= tls-cert-file=
    tls-key-file= tls-key-file-pass= tls-auth-clients= tls-protocols= protected-mode= user= aclfile= requirepass= dir=
    logfile= pidfile= daemonize= supervised= include= rename-command= enable-protected-configs=
    enable-debug-command= enable-module-command= replicaof= slaveof= cluster-enabled=
    """
)
MANAGED_GUNICORN = owners(
    """
    bind=gunicorn_socket wsgi_app=django_application workers=gunicorn_workers
    threads=gunicorn_threads timeout=gunicorn_timeout graceful_timeout=gunicorn_graceful_timeout
    worker_class=gunicorn_worker_class proc_name=gunicorn_service user=django_user
    group=django_user chdir= daemon= pidfile= pythonpath= forwarded_allow_ips= worker_tmp_dir=
    control_socket_disable=
    """
)
MANAGED_HEADERS = owners(
    """
    Strict-Transport-Security=nginx_hsts_max_age Alt-Svc=nginx_http3 Cache-Control= Content-Disposition=
    Content-Encoding= Content-Length= Content-Type= Connection= Date= Location= Retry-After= Server= Set-Cookie=
    Transfer-Encoding= Vary=
    """
)
MANAGED_UNIT = owners(
    """
    User=django_user Group=django_user UMask= Type= WorkingDirectory= Environment=django_env
    EnvironmentFile=django_env ExecSearchPath= ExecStart= ExecStartPre= ExecReload= Restart=
    RestartSec= KillMode= TimeoutStartSec= TimeoutStopSec= RuntimeDirectory= RuntimeDirectoryMode=
    """
)
#: Variables that change how any program starts.
FOREIGN_ENV = re.compile(
    # Those of ld.so(8).
    r"LD_(ASSUME_KERNEL|AUDIT|BIND_NO[TW]|DEBUG|DEBUG_OUTPUT|DYNAMIC_WEAK|HWCAP_MASK|LIBRARY_PATH|ORIGIN_PATH"
    r"|POINTER_GUARD|PREFER_MAP_32BIT_EXEC|PRELOAD|PROFILE|PROFILE_OUTPUT|SHOW_AUXV|TRACE_LOADED_OBJECTS"
    r"|USE_LOAD_BIAS|VERBOSE|WARN)|GLIBC_TUNABLES|GCONV_PATH"
    r"|PYTHON(PATH|HOME|STARTUP|INSPECT)|PATH|HOME|IFS|BASH_ENV|LISTEN_(FDS|FDNAMES|PID)|NOTIFY_SOCKET"
    r"|RUNTIME_DIRECTORY|GUNICORN_CMD_ARGS"
)

DOMAIN = re.compile(
    r"(?=.{4,253}\Z)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+(?=[^.]*[a-z])[a-z0-9][a-z0-9-]{0,61}[a-z0-9]"
)
ADDRESS = re.compile(r"[\w+.-]+:/+|[\w+-]+::|[^/@]+@[^/:]+:")
#: What a project is told by, by the end of the name or the whole of it.
TEXTS = (".py", ".toml", ".lock", ".txt", ".in", ".cfg", "Pipfile", ".python-version")
#: Of an archive that is fetched by https; the role django knows it by the same.
ARCHIVE_ADDRESS = r"https://.*\.(tar\.(gz|xz|bz2)|tgz)"
SECRET = re.compile(r"key|pass|secret|token|credential|private", re.IGNORECASE)
PUBLIC_KEY = (
    r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)"
    r"\s+AAAA[A-Za-z0-9+/]+={0,3}(\s.*)?"
)
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]")
#: What no file has that people write.
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

Refusal = tuple[str, str]
Failure = tuple[str, str, Any]
Rule = Callable[..., Refusal | None]


class Problem(NamedTuple):
    name: str
    what: str
    advice: str
    value: Any = ...

    def line(self, secret: bool) -> str:
        # A secret may have come into any part of a dictionary.
        got = "" if self.value is ... or secret or isinstance(self.value, dict) else f" (got: {shown(self.value)})"
        name = re.sub("=.*", "=…", self.name, flags=re.DOTALL)
        return f"{name}: {self.what}{got}; {self.advice}"


@dataclass
class Case:
    """A host as the inventory tells of it, and what the roles say of its variables."""

    host: str
    specs: dict[str, dict]
    given: dict[str, Any]
    values: dict[str, Any]
    groups: dict[str, list[str]]
    #: Parameters that the playbook hands to a role, and the variable it takes each from.
    bound: dict[str, str] = field(default_factory=dict)
    #: Variables that could not be templated.
    failed: dict[str, Failure] = field(default_factory=dict)
    login: str = ""
    #: The hosts of the run, and the groups of which it needs one.
    run: list[str] = field(default_factory=list)
    needs: frozenset[str] = frozenset(GROUPS)
    #: What was given on the command line.
    typed: frozenset[str] = frozenset()
    #: What was named as an inventory, and is not there.
    missing: tuple[str, ...] = ()
    #: Names of files and folders in group_vars.
    group_files: frozenset[str] = frozenset()
    #: Where a file of the inventory says a name twice, and the name.
    twice: tuple[tuple[str, str], ...] = ()
    #: Whether the run brings a release; otherwise the source need not be there, as for a rollback in a hurry.
    deploys: bool = True
    #: Other hosts of the inventory behind the same address, with their values.
    neighbours: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Other hosts of the same site, with their values.
    colleagues: dict[str, dict[str, Any]] = field(default_factory=dict)
    find_source: Callable[[str], Path] = Path
    find_file: Callable[[str], bool] = os.path.isfile
    read_file: Callable[[str], str] = lambda name: Path(name).read_text()

    @property
    def parts(self) -> set[str]:
        return {group for group in GROUPS if self.host in self.groups.get(group, ())}

    def plays(self, role: str) -> bool:
        of_role = {group for group, roles in GROUPS.items() if role in roles}
        return not of_role or bool(of_role & self.parts)

    def secret(self, name: str) -> bool:
        """Whether the value may be a secret, which no message repeats."""
        owner = name.partition(".")[0]
        spec = self.specs.get(owner, {})
        return (
            # Settings and environments of whatever names.
            (spec.get("type") == "dict" and "options" not in spec)
            or bool(SECRET.search(name))
            or bool(spec.get("no_log"))
            or any(
                isinstance(leaf, EncryptedString) or "vault" in leaf.lower() for leaf in leaves(self.given.get(owner))
            )
        )


def problems(case: Case) -> list[str]:
    """All that is wrong, one line each."""
    return [found.line(case.secret(found.name)) for found in judge(case)]


def judge(case: Case) -> Iterator[Problem]:
    for source in case.missing:
        yield Problem(f"-i {source}", "is not there", "write the path of a file or a folder")
    if not case.groups.get("all"):
        yield Problem("inventory", "has no hosts", "name the one that has, as -i inventories/prod")
        return
    anywhere = [host for group in GROUPS for host in case.groups.get(group, ())]
    for where, name in case.twice:
        yield Problem(where, f"says {name} twice, and the first is lost", "write it once")
    yield from run_does_something(case)
    if anywhere and case.host not in anywhere:
        return
    yield from misspelt_groups(case)
    yield from empty_groups(case)
    if not anywhere:
        return
    yield from unknown_names(case)
    yield from bound_names(case)
    for name, spec in case.specs.items():
        found = [] if name in case.bound else list(judge_variable(case, name, spec))
        if found:
            case.values.pop(name, None)
        yield from found
    for rule in TOGETHER:
        yield from rule(case)


def judge_variable(case: Case, name: str, spec: dict) -> Iterator[Problem]:
    if name in case.failed:
        yield Problem(name, *case.failed[name])
    elif name in case.given:
        if name in case.values:
            yield from judge_value(name, case.values[name], spec, RULES.get(name, no_rule))
    elif spec.get("required") and case.plays(spec.get("role", "")):
        yield Problem(name, "is not set", f"write {name}: {SAMPLES.get(name, 'a value')}")


def judge_value(name: str, value: Any, spec: dict, rule: Rule) -> Iterator[Problem]:
    kind = spec.get("type", "str")
    if name in TYPED and value in ("true", "false"):
        return
    if refusal := wrong_kind(value, kind):
        yield Problem(name, *refusal, value)
    elif kind == "list":
        yield from judge_list(name, value, spec, rule)
    elif kind == "dict":
        yield from judge_dict(name, value, rule)
    elif refusal := unclean(value, several_lines=name in OF_LINES) or wrong_choice(value, spec):
        yield Problem(name, *refusal, value)
    elif value == "":
        if spec.get("default") != "":
            yield Problem(name, "is empty", "write a value, or leave the line out")
    elif refusal := rule(value):
        yield Problem(name, *refusal, value)


def judge_list(name: str, items: list, spec: dict, rule: Rule) -> Iterator[Problem]:
    if not items and spec.get("default") != []:
        yield Problem(name, "is an empty list", f"write {SAMPLES.get(name, 'one entry or more')}")
    for index, item in enumerate(items):
        kind = spec.get("elements", "str")
        if kind == "dict" and not wrong_kind(item, kind):
            yield from judge_entry(f"{name}.{entry_name(item) or index + 1}", item, spec["options"], rule)
        elif refusal := wrong_kind(item, kind) or unclean(item) or rule(item):
            yield Problem(name, *refusal, item)
        elif item in items[:index]:
            yield Problem(name, "names it twice", "write each entry once", item)


def judge_entry(name: str, entry: dict, options: dict[str, dict], rule: Rule) -> Iterator[Problem]:
    """One of a list of dictionaries, which bear the names of the options."""
    misspelt = set()
    for key in (key for key in entry if key not in options):
        near = difflib.get_close_matches(str(key), options.keys() - entry.keys(), 1)
        misspelt.update(near)
        advice = f"write {near[0]}" if near else f"leave it out: there are {', '.join(options)}"
        yield Problem(name, "has a name that nothing reads", advice, key)
    for key, spec in options.items():
        if key in entry:
            yield from judge_value(f"{name}.{key}", entry[key], spec, functools.partial(rule, key))
        elif spec.get("required") and key not in misspelt:
            yield Problem(name, f"has no {key}", f"write {key}: {SAMPLES[key]}")


def entry_name(entry: dict) -> str:
    """By what name the messages call it."""
    name = entry.get("name")
    return name if isinstance(name, str) and not job_name(name) else ""


def judge_dict(name: str, pairs: dict, rule: Rule) -> Iterator[Problem]:
    for key, value in pairs.items():
        if refusal := wrong_kind(key, "str") or unclean(key):
            yield Problem(name, "a name in it " + refusal[0], refusal[1], key)
        elif refusal := rule(key, value):
            yield Problem(f"{name}.{key}", *refusal, value)


# Of what kind a value is

KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "none": (type(None), "nothing"),
    "bool": (bool, "true or false"),
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "str": (str, "a text"),
    "path": (str, "a text"),
    "list": (list, "a list"),
    "dict": (dict, "a dictionary"),
}


def kind_of(value: Any) -> str:
    return next((kind for kind, (types, _rule) in KINDS.items() if isinstance(value, types)), "date")


def wrong_kind(value: Any, wanted: str) -> Refusal | None:
    is_kind = kind_of(value)
    if is_kind == wanted or (wanted, is_kind) in (("path", "str"), ("float", "int")):
        return None
    if wanted not in KINDS:
        return None
    what = f"is {KINDS[is_kind][1] if is_kind in KINDS else 'a date'}, not {KINDS[wanted][1]}"
    if wanted in ("str", "path"):
        scalar = is_kind not in ("none", "list", "dict")
        return what, "quote it" if scalar else "write one text"
    if wanted == "list" and is_kind == "str":
        items = ", ".join(re.split(r"[,; ]+", value.strip()))
        return what, "write a list: [one, two]" if "//" in items or SECRET.search(items) else f"write a list: [{items}]"
    return what, {
        "bool": "write true or false, without quotes (after -e: as JSON)",
        "int": "write a whole number, without quotes (after -e: as JSON)",
        "list": "write a list: [one, two]",
        "dict": "write pairs: {name: value}",
    }.get(wanted, f"write {KINDS[wanted][1]}")


def unclean(value: Any, several_lines: bool = False) -> Refusal | None:
    if not isinstance(value, str):
        return None
    if value.lstrip().startswith("$ANSIBLE_VAULT"):
        return "is still encrypted", "write !vault | before the encrypted text"
    if several_lines:
        return ("has a control character", "write text") if UNPRINTABLE.search(value) else None
    if CONTROL.search(value):
        return "has a line break or another control character", "write one line"
    return None


def wrong_choice(value: Any, spec: dict) -> Refusal | None:
    choices = spec.get("choices") or [value]
    if value in choices:
        return None
    return "is none of the choices", f"write one of: {', '.join(map(str, choices))}"


# Rules that many variables share


def no_rule(*_value) -> None:
    return None


def matching(pattern: str, what: str, advice: str) -> Rule:
    compiled = re.compile(pattern, re.ASCII)
    return lambda value: None if compiled.fullmatch(value) else (what, advice)


def between(low: int, high: int) -> Rule:
    advice = f"write a number from {low} to {high}"
    return lambda value: None if low <= value <= high else ("is out of range", advice)


def both(*rules: Rule) -> Rule:
    return lambda value: next(filter(None, (rule(value) for rule in rules)), None)


def entry(**rules: Rule) -> Rule:
    """A rule for each name in the entries of a list of dictionaries."""
    return lambda key, value: rules[key](value)


def not_reserved(value: str) -> Refusal | None:
    if value in CLOUD_USERS:
        return "is a name that clouds give to administrators", "write another, such as shop"
    return not_of_the_system(value)


def not_of_the_system(value: str) -> Refusal | None:
    if value in RESERVED or value.startswith(("systemd-", "_")):
        return "is a name the system or the stack uses itself", "write another, such as shop"
    return None


def not_a_unit(value: str) -> Refusal | None:
    if value in UNITS:
        return "is a name of a unit of the system", "write another, such as shop-gunicorn"
    return None


def path(value: str) -> Refusal | None:
    """A path on the host that needs no quoting anywhere."""
    if not value.startswith("/"):
        return "is not absolute", "write a path that starts with /"
    if not re.fullmatch(r"[A-Za-z0-9_./-]+", value):
        return "has a character that needs quoting", "write letters, digits and _ . / - only"
    if posixpath.normpath(value) != value or value.startswith("//"):
        return "is not in its plain form", f"write {posixpath.normpath('/' + value.lstrip('/'))}"
    if value in SYSTEM_FOLDERS or FOREIGN_FOLDERS.fullmatch(value):
        return "belongs to the system", "write a folder of the site's own, such as /srv/shop"
    return None


def folder(value: str) -> Refusal | None:
    """A folder that the stack fills and that outlives a reboot."""
    if refusal := path(value):
        return refusal
    top, *below = value.strip("/").split("/")
    if top == "run" or (top == "etc" and below[0] in RESERVED):
        return "belongs to the system", "write a folder of the site's own, such as /srv/shop"
    return None


def home(value: str) -> Refusal | None:
    most = SOCKET_PATH - len(SOCKET)
    if len(value) > most:
        return f"is longer than {most} characters, and sockets lie below it", "write one such as /srv/shop"
    return folder(value)


def uploads(value: str) -> Refusal | None:
    """A folder that becomes the site's own, so nobody else may need it."""
    if refusal := folder(value):
        return refusal
    of_others = re.match(r"/etc/|/home/[^/]+\Z|/var/(cache|log|spool|mail|backups)/", value)
    data = re.match(r"/var/lib/([^/]+)", value)
    if of_others or (data and data[1] in DATA_FOLDERS):
        return "belongs to somebody else", "write a folder of the site's own, such as /srv/shop/media"
    return None


def file_named(name: str) -> Rule:
    def rule(value: str) -> Refusal | None:
        if posixpath.basename(value) != name:
            return f"does not end in /{name}", f"write a path such as /etc/shop/tls/{name}"
        return path(value) or folder(posixpath.dirname(posixpath.dirname(value)))

    return rule


def inside(what: str, wild: str = "") -> Rule:
    """A path inside the source."""

    def rule(value: str) -> Refusal | None:
        if ".." in value.split("/") or value.startswith(("/", "~")):
            return "leads out of the source", f"write the {what} as seen from the source's top"
        if not re.fullmatch(rf"(?!-)[A-Za-z0-9_.{wild}-]+(/[A-Za-z0-9_.{wild}-]+)*", value):
            return "is not a plain path", f"write letters, digits and {' '.join(f'_./{wild}-')} only"
        return None

    return rule


# Rules for names on the net

ODD_DOMAINS = (
    (r"[\w+.-]+://.*", "is an address, not a bare name"),
    (r".*\*.*", "has a wildcard that stands for no whole label"),
    (r".*/.*", "has a path"),
    (r".*\s.*", "has a space"),
    (r".*:\d*", "has a port"),
    (r".*[^\x00-\x7f].*", "is not in ASCII"),
    (r".*\.", "ends in a dot"),
    (r".*[A-Z].*", "has upper case"),
    (r"[^.]*", "has no dot"),
    (r".{254,}", "is longer than 253 characters"),
    (r"(.*\.)?[^.]{64,}(\..*)?", "has a label longer than 63 characters"),
)


def domain(value: str) -> Refusal | None:
    if DOMAIN.fullmatch(value):
        return None
    if is_ip_address(value):
        return "is an IP address", "write a domain name"
    what = next((what for odd, what in ODD_DOMAINS if re.fullmatch(odd, value)), "is no domain name")
    return what, f"write {bare_name(value) or 'a name such as shop.example.com'}"


def name_or_wildcard(value: str) -> Refusal | None:
    return domain(value.removeprefix("*."))


def is_ip_address(value: str) -> bool:
    try:
        return bool(ipaddress.ip_address(value.strip("[]")))
    except ValueError:
        return False


def bare_name(value: str) -> str:
    """The domain name that was probably meant: lower case, punycode, without all around it."""
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
    return "is no origin", "write https:// and a name, such as https://shop.example.com"


def email(value: str) -> Refusal | None:
    name, _at, host = value.rpartition("@")
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{0,63}", name) and DOMAIN.fullmatch(host.lower()):
        return None
    return "is no e-mail address", "write one such as me@example.com"


def source(value: str) -> Refusal | None:
    """The address of a repository. That a folder or an archive is there, source_is_there sees."""
    if value.startswith("-"):
        return ("starts with a dash, as an option of git's would", f"write {SAMPLES['django_source']}")
    if not ADDRESS.match(value):
        return None
    if re.match(r"(?!ssh://[^/:@]*@[^@]*\Z)[a-z+]+://.*@", value, re.IGNORECASE):
        return (
            "has credentials in the address, where other users and .git/config show them",
            "write it without, and let an SSH key or git's credential helper give them",
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
        return "comes over an unprotected line", f"write {secure} or an ssh address"
    return (
        "is no address the stack fetches from",
        "write https://host/path, ssh://git@host/path, git@host:path, a folder or a .tar.gz",
    )


# Rules for single variables


def site_name(value: str) -> Refusal | None:
    if re.fullmatch(r"[a-z]([a-z0-9-]{0,29}[a-z0-9])?", value):
        return not_reserved(value)
    return (
        "is no name for a user, a folder and a unit",
        "write a lower-case letter, then up to 30 letters, digits and dashes, such as shop",
    )


def git_version(value: str) -> Refusal | None:
    odd = re.search(r"^[-./]|\.\.|//|/\.|@\{|[\s~^:?*\[\\;|&$`'\"<>(){}!]|\.lock(/|$)|[./]$", value)
    if odd or value == "@":
        return ("is no name of a branch, tag or commit", "write one such as main, v1.2 or a commit id")
    return None


def secret_key(value: str) -> Refusal | None:
    advice = "leave it out, then the host makes one and keeps it; or write 50 random characters"
    if value.startswith("django-insecure-"):
        return "is the insecure one of startproject", advice
    if len(value) < 50:
        return "is shorter than 50 characters", advice
    if len(set(value)) < 5:
        return "has fewer than 5 different characters", advice
    return None


def managed(names: dict[str, str], key: str) -> Refusal | None:
    if key not in names:
        return None
    owner = names[key]
    return "is set by the stack", f"set {owner} instead" if owner else "leave it out"


def variable(key: str, value: Any, sample: str) -> Refusal | None:
    """A variable of an environment, of which `sample` is a name."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
        return ("is no name of a variable", f"write letters, digits and _, such as {sample}")
    if FOREIGN_ENV.fullmatch(key):
        return "changes how programs start", "leave it out"
    if refusal := wrong_kind(value, "str") or unclean(value, several_lines=True):
        return refusal
    size = len(f"{key}={value}".encode()) + 1
    if size > VARIABLE:
        return (
            f"has {size // 1024} KiB, and a variable ends at {VARIABLE // 1024}",
            "write it into a file: django_files",
        )
    return None


def env_entry(key: str, value: Any) -> Refusal | None:
    if refusal := managed(MANAGED_ENV, key) or variable(key, value, "EMAIL_HOST"):
        return refusal
    if key == "DEBUG" and value.strip().lower() in ("true", "1", "t", "yes", "y", "on"):
        return "would show every visitor settings and source", 'leave it out, or write "False"'
    return None


def valkey_url(key: str, value: Any) -> Refusal | None:
    """A variable of the environment, and the number of the database that it names."""
    if refusal := managed(MANAGED_ENV, key) or variable(key, "", "CELERY_BROKER_URL"):
        return refusal
    return wrong_kind(value, "int") or between(0, 15)(value)


def file_entry(key: str, value: Any) -> Refusal | None:
    """A file that is put into the source."""
    if refusal := inside("file")(key):
        return refusal
    if key != posixpath.normpath(key) or key.split("/")[0] == ".git":
        return "is no plain path of a file", "write one such as config/local.py"
    return wrong_kind(value, "str") or unclean(value, several_lines=True)


def interpreter(value: str) -> Refusal | None:
    """A Python by its version, a range of versions, or its path on the host."""
    if re.match(r"/(home|root|tmp|var/tmp|run)(/|$)", value):
        return "is where the site cannot run it", "write the path of one such as /opt/python3.12/bin/python3"
    if re.fullmatch(r"(/[\w.+-]+)+", value):
        return None
    one = r"3\.\d+|(>=|<=|>|<|==|!=|~=)\s*\d+(\.\d+)*(\.\*)?"
    if re.fullmatch(rf"({one})(\s*,\s*({one}))*", value):
        return None
    return "is no version of Python", 'write one such as "3.12", a range such as ">=3.11,<3.13", or a path'


def build_variable(key: str, value: Any) -> Refusal | None:
    return variable(key, value, "UV_EXTRA_INDEX_URL")


def requirement(value: str) -> Refusal | None:
    """A line of requirements.txt, which is an argument of the installer."""
    if re.match(r"[A-Za-z0-9][\w.-]*\s*(\[[\w., -]+\])?\s*([<>=!~@;].*)?$", value):
        return None
    return "is no requirement", "write one such as psycopg[binary]==3.2.9"


def build_commands(key: str, value: Any) -> Refusal | None:
    """Commands of one moment of a build."""
    moments = ("before_collectstatic", "after_collectstatic")
    if key not in moments:
        return "is no moment of a build", f"write {' or '.join(moments)}"
    if refusal := wrong_kind(value, "list"):
        return refusal
    refusals = (wrong_kind(item, "str") or unclean(item) or build_command(item) for item in value)
    return next(filter(None, refusals), None)


def build_command(value: str) -> Refusal | None:
    """Run by env(1): variables may come first, and the program may be a file of the source."""
    program = re.sub(r"^(\s*[A-Za-z_]\w*=\S*\s+)+", "", value)
    return command(re.sub(r"^\s*[\w./@+-]*/", "", program)) or for_a_shell(value)


def for_a_shell(value: str) -> Refusal | None:
    if re.search(r"(^|\s)(&&?|\|\|?|\d?[<>]\S*)(\s|$)", re.sub(r"'.*?'|\".*?\"", "quoted", value)):
        return "has a sign that only a shell reads", "write sh -c '...', or one command after the other"
    return None


def management_command(value: str) -> Refusal | None:
    """What is typed behind manage.py."""
    words = value.split()
    if words[:1] in (["python"], ["python3"], ["manage.py"], ["./manage.py"]) or not re.match(
        r"[a-z_]\w*(\s|$)", value, re.ASCII
    ):
        return "is no command of manage.py", "write it without python manage.py, such as createcachetable"
    return command(value)


def setting(names: dict[str, str], pattern: str) -> Rule:
    def rule(key: str, value: Any) -> Refusal | None:
        if refusal := managed(names, key.lower()):
            return refusal
        if not re.fullmatch(pattern, key) or keyword.iskeyword(key):
            return "is no name of a setting", "write its own name, in lower case"
        if kind_of(value) not in ("str", "int", "float", "bool"):
            return f"is {KINDS.get(kind_of(value), ('', 'a date'))[1]}", "write a text or a number"
        return unclean(value)

    return rule


def header(key: str, value: Any) -> Refusal | None:
    """A header that the web server adds, and that ends up in quotes."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,60}[A-Za-z0-9]", key):
        return "is no name of a header", "write one such as Permissions-Policy"
    if len(str(value)) > 4000:
        return "is longer than nginx takes", "write at most 4000 characters"
    if refusal := managed(MANAGED_HEADERS, key.title()) or wrong_kind(value, "str") or unclean(value):
        return refusal
    if re.search(r"\$|[^ -~]", value):
        return "has a sign that nginx reads in its own way", "write it in ASCII and without dollars"
    return None


def body_limit(key: str, value: Any) -> Refusal | None:
    if refusal := LOCATION(key):
        return refusal
    return wrong_kind(value, "str") or BODY(value)


def job_name(value: str) -> Refusal | None:
    """A service or a timer."""
    if value == "gunicorn":
        return "is the web server's", "write another, such as worker"
    if re.fullmatch(r"[a-z][a-z0-9-]{0,31}", value):
        return None
    return "is no name for a unit", "write a lower-case letter, then up to 31 letters, digits and dashes"


def command(value: str) -> Refusal | None:
    """One command of systemd's, which no shell reads, and which runs as the site does."""
    if re.match(r"\s*[@:+!|-]", value):
        return ("begins with a sign by which systemd runs it in another way", "write the program first")
    if not re.match(r"\s*((/[\w.+-]+)+|\w[\w.+-]*)(\s|$)", value, re.ASCII):
        return ("does not begin with a program", f"write {SAMPLES['command']}, or the whole path of a program")
    if value.rstrip().endswith("\\"):
        return ("ends in a backslash, which would join the next line to it", "leave it out")
    try:
        shlex.split(value)
    except ValueError:
        return "has a quote that does not end", "write it twice, or leave it out"
    if ";" in re.sub(r"'.*?'|\".*?\"", "quoted", value).split():
        return ("has a semicolon of its own, with which systemd begins a second command", "write one command")
    return None


def directive(value: str) -> Refusal | None:
    """A line of a unit, and an argument of systemd-run."""
    name = re.fullmatch(r"([A-Z][A-Za-z]+)=[^%]*(?<!\\)", value)
    if not name:
        return ("is no directive of a systemd service", "write one such as PrivateTmp=yes")
    return managed(MANAGED_UNIT, name[1])


def public_key(value: str) -> Refusal | None:
    """A line of authorized_keys."""
    if re.fullmatch(rf'([a-zA-Z-]+(="[^"]*")?(,|\s))*{PUBLIC_KEY}', value):
        return None
    if "PRIVATE KEY" in value:
        return "is a private key", "write the public one, from the file that ends in .pub"
    return "is no public key of SSH", "write one such as ssh-ed25519 AAAA... ada@laptop"


def bare_public_key(value: str) -> Refusal | None:
    refusal = public_key(value)
    if not refusal and not re.fullmatch(PUBLIC_KEY, value):
        return "has options, which the stack sets itself", "write it without them: ssh-ed25519 AAAA... ci@forge"
    return refusal


def firewall_rule(value: str) -> Refusal | None:
    depth = 0
    for sign in re.sub(r'"[^"]*"', "", value):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if depth < 0 or sign in "#;":
            return "would end the line or the chain it stands in", "write one rule, and each brace with its other half"
    if depth or not re.search(r"\b(accept|drop|reject|jump|goto|log|counter|limit)\b", value):
        return "is no rule of nftables", "write one such as ip saddr 192.0.2.0/24 tcp dport 9100 accept"
    return None


def network(value: str) -> Refusal | None:
    try:
        ipaddress.ip_network(value, strict=False)
        if not re.fullmatch(r"[^/]+(/[0-9]+)?", value):
            raise ValueError
    except ValueError:
        return "is no address and no network", "write one such as 192.0.2.7 or 192.0.2.0/24"
    return None


def network_in_front(value: str) -> Refusal | None:
    if refusal := network(value):
        return refusal
    if ipaddress.ip_network(value, strict=False).prefixlen == 0:
        return "would believe everybody", "write the networks of what is in front"
    return None


def host_address(value: str) -> Refusal | None:
    try:
        found = ipaddress.ip_address(value)
    except ValueError:
        return "is no address", "write one such as 10.0.0.11, without a port or a network"
    if found.is_loopback or found.is_unspecified or found.is_multicast or found.is_link_local:
        return "is none by which others reach the host", "write one such as 10.0.0.11"
    if value != str(found):
        return "is not in its short form", f"write {found}"
    return None


def proxy(value: str) -> Refusal | None:
    if re.match(r"[^/]*//[^/]*@", value):
        return "has credentials, and everybody on the host would see them", "write one that asks for none"
    if re.fullmatch(r"http://[A-Za-z0-9.\[\]:-]+:[1-9][0-9]{0,4}/?", value):
        return None
    return "is no address of a proxy", "write one such as http://proxy.example:3128"


def private_key(value: str) -> Refusal | None:
    text = f"{value.strip()}\n".encode()
    load = serialization.load_ssh_private_key if b"OPENSSH" in text[:40] else serialization.load_pem_private_key
    try:
        load(text, password=None)
    except TypeError:
        return "has a passphrase, which nobody would be there to type", "write a key without one"
    except (ValueError, UnsupportedAlgorithm):
        return "is no private key", "write the text of one: {{ lookup('ansible.builtin.file', 'PATH') }}"
    return None


def timezone(value: str) -> Refusal | None:
    known = zoneinfo.available_timezones()
    shape = re.fullmatch(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}", value)
    if shape and (not known or value in known):
        return None
    near = difflib.get_close_matches(value, known, 1)
    return "is no time zone", f"write {near[0] if near else 'one such as Etc/UTC or Europe/Vienna'}"


def postgres_name(value: str) -> Refusal | None:
    if value in ("postgres", "template0", "template1", "public", "none") or value.startswith("pg_"):
        return "is one of PostgreSQL's own", "write another, such as shop"
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,62}", value):
        return ("needs quoting in PostgreSQL", "write a lower-case letter, then up to 62 letters, digits, _ and -")
    return None


USER_NAME = matching(
    r"[a-z_][a-z0-9_-]{0,30}",
    "is no name for a user",
    "write a lower-case letter, then up to 30 letters, digits, _ and -",
)
USER = both(USER_NAME, not_reserved)
PORT = between(1, 65535)
ARCHIVE = matching(
    r"https?://[A-Za-z0-9.-]+(:[0-9]+)?(/[!-~]*)?", "is no address of an archive", "write one that starts with https://"
)
BODY = matching(r"[1-9][0-9]*[km]", "is no size as nginx writes it", "write one such as 20m or 512k")
LOCATION = matching(r"/[A-Za-z0-9_./-]*[A-Za-z0-9_/-]", "is no path of a site", "write one such as /accounts/login/")
LOCATION_OR_ALL = matching(
    r"/([A-Za-z0-9_./-]*[A-Za-z0-9_/-])?", "is no path of a site", "write one such as /accounts/login/, or / for all"
)
URL_PATH = matching(r"/([A-Za-z0-9_-]+/)+", "is no path of a site", "write one such as /static/")
DAY = r"(mon(day)?|tue(sday)?|wed(nesday)?|thu(rsday)?|fri(day)?|sat(urday)?|sun(day)?)"
DAYS = rf"{DAY}((\.\.|,|-){DAY})*"
PART = r"[0-9*][0-9*.,/]*"
DATE, TIME = rf"({PART}-)?{PART}[-~]{PART}", rf"{PART}:{PART}(:{PART})?"
CALENDAR = (
    r"(?i)(minutely|hourly|daily|weekly|monthly|quarterly|semiannually|yearly|annually"
    rf"|{DAYS}( {DATE})?( {TIME})?|{DATE}( {TIME})?|{TIME})( [a-z][a-z0-9_+-]*(/[a-z0-9_+-]+)*)?"
)
BATCH = r"[1-9][0-9]*|[1-9][0-9]?%|100%"
GROUP = matching(
    r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?", "is no name of a group or an extra", "write one such as production"
)
DOTTED = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"

#: What a spec cannot say. Of a list the rule judges each entry, of a dict each name and value.
RULES: dict[str, Rule] = {
    "site_name": site_name,
    "site_domains": name_or_wildcard,
    "site_names_served": name_or_wildcard,
    "host_admins": entry(name=both(USER_NAME, not_of_the_system), keys=public_key),
    "host_ssh_ports": PORT,
    "host_open_tcp": PORT,
    "host_open_udp": PORT,
    "host_outgoing_tcp": PORT,
    "host_firewall_rules": firewall_rule,
    "host_never_banned": network,
    "host_reboot_time": matching(
        r"([01][0-9]|2[0-3]):[0-5][0-9]", "is no time of the day", 'write one such as "04:30"'
    ),
    "host_apt_mirror": ARCHIVE,
    "host_apt_security_mirror": ARCHIVE,
    "host_proxy": proxy,
    "host_environment": setting({}, r"[A-Za-z_][A-Za-z0-9_]*"),
    "host_name": matching(
        r"(?=.{1,64}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*",
        "is no name of a host",
        "write lower-case letters, digits and dashes, such as vps1",
    ),
    "host_address": host_address,
    "host_identity": path,
    "host_timezone": timezone,
    "host_journal_size": matching(r"[1-9][0-9]*[MG]", "is no size as journald writes it", "write one such as 500M"),
    "deployer_keys": bare_public_key,
    "django_source": source,
    "django_source_checksum": matching(
        r"sha256:[0-9a-fA-F]{64}", "is no checksum", "write sha256: and what sha256sum prints of the archive"
    ),
    "django_version": git_version,
    "django_user": USER,
    "django_home": home,
    "django_media_root": uploads,
    "django_config_dir": folder,
    "django_static_url": URL_PATH,
    "django_media_url": URL_PATH,
    "django_subdirectory": inside("folder"),
    "django_requirements": inside("file"),
    "django_settings_module": matching(DOTTED, "is no module", "write one such as shop.settings"),
    "django_application": matching(
        rf"{DOTTED}:[A-Za-z_]\w*", "is no application", "write module:name, as in shop.wsgi:application"
    ),
    "django_system_packages": matching(
        r"[a-z0-9][a-z0-9+.-]+", "is no name of a Debian package", "write one such as libmagic1"
    ),
    "django_env": env_entry,
    "django_shared_paths": inside("folder"),
    "django_source_includes": inside("file", "*"),
    "django_python": interpreter,
    "django_groups": GROUP,
    "django_extras": GROUP,
    "django_extra_packages": requirement,
    "django_build_environment": build_variable,
    "django_build_git_key": private_key,
    "django_files": file_entry,
    "django_build": build_commands,
    "django_after_migrate": management_command,
    "django_secret_key": secret_key,
    "django_services": entry(
        name=job_name, command=command, stop_timeout=between(1, 86400), single=no_rule, start_seconds=between(1, 600)
    ),
    "django_timers": entry(
        name=job_name,
        command=command,
        on_calendar=matching(
            CALENDAR, "is no time as systemd writes it", 'write one such as daily or "Mon *-*-* 03:30"'
        ),
    ),
    "django_sandbox": directive,
    "django_allowed_hosts": allowed_host,
    "django_csrf_trusted_origins": origin,
    "django_health_path": matching(
        r"/[!-~]*", "is no path of a site", "write one that starts with /, such as /health/"
    ),
    "django_health_timeout": between(1, 600),
    "django_batches": matching(BATCH, "is no number of hosts and no share of them", 'write one such as "2" or "25%"'),
    "django_keep_releases": between(2, 50),
    "django_pre_migrate_tasks": matching(r"[/~].+", "is not a full path", "write one that starts with / or ~"),
    "django_lock_timeout": matching(
        r"[1-9][0-9]*(ms|s|min)", "is no time as PostgreSQL writes it", "write one such as 5s"
    ),
    "postgres_user": postgres_name,
    "postgres_database": postgres_name,
    "postgres_connection_limit": between(0, 10000),
    "postgres_socket_dir": path,
    "postgres_service_file": path,
    "postgres_settings": setting(MANAGED_POSTGRES, r"[a-z_][a-z0-9_.]*"),
    "valkey_port": PORT,
    "valkey_urls": valkey_url,
    "valkey_settings": setting(MANAGED_VALKEY, r"[a-z][a-z0-9-]*"),
    "gunicorn_service": both(
        matching(r"[a-z][a-z0-9-]{0,60}", "is no name for a unit", "write one such as shop-gunicorn"),
        not_reserved,
        not_a_unit,
    ),
    "gunicorn_socket": matching(
        r"[A-Za-z0-9][A-Za-z0-9_.-]{0,30}", "is no name of a file", "write one such as gunicorn.sock"
    ),
    "gunicorn_config": path,
    "gunicorn_package": matching(
        r"gunicorn(\[[a-z,]+\])?==[0-9][0-9A-Za-z.]*",
        "is not gunicorn with a version",
        "write one such as gunicorn==27.0.1",
    ),
    "gunicorn_worker_class": matching(DOTTED, "is no class", "write gthread, sync, asgi or its path"),
    "gunicorn_workers": between(0, 64),
    "gunicorn_threads": between(1, 64),
    "gunicorn_timeout": between(1, 3600),
    "gunicorn_graceful_timeout": between(1, 600),
    "gunicorn_settings": setting(MANAGED_GUNICORN, r"[a-z][a-z0-9_]*"),
    "nginx_domains": name_or_wildcard,
    "nginx_acme_webroot": folder,
    "nginx_service": matching(r"[a-z][a-z0-9@_.-]*\.service", "is no name of a service", "write nginx.service"),
    "nginx_client_max_body_size": BODY,
    "nginx_peer_port": PORT,
    "nginx_hsts_max_age": between(0, 2**31 - 1),
    "nginx_headers": header,
    "nginx_requests_per_address": between(1, 65535),
    "nginx_rate_limits": entry(
        path=LOCATION,
        rate=matching(r"[1-9][0-9]{0,5}r/[sm]", "is no rate as nginx writes it", "write one such as 10r/m"),
        burst=between(1, 10000),
    ),
    "nginx_body_limits": body_limit,
    "nginx_streamed_paths": LOCATION_OR_ALL,
    "nginx_websocket_paths": LOCATION_OR_ALL,
    "nginx_trusted_proxies": network_in_front,
    "nginx_maintenance_admits": network,
    "letsencrypt_email": email,
    "letsencrypt_domains": name_or_wildcard,
    "letsencrypt_directory_url": matching(
        r"https://[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?/[!-~]*",
        "is no address of a CA",
        "write one that starts with https://",
    ),
    "letsencrypt_ca_bundle": matching(
        r"/[A-Za-z0-9_./-]+", "is no absolute path", "write one of letters, digits and _ . / - only"
    ),
    "letsencrypt_eab_kid": matching(r"[!-~]+", "is no name that a CA gives", "write it as the CA shows it"),
    "letsencrypt_eab_hmac_key": matching(
        r"[A-Za-z0-9_-]{16,}={0,2}", "is no key in base64url", "write it as the CA shows it"
    ),
    "letsencrypt_dns_plugin": matching(
        "|".join(DNS_PLUGINS),
        "is no plugin of Debian's that takes its login from a file",
        f"write one of: {', '.join(sorted(DNS_PLUGINS))}; or write a letsencrypt_dns_hook",
    ),
    "letsencrypt_dns_credentials": setting({}, r"[a-z][a-z0-9_-]*"),
    "letsencrypt_share_port": PORT,
    "letsencrypt_certificate": file_named("fullchain.pem"),
    "letsencrypt_certificate_key": file_named("privkey.pem"),
}


# Rules for names and for several variables at once


def meant(name: str, known: Iterable[str], closeness: float = 0.9) -> str:
    """The one of the known names that this one is but misspelt, or none."""
    plain = name.lower().replace("-", "_")
    near = [each for each in known if each[0] == plain[0] and abs(len(each) - len(plain)) <= 2]
    # Numbers tell things apart.
    near = [each for each in near if re.sub(r"\d", "", each) != re.sub(r"\d", "", plain) or each == plain]
    swapped = [each for each in near if sorted(each) == sorted(plain)]
    return next(iter(swapped or difflib.get_close_matches(plain, near, 1, closeness)), "")


def run_does_something(case: Case) -> Iterator[Problem]:
    needed = {host for group in case.needs for host in case.groups.get(group, ())}
    if needed and not needed & set(case.run):
        groups = " or ".join(group for group in GROUPS if group in case.needs)
        yield Problem("--limit", f"leaves no host of the group {groups}, so nothing would be done", "name one of them")


def misspelt_groups(case: Case) -> Iterator[Problem]:
    missing = [group for group in GROUPS if not case.groups.get(group)]
    for name in case.groups.keys() - GROUPS.keys():
        if near := meant(name, missing, 0.8):
            yield Problem(name, "is no group of the stack", f"write {near}")
    for name in sorted(case.group_files - case.groups.keys()):
        # Other groups may be those of another inventory in the same folder.
        if near := meant(name, GROUPS.keys() - case.group_files, 0.8):
            yield Problem(f"group_vars/{name}", "is of a group that is not there, so nothing reads it", f"write {near}")


def empty_groups(case: Case) -> Iterator[Problem]:
    for group, roles in GROUPS.items():
        if not case.groups.get(group) and group not in OPTIONAL:
            yield Problem(
                group,
                f"no host is in this group, which runs {' and '.join(roles)}",
                f"write {group}: {{hosts: {{{case.host}: {{}}}}}} into the inventory",
            )


def unknown_names(case: Case) -> Iterator[Problem]:
    prefixes = ("site_", *{f"{spec['role']}_" for spec in case.specs.values() if "role" in spec})
    known = [name for name in case.specs if name not in case.bound]
    for name in case.given:
        if name in case.specs or name.startswith(("ansible_", "_")):
            continue
        if not name.startswith(prefixes):
            near = meant(name, known) or (meant(name, OF_PLAYBOOKS, 0.8) if name in case.typed - OF_PLAYBOOKS else "")
            if near:
                yield Problem(name, "is not a variable of the stack, but nearly one", f"write {near}")
            continue
        # What begins with host_ may well be somebody else's.
        other = name.startswith("host_")
        near = meant(name, known) if other else next(iter(difflib.get_close_matches(name, known, 1)), "")
        if near or not other:
            advice = f"write {near}" if near else "leave it out: nothing reads it"
            yield Problem(name, "is not a variable of the stack", advice)


def bound_names(case: Case) -> Iterator[Problem]:
    for name, owner in case.bound.items():
        if name in case.given:
            advice = f"set {owner} instead" if owner else "leave it out"
            yield Problem(name, "the playbook sets it", advice)


def source_is_there(case: Case) -> Iterator[Problem]:
    value = case.values.get("django_source")
    if not value or ADDRESS.match(value) or not case.plays("django") or not case.deploys:
        return
    found = case.find_source(value)
    if found.is_dir() or (found.is_file() and found.name.endswith((".tar.gz", ".tgz"))):
        yield from source_is_a_project(case, found, str(found))
        if found.is_dir():
            yield from folder_can_travel(case, found)
        return
    what = "is not a folder or a .tar.gz" if found.exists() else f"there is no {found} here"
    yield Problem("django_source", what, f"write {SAMPLES['django_source']}", value)


def source_is_fetched_as_meant(case: Case) -> Iterator[Problem]:
    """A checksum is for an archive, and a key is for a repository by SSH."""
    value, checksum = case.values.get("django_source"), case.values.get("django_source_checksum")
    if not value or not case.plays("django") or not case.deploys:
        return
    fetched = re.fullmatch(ARCHIVE_ADDRESS, value)
    if fetched and not checksum:
        what = "an archive that is fetched wants one"
        yield Problem("django_source_checksum", what, f"write {SAMPLES['django_source_checksum']}")
    if checksum and not fetched:
        yield Problem("django_source_checksum", "is for an archive that is fetched by https", "leave it out")
    key = case.values.get("django_git_key")
    if not key:
        return
    path = Path(key).expanduser()
    if not ADDRESS.match(value) or value.startswith("https:"):
        advice = "leave it out, or write django_source as git@host:path"
        yield Problem("django_git_key", "is for a repository that is fetched by SSH", advice)
    elif not path.is_file():
        yield from no_such_file(case, "django_git_key")
    elif path.stat().st_mode & 0o077:
        yield Problem("django_git_key", "can be read by others, so SSH does not use it", f"chmod 600 {key}", key)
    elif "PRIVATE KEY-----" not in path.read_text(errors="replace")[:200]:
        yield Problem("django_git_key", "is no private key", "write the path of one, unencrypted", key)


def source_is_a_project(case: Case, top: Path, name: str) -> Iterator[Problem]:
    """What a build would find out, as far as it can be seen here; with git, files may be missing there."""
    if not top.is_dir():
        with tempfile.TemporaryDirectory() as folder:
            try:
                unpack_texts(top, Path(folder))
            except UNREADABLE as error:
                yield Problem("django_source", f"{name} cannot be unpacked: {error}", "pack it again")
            else:
                yield from source_is_a_project(case, Path(folder), name)
        return
    values = case.values
    files = {top / name for name in values.get("django_files", ())}
    try:
        project = find_project(top, values.get("django_subdirectory", ""))
        module = settings_of(project, values.get("django_settings_module", ""))
        # A command of the build may write them.
        if not values.get("django_build", {}).get("before_collectstatic"):
            refuse_settings(project, module, files)
        if not values.get("django_python"):
            # Which Pythons there are the host knows; what is no range is refused here.
            fits("3", *wanted(project, top))
        if not any(file.name in (*KNOWN, posixpath.basename(values.get("django_requirements", ""))) for file in files):
            wish = Wish(tuple(values.get("django_groups", ())), tuple(values.get("django_extras", ())))
            requirements_of(find_requirements(project, top, values.get("django_requirements", ""), wish), wish)
    except StepError as error:
        yield Problem(
            "django_source", f"{name}: {error.cause}", error.advice[:1].lower() + error.advice[1:].rstrip(".")
        )


def folder_can_travel(case: Case, top: Path) -> Iterator[Problem]:
    try:
        selection(top, case.values.get("django_source_includes", []), [])
    except (OSError, ValueError) as error:
        yield Problem("django_source", f"{top}: {error}", "correct it there")


def unpack_texts(archive: Path, folder: Path) -> None:
    """What tells of the project: code, settings and what it requires."""
    for info, content in from_archive(archive):
        name = PurePosixPath(info.name)
        if content is not None and (name.suffix in TEXTS or name.name in TEXTS):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def login_is_free(case: Case) -> Iterator[Problem]:
    for name in ("site_name", "django_user"):
        if case.login and case.values.get(name) == case.login and name in case.given:
            yield Problem(name, "is the user Ansible comes in as", "write another name", case.login)
            case.values.pop(name)


def peer_names_agree(case: Case) -> Iterator[Problem]:
    if not {"app", "database"} <= case.parts:
        return
    role, user = case.values.get("postgres_user"), case.values.get("django_user")
    if role and user and role != user:
        yield Problem(
            "postgres_user",
            f"is not the django_user, {user}, by whose name PostgreSQL knows who connects (peer)",
            "set both to the same, or neither",
            role,
        )


def connections_suffice(case: Case) -> Iterator[Problem]:
    if not {"app", "database"} <= case.parts or "postgres_settings" not in case.values:
        return
    workers, threads = case.values.get("gunicorn_workers"), case.values.get("gunicorn_threads")
    limit = str(case.values["postgres_settings"].get("max_connections", 100))
    reserved = reserved_connections()
    if not workers or not threads or not limit.isdecimal() or workers * threads <= int(limit) - reserved:
        return
    wanted = workers * threads
    yield Problem(
        "gunicorn_workers",
        f"{workers} workers of {threads} gunicorn_threads open up to {wanted} connections, "
        f"and of the {limit} that PostgreSQL takes the site may have {int(limit) - reserved}",
        f"write fewer, or max_connections: {wanted + reserved} into postgres_settings",
    )


def jobs_differ(case: Case) -> Iterator[Problem]:
    """Services and timers share the names of their units."""
    taken: dict[str, str] = {}
    for owner in ("django_services", "django_timers"):
        for name in (job["name"] for job in case.values.get(owner, ())):
            if name in taken:
                yield Problem(f"{owner}.{name}", f"is one of {taken[name]} already", "give it another name")
            taken.setdefault(name, owner)


def url_paths_differ(case: Case) -> Iterator[Problem]:
    static, media = case.values.get("django_static_url"), case.values.get("django_media_url")
    if static and media and (static.startswith(media) or media.startswith(static)):
        yield Problem(
            "django_media_url",
            f"shares a path with django_static_url, {static}",
            "write two paths of which neither is inside the other",
            media,
        )


def folders_differ(case: Case) -> Iterator[Problem]:
    home, media = case.values.get("django_home"), case.values.get("django_media_root")
    config = case.values.get("django_config_dir")
    if home and media:
        taken = (f"{home}/{name}" for name in ("releases", "current", "static"))
        if f"{home}/".startswith(f"{media}/") or f"{media}/".startswith(tuple(f"{name}/" for name in taken)):
            yield Problem("django_media_root", "holds more than uploads", f"write {home}/media", media)
    shared = sorted(case.values.get("django_shared_paths", ()))
    for outer, inner in itertools.combinations(shared, 2):
        if f"{inner}/".startswith(f"{outer}/"):
            yield Problem("django_shared_paths", f"has {inner}, which is in {outer}", f"leave {inner} out")
    if config and media and f"{config}/".startswith(f"{media}/"):
        yield Problem("django_config_dir", "is among the uploads", "write a folder such as /etc/shop", config)


def certificate_is_whole(case: Case) -> Iterator[Problem]:
    certificate = case.values.get("letsencrypt_certificate")
    key = case.values.get("letsencrypt_certificate_key")
    if certificate and key and posixpath.dirname(certificate) != posixpath.dirname(key):
        yield Problem(
            "letsencrypt_certificate",
            "lies in another folder than letsencrypt_certificate_key",
            "write one folder for both",
            certificate,
        )


def somebody_hears(case: Case) -> Iterator[Problem]:
    name = "letsencrypt_email"
    wanted = case.plays("letsencrypt") and case.values.get("letsencrypt_enabled") is True
    if name in case.specs and wanted and name not in case.given:
        advice = f"write {name}: {SAMPLES[name]}, or letsencrypt_enabled: false"
        yield Problem(name, "is not set, and the CA needs an address for troubles", advice)


def pairs_are_whole(case: Case) -> Iterator[Problem]:
    for pair in PAIRS:
        for name, other in (pair, reversed(pair)):
            if case.values.get(other) and not case.values.get(name) and name not in case.failed:
                yield Problem(name, f"is not set, but {other} is", "set both or neither")


def own_certificate(case: Case) -> Iterator[Problem]:
    for name in filter(case.values.get, OWN_CERTIFICATE):
        if case.values.get("letsencrypt_enabled") is True:
            yield Problem(name, "is not used while letsencrypt_enabled", "write letsencrypt_enabled: false too")
        elif case.plays("letsencrypt"):
            yield from no_such_file(case, name)
    if not case.plays("letsencrypt") or case.values.get("letsencrypt_enabled") is not False:
        return
    if all(case.values.get(name) and case.find_file(case.values[name]) for name in OWN_CERTIFICATE):
        yield from does_not_fit(case, *(case.read_file(case.values[name]).encode() for name in OWN_CERTIFICATE))


def does_not_fit(case: Case, chain: bytes, key: bytes) -> Iterator[Problem]:
    """A certificate that nginx or visitors would not take."""
    certificate, secret = OWN_CERTIFICATE
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
    except ValueError:
        advice = "write the site's own first, and then those between it and the CA"
        yield Problem(certificate, "holds no certificates in PEM form", advice)
        return
    try:
        own = serialization.load_pem_private_key(key, None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        advice = "write one without; ansible-vault encrypts it on the controller"
        yield Problem(secret, "holds no key in PEM form, or one with a passphrase", advice)
        return
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if own.public_bytes(*form) != leaf.public_key().public_bytes(*form):
        yield Problem(secret, "is not the key of letsencrypt_own_certificate", "write the two that belong together")
    # One that nobody certified is for trying things out.
    if leaf.issuer == leaf.subject:
        return
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    known = names.get_values_for_type(x509.DNSName)
    for first in domains(case.values, "nginx_domains")[:1]:
        if first not in known and f"*.{first.partition('.')[2]}" not in known:
            advice = f"it knows {', '.join(known) or 'none'}; have one made for the site's first name, or change that"
            yield Problem(certificate, "is for other names", advice, first)


def wildcards_are_meant(case: Case) -> Iterator[Problem]:
    """One stands beside the canonical name, and is proven by a record in the DNS."""
    for first in domains(case.values, "nginx_domains")[:1]:
        if first.startswith("*."):
            what = "has a wildcard in the place of the canonical name"
            yield Problem(said_as(case, "nginx_domains"), what, "write that first", first)
            return
    by_dns = case.values.get("letsencrypt_dns_plugin") or case.values.get("letsencrypt_dns_hook")
    if case.values.get("letsencrypt_enabled") is True and not by_dns:
        for name in domains(case.values, "letsencrypt_domains"):
            if name.startswith("*."):
                what = "has a wildcard, which no challenge over HTTP can prove"
                advice = "write letsencrypt_dns_plugin or letsencrypt_dns_hook too"
                yield Problem(said_as(case, "letsencrypt_domains"), what, advice, name)


def names_can_be_ordered(case: Case) -> Iterator[Problem]:
    """Of one certificate, which Let's Encrypt gives for 100 names; those that a wildcard covers are not ordered."""
    names = domains(case.values, "letsencrypt_domains")
    ordered = [name for name in names if name.startswith("*.") or f"*.{name.partition('.')[2]}" not in names]
    of_letsencrypt = "letsencrypt.org" in str(case.values.get("letsencrypt_directory_url"))
    if len(ordered) > 100 and case.values.get("letsencrypt_enabled") is True and of_letsencrypt:
        what = f"has {len(ordered)} names, and a certificate takes 100"
        yield Problem(said_as(case, "letsencrypt_domains"), what, "write a wildcard, or fewer names")


def ssh_has_its_own_port(case: Case) -> Iterator[Problem]:
    taken = {80: "web", 443: "web", 5432: "database", case.values.get("valkey_port"): "valkey"}
    ports = case.values.get("host_ssh_ports")
    for port in ports if isinstance(ports, list) else ():
        if isinstance(port, int) and taken.get(port) in case.parts:
            yield Problem("host_ssh_ports", f"has the port of the group {taken[port]}", "write that of SSH alone", port)


def domains(values: dict[str, Any], name: str) -> list[str]:
    """Those of a list that is one, whatever else may be wrong with it."""
    found = values.get(name)
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def served_names_are_the_sites(case: Case) -> Iterator[Problem]:
    names = domains(case.values, "nginx_domains")
    for name in (name for name in domains(case.values, "site_names_served") if name not in names):
        yield Problem("site_names_served", "is none of site_domains", "write it there too, for the certificate", name)


def said_as(case: Case, name: str) -> str:
    """Where the domains of a role were written."""
    return name if name in case.given else "site_domains"


def one_way_to_prove(case: Case) -> Iterator[Problem]:
    name = "letsencrypt_dns_hook"
    if case.values.get(name) and case.values.get("letsencrypt_dns_plugin"):
        yield Problem(name, "is not used beside letsencrypt_dns_plugin", "leave one of them out")
    elif case.values.get(name) and case.plays("letsencrypt"):
        yield from no_such_file(case, name)


def admins_are_people(case: Case) -> Iterator[Problem]:
    names = [admin["name"] for admin in case.values.get("host_admins", ())]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Problem(f"host_admins.{name}", "is there twice", "write all keys into one")
        if name in (case.values.get("site_name"), case.values.get("django_user")):
            yield Problem(f"host_admins.{name}", "is the user that the site runs as", "write another name")


def deployer_is_its_own(case: Case) -> Iterator[Problem]:
    name = case.values.get("site_name")
    if not name or not case.values.get("deployer_keys"):
        return
    user = f"{name}-deploy"
    if len(user) > 32:
        yield Problem("deployer_keys", f"{user}, who has them, is longer than 32 characters", "shorten site_name")
    neighbours = [values.get("django_user") for values in case.neighbours.values()]
    admins = [admin["name"] for admin in case.values.get("host_admins", ())]
    if user in (case.login, case.values.get("django_user"), *neighbours, *admins):
        yield Problem(
            "deployer_keys", f"{user}, who has them, may do other things too", "give the other one another name"
        )
    if case.colleagues:
        what = f"would deploy here and not on {', '.join(case.colleagues)}"
        yield Problem("deployer_keys", what, "leave it out, and deploy by playbooks/deploy.yml")


def hosts_find_each_other(case: Case) -> Iterator[Problem]:
    if not case.colleagues or "host_address" in case.failed:
        return
    address = case.values.get("host_address")
    if address == "":
        what = f"is not set, and {', '.join(case.colleagues)} of the same site have to find this host"
        yield Problem("host_address", what, "write the host's address, best in a private network")
    same = [other for other, values in case.colleagues.items() if address and values.get("host_address") == address]
    if same:
        advice = "write the one that this host alone has"
        yield Problem("host_address", f"is that of {', '.join(same)} too", advice, address)


def hosts_agree(case: Case) -> Iterator[Problem]:
    for name in AGREED:
        others = [host for host, theirs in case.colleagues.items() if theirs.get(name) != case.values.get(name)]
        if others and name in case.values:
            what = f"is another on {', '.join(others)} of the same site"
            yield Problem(name, what, "write it once, into group_vars/all.yml", case.values[name])


def valkey_is_one(case: Case) -> Iterator[Problem]:
    hosts = [host for host in (case.host, *case.colleagues) if host in case.groups.get("valkey", ())]
    if len(hosts) > 1:
        what = f"{' and '.join(sorted(hosts))} of one site are in this group, and none would follow the other"
        yield Problem("valkey", what, "leave it one")
    for name in ("REDIS_URL", *case.values.get("valkey_urls", ())):
        if hosts and name in case.values.get("django_env", ()):
            advice = f"leave it out, or {hosts[0]} out of the group valkey"
            yield Problem(f"django_env.{name}", "is where the site's own valkey is", advice)


def authorities_are_there(case: Case) -> Iterator[Problem]:
    for path in case.values.get("host_ca_certificates", ()):
        if not case.find_file(path):
            yield Problem("host_ca_certificates", "there is no such file", "write the path on the controller", path)


def preload_is_meant(case: Case) -> Iterator[Problem]:
    if not case.values.get("nginx_hsts_preload"):
        return
    if not case.values.get("nginx_hsts_subdomains") or case.values.get("nginx_hsts_max_age", 0) < 31536000:
        advice = "write nginx_hsts_subdomains: true, and leave nginx_hsts_max_age at a year or more"
        yield Problem("nginx_hsts_preload", "is taken only for all names below, and for a year", advice)


def paths_of_nginx(case: Case) -> Iterator[Problem]:
    """What has a location of its own already."""
    static, media = case.values.get("django_static_url"), case.values.get("django_media_url")
    for name in ("nginx_body_limits", "nginx_streamed_paths", "nginx_websocket_paths"):
        for path in case.values.get(name, ()):
            if path in (static, media, f"{media}private/"):
                yield Problem(name, "is served from the disk", "write a path that Django answers", path)


def headers_are_one(case: Case) -> Iterator[Problem]:
    """Browsers do not mind the case of a name."""
    written: dict[str, str] = {}
    for key in (*headers_of_nginx(), *case.values.get("nginx_headers", ())):
        known = written.setdefault(key.lower(), key)
        if key != known:
            yield Problem("nginx_headers", "is there twice, but for the case", f"write {known}", key)


def files_of_nginx(case: Case) -> Iterator[Problem]:
    for name in ("nginx_maintenance_page", "nginx_error_page", "nginx_directives"):
        if case.values.get(name) and case.plays("nginx"):
            yield from no_such_file(case, name)


def pre_migrate_tasks(case: Case) -> Iterator[Problem]:
    if case.values.get("django_pre_migrate_tasks") and case.plays("django"):
        yield from no_such_file(case, "django_pre_migrate_tasks")


def no_such_file(case: Case, name: str) -> Iterator[Problem]:
    if not case.find_file(case.values[name]):
        yield Problem(name, "there is no such file", "write the path of a file on the controller", case.values[name])


def sites_differ(case: Case) -> Iterator[Problem]:
    """Several sites on one host have to differ in all that is named after a site."""
    for other, values in case.neighbours.items():
        names = (*ONE_SITE, "django_media_root")
        same = [name for name in names if name in values and case.values.get(name) == values[name]]
        for name in same[:1] if same[:1] == ["site_name"] else same:
            yield Problem(
                name,
                f"is the same for {other}, which has the same address",
                "give each site its own, or put one host into all groups",
                values[name],
            )
        if "site_name" not in same:
            theirs = domains(values, "nginx_domains")
            for name in (name for name in domains(case.values, "nginx_domains") if name in theirs):
                advice = "leave it to one of the sites"
                yield Problem("site_domains", f"{other} on the same address has it too", advice, name)
            nested = (
                (mine, its)
                for mine, its in itertools.product(FOLDERS, FOLDERS)
                if {mine, its} <= case.values.keys() & values.keys()
                and f"{case.values[mine]}/".startswith(f"{values[its]}/")
            )
            # What is wrong of the home is wrong of all that lies in it.
            for mine, its in [] if same else itertools.islice(nested, 1):
                what = f"lies in the {its} of {other}, which has the same address"
                yield Problem(mine, what, "write a folder of the site's own", case.values[mine])
        web = [host for host in (case.host, *case.colleagues) if host in case.groups.get("web", ())]
        both_have_valkey = {case.host, other} <= set(case.groups.get("valkey", ()))
        for name, is_used in (
            ("letsencrypt_share_port", len(web) > 1 and case.host in web),
            ("valkey_port", both_have_valkey),
        ):
            port = case.values.get(name)
            if is_used and values.get(name) == port:
                advice = "write another port for one of the sites"
                yield Problem(name, f"{other} on the same address has it too", advice, port)
        name = "letsencrypt_eab_kid"
        kids = {case.values.get(name), values.get(name)} - {"", None}
        if len(kids) > 1 and values.get("letsencrypt_directory_url") == case.values.get("letsencrypt_directory_url"):
            advice = "write the same for both: a host is one customer of a CA"
            yield Problem(name, f"{other} on the same address has another", advice, case.values[name])
        for name in HOST_WIDE + tuple(name for name, spec in case.specs.items() if spec.get("role") == "host"):
            if name in values and name in case.values and values[name] != case.values[name]:
                advice = "write the same for both: the host has it once"
                yield Problem(name, f"{other} on the same address has another", advice, case.values[name])


TOGETHER: tuple[Callable[[Case], Iterator[Problem]], ...] = (
    source_is_there,
    source_is_fetched_as_meant,
    served_names_are_the_sites,
    login_is_free,
    peer_names_agree,
    connections_suffice,
    jobs_differ,
    url_paths_differ,
    folders_differ,
    certificate_is_whole,
    somebody_hears,
    pairs_are_whole,
    own_certificate,
    wildcards_are_meant,
    names_can_be_ordered,
    ssh_has_its_own_port,
    one_way_to_prove,
    admins_are_people,
    deployer_is_its_own,
    hosts_find_each_other,
    hosts_agree,
    valkey_is_one,
    authorities_are_there,
    preload_is_meant,
    paths_of_nginx,
    headers_are_one,
    files_of_nginx,
    pre_migrate_tasks,
    sites_differ,
)


# What the messages show


def shown(value: Any, most: int = 60) -> str:
    """The value in short, without the credentials of an address, and without what is set to a name of a secret."""
    text = re.sub(r"//.*@", "//…@", repr(value))
    text = re.sub(rf"(\w*(?:{SECRET.pattern}|auth)\w*[= ]\s*|bearer |basic )\S+", r"\1…", text, flags=re.IGNORECASE)
    return f"{text[: most - 1]}…" if len(text) > most else text


def leaves(value: Any) -> Iterator[Any]:
    """The texts of a value that is not templated yet; to look at an encrypted one decrypts it."""
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, str | EncryptedString):
        yield value


# What the collection and the inventory say


def read(document: Path) -> Any:
    # Ten times as fast as Ansible's loader, which notes where each word came from.
    return yaml_load(document.read_text(encoding="utf-8"))


def read_specs(roles: list[str]) -> dict[str, dict]:
    """The variables of the site and of the roles' entry points."""
    specs: dict[str, dict] = dict(SITE)
    for role in roles:
        document = read(COLLECTION / "roles" / role / "meta" / "argument_specs.yml")
        for entry in document["argument_specs"].values():
            for name, spec in entry.get("options", {}).items():
                specs.setdefault(name, {**spec, "role": role})
        # A template for anything but a text is in no spec, as tools that read those take none.
        for name, value in read(COLLECTION / "roles" / role / "defaults" / "main.yml").items():
            specs[name].setdefault("default", value)
    return specs


@functools.cache
def reserved_connections() -> int:
    """Those of PostgreSQL that the role leaves to others than the site."""
    return read(COLLECTION / "roles/postgres/vars/main.yml")["__postgres_reserved"]


@functools.cache
def headers_of_nginx() -> tuple[str, ...]:
    """What the role adds by itself."""
    return tuple(read(COLLECTION / "roles/nginx/vars/main.yml")["__nginx_headers"])


def read_wiring(specs: dict[str, dict]) -> dict[str, str]:
    """What the playbooks hand to the roles, and the variable each value comes from."""
    bound: dict[str, str] = {}
    for playbook in sorted((COLLECTION / "playbooks").glob("*.yml")):
        for name, value in bindings(read(playbook)):
            if name in specs:
                owners = re.findall(r"\{\{ (\w+) \}\}", str(value))
                bound[name] = owners[0] if len(owners) == 1 else ""
    return bound


def bindings(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        yield from (node.get("vars") or {}).items()
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from bindings(item)


def variable_files(*folders: str, kinds: Iterable[str] = ("group_vars", "host_vars")) -> Iterator[Path]:
    """What lies in the folders of variables, a name for each group or host."""
    for folder, kind in itertools.product(folders, kinds):
        for path in sorted(Path(folder, kind).glob("[!.]*")):
            if path.is_dir() or path.suffix in ("", ".yml", ".yaml", ".json"):
                yield path


def said_twice(inventories: tuple[str, ...], *folders: str) -> tuple[tuple[str, str], ...]:
    """Where a name stands twice in one mapping, if that is not an error of Ansible's already, as by our ansible.cfg."""
    if constants.DUPLICATE_YAML_DICT_KEY == "error":
        return ()
    found = []
    for top in (*map(Path, inventories), *variable_files(*folders)):
        for path in [top] if top.is_file() else sorted(top.rglob("*.y*ml")) if top.is_dir() else []:
            with contextlib.suppress(yaml.YAMLError, UnicodeDecodeError, OSError):
                for document in yaml.compose_all(path.read_text(), Loader=LOADER):
                    found += [(f"{path}:{key.start_mark.line + 1}", key.value) for key in second_keys(document)]
    return tuple(dict.fromkeys(found))


def second_keys(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    known = set()
    for child in node.value if isinstance(node, yaml.CollectionNode) else ():
        key, value = child if isinstance(node, yaml.MappingNode) else (None, child)
        if isinstance(key, yaml.ScalarNode) and key.value != "<<":
            if key.value in known:
                yield key
            known.add(key.value)
        yield from second_keys(value)


def settle(templar, variables: dict[str, Any], specs: dict[str, dict], names=None):
    """What the variables come to, defaults included, and why others come to nothing."""
    defaults = {name: spec["default"] for name, spec in specs.items() if "default" in spec}
    everything = {**{name: trusted(value) for name, value in defaults.items()}, **variables}
    templar = templar.copy_with_new_env(available_variables=everything)
    values: dict[str, Any] = {}
    failed: dict[str, Failure] = {}
    for name in names or specs:
        if name not in everything:
            continue
        try:
            values[name] = templar.template(everything[name])
        except AnsibleError as error:
            # Facts are known only once the host has been asked.
            raw = variables.get(name)
            facts = any("ansible_facts" in text for text in leaves(raw) if isinstance(text, str))
            if name in variables and not facts:
                failed[name] = why(error)
    if values.get("site_names_served") == "all":
        values["site_names_served"] = values.get("site_domains", [])
    return values, failed


def trusted(default: Any) -> Any:
    """A default of the roles' own, of which the expressions may be evaluated."""
    return trust_as_template(default) if isinstance(default, str) else default


def why(error: AnsibleError) -> Failure:
    text = str(error)
    if "undecryptable" in text:
        return "cannot be decrypted", "give the password of the vault, as by --ask-vault-pass", ...
    if unset := re.search(r"'(\w+)' is undefined", text):
        advice = f"set {unset[1]}, or write the value itself"
        return f"uses {unset[1]}, which is not set", advice, ...
    return "its expression fails", "mend what is between {{ and }}", text.partition("\n")[0]


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        spec = {
            "roles": {"type": "list", "elements": "str", "required": True},
            "groups": {"type": "list", "elements": "str", "default": list(GROUPS)},
            "deploys": {"type": "bool", "default": True},
            "source": {"type": "path"},
        }
        _result, arguments = self.validate_argument_spec(spec)
        case = self.case(arguments["roles"], task_vars or {})
        case.deploys, case.needs = arguments["deploys"], frozenset(arguments["groups"])
        if arguments["source"]:
            where = "source"
            judged = source_is_a_project(case, Path(arguments["source"]), case.values["django_source"])
            found = [problem.line(secret=False) for problem in judged]
        else:
            where = "inventory"
            found = problems(case)
        if found:
            count = f"{len(found)} problem{'s' if len(found) > 1 else ''}"
            raise AnsibleActionFail("\n".join([f"{count} in the {where}:", *found]))
        return {**result, "changed": False}

    def case(self, roles: list[str], variables: dict[str, Any]) -> Case:
        specs = read_specs(roles)
        values, failed = settle(self._templar, variables, specs)
        # With a comma it is a list of hosts.
        sources = tuple(source for source in context.CLIARGS["inventory"] if "," not in source)
        return Case(
            host=variables["inventory_hostname"],
            specs=specs,
            given=variables,
            values=values,
            failed=failed,
            groups=variables["groups"],
            bound=read_wiring(specs),
            run=variables["ansible_play_hosts_all"],
            typed=frozenset(load_extra_vars(self._loader)),
            group_files=frozenset(path.stem for path in variable_files(*self.folders(variables), kinds=["group_vars"])),
            missing=tuple(source for source in sources if not os.path.exists(source)),
            twice=said_twice(sources, *self.folders(variables)),
            login=self.plain(variables, "ansible_user"),
            neighbours=dict(self.neighbours(variables, specs)),
            colleagues=dict(self.colleagues(variables, specs)),
            find_source=self.find_source,
            find_file=self.find_file,
            read_file=self.read_file,
        )

    @staticmethod
    def folders(variables: dict[str, Any]) -> list[str]:
        """Where Ansible looks for group_vars and host_vars."""
        return list(filter(None, (variables.get("inventory_dir"), variables.get("playbook_dir"))))

    def plain(self, variables: dict[str, Any], name: str) -> str:
        """A variable of Ansible's own as a text; one that cannot be told is none."""
        return str(settle(self._templar, variables, {}, [name])[0].get(name, ""))

    def neighbours(self, variables, specs) -> Iterator[tuple[str, dict]]:
        here = self.address(variables)
        names = (
            *ONE_SITE,
            *("nginx_domains", "django_media_root", "django_config_dir"),
            *("letsencrypt_share_port", "letsencrypt_directory_url", "letsencrypt_eab_kid"),
            *("valkey_port", *HOST_WIDE),
            *(n for n, spec in specs.items() if spec.get("role") == "host"),
        )
        for other, theirs in self.others(variables):
            if self.address(theirs) == here:
                yield other, settle(self._templar, theirs, specs, names)[0]

    def colleagues(self, variables, specs) -> Iterator[tuple[str, dict]]:
        site = self.plain(variables, "site_name")
        for other, theirs in self.others(variables):
            if site and self.plain(theirs, "site_name") == site:
                yield other, settle(self._templar, theirs, specs, ("host_address", *AGREED))[0]

    def others(self, variables) -> Iterator[tuple[str, dict]]:
        names = {host for group in GROUPS for host in variables["groups"].get(group, ())}
        for other in sorted(names - {variables["inventory_hostname"]}):
            yield other, variables["hostvars"].raw_get(other)

    def address(self, variables) -> tuple[str, str]:
        host = self.plain(variables, "ansible_host") or variables["inventory_hostname"]
        return host, self.plain(variables, "ansible_port") or "22"

    def find_source(self, value: str) -> Path:
        """Where the release action looks for it."""
        return Path(self._loader.path_dwim(os.path.expanduser(value)))

    def find_file(self, value: str) -> bool:
        try:
            return os.path.isfile(self._find_needle("files", value))
        except AnsibleError:
            return False

    def read_file(self, value: str) -> str:
        """What it holds, decrypted where it is encrypted by ansible-vault."""
        return self._loader.get_text_file_contents(self._find_needle("files", value))

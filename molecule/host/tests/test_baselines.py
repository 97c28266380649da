"""dev-sec's baselines: what each control asks for is in force, or waivers.yml says why not.

They are linux-baseline 2.10.0 (os, package, sysctl), ssh-baseline 2.8.1 (ssh, sshd), nginx-baseline 2.5.1 and
postgres-baseline 3.1.1; the controls keep their numbers. What the originals look up in files is asked of the kernel,
of the daemons and of a visitor's browser here.
"""

from __future__ import annotations

import fnmatch
import functools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

#: Asks a site's host for names and what they stand for.
Source = Callable[[Any], dict[str, str]]
#: What each source shall say: a name, and the expression that all of its value matches; one that is not there is "".
Asks = dict[Source, dict[str, str]]

# The sources


def pairs(text: str) -> dict[str, str]:
    """A name and its value on each line; the values of a name that comes again stand side by side."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, value = [*re.split(r"\s*=\s*|\s+", line.strip(), maxsplit=1), ""][:2]
        found[name] = f"{found.get(name, '')} {value}".strip()
    return found


def says(command: str) -> Source:
    return lambda site: pairs(site.host.check_output(command))


# Some settings nobody may read.
kernel = says("sysctl --all 2>/dev/null || true")
sshd = says("sshd -T")
ssh = says("ssh -G localhost")
packages = says("dpkg-query --show --showformat '${Package} ${db:Status-Status}\\n'")
mounts = says("cut -d' ' -f2,4 /proc/self/mounts")
logins = says("cat /etc/login.defs")
auditd = says("cat /etc/audit/auditd.conf 2>/dev/null || true")


def files(site) -> dict[str, str]:
    """Kind, owner, group and mode of each path, which may be a pattern of the shell."""
    paths = " ".join(f"'{path}'" for path in asked(files))
    stat = "stat --format '%F %U:%G %a' $path 2>/dev/null"
    return pairs(site.host.check_output(f'for path in {paths}; do echo "$path $({stat})"; done'))


def shell(site) -> dict[str, str]:
    """What commands say, complaints included, so that one that is missing does not pass for one that found nothing."""
    commands = asked(shell)
    script = "\n".join(f"printf '\\0'; {{ {command}; }} 2>&1" for command in commands)
    _, *said = site.host.run(script).stdout.split("\0")
    return dict(zip(commands, map(str.strip, said), strict=True))


def nginx(site) -> dict[str, str]:
    """Directives as they are in force in servers and locations, those of ssl where TLS is spoken; several by `;`."""
    parts = re.split(
        r"^# configuration file (.+):$", site.host.check_output("nginx -T 2>/dev/null"), flags=re.MULTILINE
    )
    files = dict(zip(parts[1::2], parts[2::2], strict=True))
    found = defaultdict(set)
    for settings in inherited(*block(words_of(files, "/etc/nginx/nginx.conf"))):
        for name, value in settings.items():
            if "listen" in settings and (" ssl" in settings["listen"] or not name.startswith("ssl_")):
                found[name].add(value)
    return {name: "; ".join(sorted(values)) for name, values in found.items()}


def words_of(files: dict[str, str], pattern: str) -> Iterator[str]:
    """What the files say, with what they include in its place."""
    for path in fnmatch.filter(files, str(Path("/etc/nginx", pattern))):
        words = re.findall(r"""#.*|"[^"]*"|'[^']*'|[{};]|[^\s{};"']+""", files[path])
        words = iter([word for word in words if word[0] != "#"])
        for word in words:
            if word == "include":
                yield from words_of(files, next(words))
                assert next(words) == ";"
            else:
                yield word


def block(words: Iterator[str]) -> tuple[dict[str, str], list]:
    """The directives of a block, and the blocks in it."""
    settings, blocks, line = {}, [], []
    for word in words:
        if word == "}":
            break
        if word == "{":
            blocks.append(block(words))
            line = []
        elif word == ";":
            settings[line[0]] = " ".join(line[1:])
            line = []
        else:
            line.append(word.strip("\"'"))
    return settings, blocks


def inherited(settings: dict[str, str], blocks: list) -> Iterator[dict[str, str]]:
    yield settings
    for inner, further in blocks:
        yield from inherited(settings | inner, further)


def answers(site) -> dict[str, str]:
    """Status and headers of what a visitor gets."""
    requests = {
        "page": ["/"],
        "redirect": [f"http://{site.canonical}/"],
        "asset": ["/static/no-such-file.css"],
        "upload": ["/media/no-such-file.html"],
        "TRACE": ["/", "--request", "TRACE"],
    }
    found = {}
    for name, request in requests.items():
        answer = site.get(*request)
        assert answer.status, answer
        found[f"{name} status"] = str(answer.status)
        found |= {f"{name} {header}": "\n".join(values) for header, values in answer.headers.items()}
    return found


#: What PostgreSQL is asked for beside its settings.
QUERIES = {
    "languages without trust": (
        "SELECT count(*) FROM pg_language WHERE NOT lanpltrusted AND lanname NOT IN ('internal', 'c')"
    ),
    "further languages": "SELECT count(*) FROM pg_language WHERE lanname NOT IN ('internal', 'c', 'sql', 'plpgsql')",
    "users without a password": "SELECT count(*) FROM pg_shadow WHERE passwd IS NULL",
    "users with a password": "SELECT count(*) FROM pg_shadow WHERE passwd IS NOT NULL",
    "passwords kept otherwise": "SELECT count(*) FROM pg_shadow WHERE passwd NOT LIKE 'SCRAM-SHA-256$%'",
    "mighty roles": "SELECT count(*) FROM pg_roles WHERE rolsuper OR rolcreaterole OR rolcreatedb",
    "readers of pg_authid": (
        "SELECT string_agg(DISTINCT grantee::text, ' ') FROM information_schema.role_table_grants"
        " WHERE table_name = 'pg_authid'"
    ),
    "ways in by socket": "SELECT string_agg(DISTINCT auth_method, ' ') FROM pg_hba_file_rules WHERE type = 'local'",
    "ways in by TLS": "SELECT string_agg(DISTINCT auth_method, ' ') FROM pg_hba_file_rules WHERE type = 'hostssl'",
    "ways in without TLS": "SELECT count(*) FROM pg_hba_file_rules WHERE type IN ('host', 'hostnossl')",
    "grants to everybody": (
        "SELECT count(*) FROM information_schema.table_privileges"
        " WHERE grantee = 'PUBLIC' AND table_schema NOT IN ('pg_catalog', 'information_schema')"
    ),
    # Who owns a table may always pass on what belongs to it.
    "grants that may be passed on": (
        "SELECT count(*) FROM information_schema.table_privileges"
        " WHERE is_grantable = 'YES' AND grantee NOT IN ('postgres', grantor)"
    ),
    "functions with the rights of their owner": "SELECT count(*) FROM pg_proc WHERE prosecdef",
}


def database(site) -> dict[str, str]:
    """The settings of PostgreSQL, and what the queries find in the site's database."""
    queries = ", ".join(f"'{name}', ({query})" for name, query in QUERIES.items())
    sql = f"SELECT (SELECT jsonb_object_agg(name, setting) FROM pg_settings) || jsonb_build_object({queries})"
    said = json.loads(site.host.check_output("runuser -u postgres -- psql -XAtq -d %s -c %s", site.name, sql))
    return {name: "" if value is None else str(value) for name, value in said.items()}


def is_container(site) -> bool:
    return site.host.run("systemd-detect-virt --container --quiet").rc == 0


# What the controls ask for

ONLY_ROOT = r"|.+ root:\S+ \d00"
NOT_SETUID = r"|.+ \d{1,3}"
NOT_INSTALLED = "(?!installed).*"

# Those that nobody needs who only serves a site.
SETUID = [
    *(f"/usr/bin/{name}" for name in ("rcp", "rlogin", "rsh", "lockfile", "dotlockfile", "arping", "mtr")),
    *(f"/usr/bin/mail-{name}" for name in ("lock", "unlock", "touchlock")),
    *(f"/usr/sbin/{name}" for name in ("usernetctl", "userisdnctl", "pppd", "arping", "uuidd")),
    *("/sbin/netreport", "/usr/lib/openssh/ssh-keysign", "/usr/libexec/openssh/ssh-keysign", "/usr/lib/pt_chown"),
    *("/usr/lib/evolution/camel-lock-helper-1.2", "/usr/lib/eject/dmcrypt-get-device", "/usr/lib/mc/cons.saver"),
]
# Without vfat a machine with EFI does not start, and without squashfs no snap.
FILESYSTEMS = (
    "cramfs freevxfs jffs2 hfs hfsplus udf"
    " $(pgrep -x snapd >/dev/null || echo squashfs) $([ -d /sys/firmware/efi ] || echo vfat)"
)
CPU = "/sys/devices/system/cpu/vulnerabilities"

CIPHERS = "chacha20-poly1305@openssh.com,aes256-gcm@openssh.com,aes128-gcm@openssh.com,aes256-ctr,aes192-ctr,aes128-ctr"
KEY_EXCHANGES = "sntrup761x25519-sha512@openssh.com,curve25519-sha256@libssh.org,diffie-hellman-group-exchange-sha256"
MACS = ",".join(f"{mac}-etm@openssh.com" for mac in ("hmac-sha2-512", "hmac-sha2-256", "umac-128"))
MACS += ",hmac-sha2-512,hmac-sha2-256"
TLS_CIPHERS = ":".join(
    f"ECDHE-{key}-{cipher}"
    for cipher in ("AES256-GCM-SHA384", "CHACHA20-POLY1305", "AES128-GCM-SHA256", "AES256-SHA384", "AES128-SHA256")
    for key in ("ECDSA", "RSA")
)


#: Those that a host in a container has, and those to come.
INTERFACES = ("all", "default", "eth0", "lo")


def ipv4(name: str, value: int) -> dict[str, str]:
    return {f"net.ipv4.conf.{which}.{name}": str(value) for which in INTERFACES}


def ipv6(name: str, value: int) -> dict[str, str]:
    return {f"net.ipv6.conf.{which}.{name}": str(value) for which in INTERFACES}


def mounted(option: str, *paths: str) -> Asks:
    return {mounts: dict.fromkeys(paths, rf"(\S*\b{option}\b\S*( |$))*")}


def missing(*names: str) -> Asks:
    return {packages: dict.fromkeys(names, NOT_INSTALLED)}


CONTROLS: dict[str, Asks] = {
    "os-01": {files: {"/etc/hosts.equiv": ""}},
    "os-02": {files: {"/etc/shadow": "regular file root:shadow 640"}},
    "os-03": {files: {"/etc/passwd": "regular file root:root 644"}},
    "os-03b": {shell: {"cut -d: -f2 /etc/passwd | sort -u": r"[x*](\n[x*])?"}},
    "os-04": {shell: {"env -i sh -lc 'echo \"$PATH\"'": "[^:.][^:]*(:[^:.][^:]*)*"}},
    "os-05": {
        files: {"/etc/login.defs": r"regular file root:root \d44"},
        logins: {
            "ENV_SUPATH": ".*/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin.*",
            "ENV_PATH": ".*/usr/local/bin:/usr/bin:/bin.*",
            "UMASK": ".*027.*",
            "PASS_MAX_DAYS": "60",
            "PASS_MIN_DAYS": "7",
            "PASS_WARN_AGE": "7",
            "LOGIN_RETRIES": "5",
            "LOGIN_TIMEOUT": "60",
            "UID_MIN": "1000",
            "GID_MIN": "1000",
        },
    },
    "os-05b": {
        files: {"/etc/login.defs": "regular file root:root 444"},
        logins: {"SYS_UID_MIN": "201", "SYS_UID_MAX": "999", "SYS_GID_MIN": "201", "SYS_GID_MAX": "999"},
    },
    "os-06": {files: dict.fromkeys(SETUID, NOT_SETUID)},
    "os-07": {shell: {f"cut -d: -f3 /etc/{name} | sort | uniq -d": "" for name in ("passwd", "group")}},
    "os-09": {
        shell: {
            # Files come and go while it looks.
            r"find / -maxdepth 3 -path /proc -prune -o \( -iname .rhosts -o -iname .netrc \) -print 2>/dev/null": ""
        }
    },
    "os-10": {
        shell: {
            f"rules=$(modprobe --showconfig); for name in {FILESYSTEMS}; do"
            ' echo "$rules" | grep -qE "^install $name /bin/(true|false)" || echo "$name"; done': ""
        }
    },
    "os-11": {files: {"/var/log": r"directory root:(root|syslog) \d+"}},
    "os-12": {shell: {f"[ ! -d {CPU} ] || grep -ri vulnerable {CPU}": ""}},
    "os-13": {
        files: {"/etc/crontab": ONLY_ROOT}
        | {f"/etc/cron.{when}": ONLY_ROOT for when in ("hourly", "daily", "weekly", "monthly", "d")}
    },
    "os-14": mounted("noexec", "/boot", "/dev", "/dev/shm", "/tmp", "/var/log", "/var/log/audit", "/var/tmp"),
    "os-15": mounted(
        "nosuid",
        *("/boot", "/dev", "/dev/shm", "/home", "/run", "/tmp", "/var", "/var/log", "/var/log/audit", "/var/tmp"),
    ),
    "os-16": mounted(
        "nodev", *("/boot", "/dev/shm", "/home", "/run", "/tmp", "/var", "/var/log", "/var/log/audit", "/var/tmp")
    ),
    # The names that the originals ask for, and Debian's.
    "package-01": missing("inetd", "xinetd", "openbsd-inetd", "inetutils-inetd"),
    "package-02": missing("telnetd", "telnetd-ssl", "inetutils-telnetd"),
    "package-03": missing("rsh-server", "rsh-redone-server"),
    "package-05": missing("ypserv"),
    "package-06": missing("tftp-server", "tftpd", "tftpd-hpa", "atftpd"),
    "package-08": {
        packages: {"auditd": "installed"},
        auditd: {
            "log_file": "/var/log/audit/audit.log",
            "log_format": "(?i)raw",
            "flush": "(?i)incremental(_async)?",
            "max_log_file_action": "(?i)keep_logs",
            "space_left": "75",
            "action_mail_acct": "root",
            "space_left_action": "(?i)syslog",
            "admin_space_left": "50",
            **dict.fromkeys(("admin_space_left_action", "disk_full_action", "disk_error_action"), "(?i)suspend"),
        },
    },
    "package-09": missing("prelink"),
    "sysctl-01": {kernel: {"net.ipv4.ip_forward": "0", "net.ipv4.conf.all.forwarding": "0"}},
    "sysctl-02": {kernel: ipv4("rp_filter", 1)},
    "sysctl-03": {kernel: {"net.ipv4.icmp_ignore_bogus_error_responses": "1"}},
    "sysctl-04": {kernel: {"net.ipv4.icmp_echo_ignore_broadcasts": "1"}},
    "sysctl-05": {kernel: {"net.ipv4.icmp_ratelimit": "100"}},
    "sysctl-06": {kernel: {"net.ipv4.icmp_ratemask": "88089"}},
    "sysctl-07": {kernel: {"net.ipv4.tcp_timestamps": "0"}},
    "sysctl-08": {kernel: {"net.ipv4.conf.all.arp_ignore": "[12]"}},
    "sysctl-09": {kernel: {"net.ipv4.conf.all.arp_announce": "2"}},
    "sysctl-10": {kernel: {"net.ipv4.tcp_rfc1337": "1"}},
    "sysctl-11": {kernel: {"net.ipv4.tcp_syncookies": "1"}},
    "sysctl-12": {kernel: ipv4("shared_media", 1)},
    "sysctl-13": {kernel: ipv4("accept_source_route", 0) | ipv6("accept_source_route", 0)},
    "sysctl-14": {kernel: ipv4("accept_redirects", 0)},
    "sysctl-15": {kernel: ipv4("secure_redirects", 0)},
    "sysctl-16": {kernel: ipv4("send_redirects", 0)},
    "sysctl-17": {kernel: ipv4("log_martians", 1)},
    "sysctl-19": {kernel: {"net.ipv6.conf.all.forwarding": "0"}},
    "sysctl-20": {kernel: ipv6("accept_redirects", 0)},
    "sysctl-21": {kernel: ipv6("router_solicitations", 0)},
    "sysctl-22": {kernel: {"net.ipv6.conf.default.accept_ra_rtr_pref": "0"}},
    "sysctl-23": {kernel: {"net.ipv6.conf.default.accept_ra_pinfo": "0"}},
    "sysctl-24": {kernel: {"net.ipv6.conf.default.accept_ra_defrtr": "0"}},
    "sysctl-25": {kernel: ipv6("accept_ra", 0)},
    "sysctl-26": {kernel: ipv6("autoconf", 0)},
    "sysctl-27": {kernel: {"net.ipv6.conf.default.dad_transmits": "0"}},
    "sysctl-28": {kernel: {"net.ipv6.conf.default.max_addresses": "1"}},
    "sysctl-29": {kernel: {"kernel.modules_disabled": "0"}},
    "sysctl-30": {kernel: {"kernel.sysrq": "0"}},
    "sysctl-31a": {kernel: {"fs.suid_dumpable": "[02]"}},
    "sysctl-31b": {shell: {"[ $(sysctl -n fs.suid_dumpable) != 2 ] || sysctl -n kernel.core_pattern": r"|\|?/.*"}},
    "sysctl-32": {kernel: {"kernel.randomize_va_space": "2"}},
    "sysctl-33": {shell: {"grep -m1 -ow nx /proc/cpuinfo": "nx"}},
    "sysctl-34": {
        kernel: {
            "fs.protected_fifos": "[12]",
            "fs.protected_hardlinks": "1",
            "fs.protected_regular": "2",
            "fs.protected_symlinks": "1",
        }
    },
    "sysctl-35": {kernel: {"kernel.yama.ptrace_scope": "[23]"}},
    "ssh-01": {files: {"/etc/ssh/ssh_config": "regular file root:root 644"}},
    "ssh-02": {ssh: {"addressfamily": "inet6?|any"}},
    "ssh-03": {ssh: {"port": "22"}},
    # What an OpenSSH of today does not know any more is in nobody's way.
    "ssh-04": {ssh: {"protocol": "|2"}},
    "ssh-05": {ssh: {"batchmode": "no"}},
    "ssh-06": {ssh: {"checkhostip": "yes"}},
    "ssh-07": {ssh: {"stricthostkeychecking": "ask|yes|true"}},
    "ssh-08": {ssh: {"ciphers": re.escape(CIPHERS)}},
    "ssh-09": {ssh: {"kexalgorithms": re.escape(KEY_EXCHANGES)}},
    "ssh-10": {ssh: {"macs": re.escape(MACS)}},
    "ssh-11": {ssh: {"forwardagent": "no"}},
    "ssh-12": {ssh: {"forwardx11": "no"}},
    "ssh-13": {ssh: {"hostbasedauthentication": "no"}},
    "ssh-14": {ssh: {"rhostsrsaauthentication": "|no"}},
    "ssh-15": {ssh: {"rsaauthentication": "|yes"}},
    "ssh-16": {ssh: {"passwordauthentication": "no"}},
    "ssh-17": {ssh: {"gssapiauthentication": "no"}},
    "ssh-18": {ssh: {"gssapidelegatecredentials": "no"}},
    "ssh-19": {ssh: {"tunnel": "no|false"}},
    "ssh-20": {ssh: {"permitlocalcommand": "no"}},
    "ssh-21": {ssh: {"useroaming": "|no"}},
    "ssh-22": {
        ssh: {"ciphers": re.escape(CIPHERS), "kexalgorithms": re.escape(KEY_EXCHANGES), "macs": re.escape(MACS)}
    },
    "sshd-01": {sshd: {"ciphers": re.escape(CIPHERS)}},
    "sshd-02": {sshd: {"kexalgorithms": re.escape(KEY_EXCHANGES)}},
    "sshd-03": {sshd: {"macs": re.escape(MACS)}},
    "sshd-04": {files: {"/etc/ssh": "directory root:root 755"}},
    "sshd-05": {files: {"/etc/ssh/sshd_config": "regular file root:root 600"}},
    "sshd-06": {sshd: {"permitrootlogin": "no|without-password|prohibit-password"}},
    "sshd-07": {sshd: {"port": "22"}},
    "sshd-08": {sshd: {"addressfamily": "inet6?|any"}},
    "sshd-09": {sshd: {"listenaddress": ".+"}},
    "sshd-10": {sshd: {"protocol": "|2"}},
    "sshd-11": {sshd: {"strictmodes": "yes"}},
    "sshd-12": {sshd: {"syslogfacility": "AUTH"}},
    "sshd-13": {sshd: {"loglevel": "VERBOSE"}},
    "sshd-14": {sshd: {"hostkey": " ".join(f"/etc/ssh/ssh_host_{kind}_key" for kind in ("rsa", "ecdsa", "ed25519"))}},
    "sshd-15": {sshd: {"uselogin": ""}},
    "sshd-16": {sshd: {"useprivilegeseparation": ""}},
    "sshd-17": {sshd: {"permituserenvironment": "no"}},
    "sshd-18": {sshd: {"logingracetime": "30"}},
    "sshd-19": {sshd: {"maxauthtries": "2"}},
    "sshd-20": {sshd: {"maxsessions": "10"}},
    "sshd-21": {sshd: {"maxstartups": "10:30:60"}},
    "sshd-22": {sshd: {"pubkeyauthentication": "yes"}},
    "sshd-23": {sshd: {"ignorerhosts": "yes"}},
    "sshd-24": {sshd: {"ignoreuserknownhosts": "yes"}},
    "sshd-25": {sshd: {"hostbasedauthentication": "no"}},
    "sshd-27": {sshd: {"passwordauthentication": "no"}},
    "sshd-28": {sshd: {"permitemptypasswords": "no"}},
    # Its name of today.
    "sshd-29": {sshd: {"kbdinteractiveauthentication": "no"}},
    "sshd-30": {sshd: {"kerberosauthentication": "no"}},
    "sshd-31": {sshd: {"kerberosorlocalpasswd": "no"}},
    "sshd-32": {sshd: {"kerberosticketcleanup": "yes"}},
    "sshd-33": {sshd: {"gssapiauthentication": "no"}},
    "sshd-34": {sshd: {"gssapicleanupcredentials": "yes"}},
    "sshd-35": {sshd: {"tcpkeepalive": "no"}},
    "sshd-36": {sshd: {"clientaliveinterval": "300"}},
    "sshd-37": {sshd: {"clientalivecountmax": "3"}},
    "sshd-38": {sshd: {"permittunnel": "no"}},
    "sshd-39": {sshd: {"allowtcpforwarding": "no"}},
    "sshd-40": {sshd: {"allowagentforwarding": "no"}},
    "sshd-41": {sshd: {"gatewayports": "no"}},
    "sshd-42": {sshd: {"x11forwarding": "no"}},
    "sshd-43": {sshd: {"x11uselocalhost": "yes"}},
    "sshd-44": {sshd: {"printmotd": "no"}},
    "sshd-45": {sshd: {"printlastlog": "no"}},
    "sshd-46": {sshd: {"banner": "none"}},
    # Debian 12 leaves the setting out of what sshd -T says.
    "sshd-47": {
        shell: {"bash -c 'read -r banner < /dev/tcp/127.0.0.1/22; echo \"$banner\"'": r"SSH-2\.0-OpenSSH_[\d.]+p\d+"}
    },
    "sshd-48": {shell: {"awk '$5 ~ /^[0-9]+$/ && $5 < 2047' \"$(sshd -T | sed -n 's/^modulifile //p')\"": ""}},
    "sshd-49": {
        shell: {"ps -C sshd -o args= | grep -F 'sshd -D'": r"(?!.*-o *(Ciphers|KexAlgorithms|HostKeyAlgorithms)).+"}
    },
    "sshd-50": {
        shell: {
            "for key in $(sshd -T | sed -n 's/^hostkey //p'); do ssh-keygen -l -f $key; done"
            " | awk '!/\\((RSA|ED25519|ECDSA)\\)$/ || /RSA/ && $1 < 4096'": ""
        }
    },
    "nginx-01": {
        shell: {
            "getent passwd www-data": "www-data:.+",
            "ps -C nginx -o user= -o args= | awk '/worker/ {print $1}' | sort -u": "www-data",
        }
    },
    "nginx-02": {files: {"/etc/nginx/nginx.conf": r"regular file root:root \d\d0"}},
    "nginx-03": {files: {"/etc/nginx/conf.d/default.conf": "", "/etc/nginx/sites-enabled/default": ""}},
    "nginx-04": {shell: {"pgrep -fc '^nginx: master process'": "1"}},
    "nginx-05": {answers: {f"{name} server": "nginx" for name in ("page", "redirect", "asset")}},
    "nginx-06": {
        nginx: {
            "client_body_buffer_size": "1k",
            "client_max_body_size": "1k",
            "client_header_buffer_size": "1k",
            "large_client_header_buffers": "2 1k",
        }
    },
    "nginx-07": {nginx: {"limit_conn_zone": r"\$binary_remote_addr zone=default:10m", "limit_conn": "default 5"}},
    "nginx-08": {answers: {"page x-frame-options": "SAMEORIGIN"}},
    "nginx-09": {answers: {"page x-xss-protection": "1; mode=block"}},
    "nginx-10": {answers: {f"{name} x-content-type-options": "nosniff" for name in ("page", "asset", "upload")}},
    "nginx-12": {
        nginx: {
            "ssl_protocols": r"TLSv1\.[23]|TLSv1\.2 TLSv1\.3|TLSv1\.3 TLSv1\.2",
            "ssl_session_tickets": "off",
            "ssl_ciphers": TLS_CIPHERS,
            "ssl_prefer_server_ciphers": "on",
            "ssl_dhparam": "/etc/nginx/dh4096.pem",
        }
    },
    "nginx-13": {answers: {"page strict-transport-security": "max-age=15768000"}},
    "nginx-14": {shell: {r"nginx -T 2>/dev/null | grep -c 'request_method *!~ *^(GET|HEAD|POST)\$'": r"[1-9]\d*"}},
    "nginx-15": {answers: {"page content-security-policy": "script-src 'self'; object-src 'self'"}},
    "nginx-16": {answers: {"page set-cookie": r"((?=.*; HttpOnly)(?=.*; Secure).+\n?)+"}},
    "nginx-17": {
        nginx: {
            "keepalive_timeout": "5 5",
            **dict.fromkeys(("client_body_timeout", "client_header_timeout", "send_timeout"), "10s?"),
        }
    },
    "postgres-02": {database: {"server_version": r"1[3-7]\.\d+( \(.+\))?"}},
    "postgres-03": {shell: {"pgrep -fc '^/usr/lib/postgresql/[0-9]+/bin/postgres '": "1"}},
    "postgres-04": {database: {"languages without trust": "0"}},
    "postgres-05": {database: {"further languages": "0"}},
    "postgres-06": {database: {"users without a password": "0"}},
    "postgres-07": {database: {"password_encryption": "scram-sha-256", "passwords kept otherwise": "0"}},
    "postgres-08": {database: {"mighty roles": "1"}},
    "postgres-09": {database: {"readers of pg_authid": "postgres"}},
    "postgres-10": {
        files: {
            "/etc/postgresql/*/main": r"directory postgres:\S+ 700",
            "/etc/postgresql/*/main/postgresql.conf": r"regular file postgres:\S+ 640",
            "/etc/postgresql/*/main/pg_hba.conf": r"regular file postgres:\S+ 600",
        }
    },
    "postgres-11": {database: {"ssl": "on"}},
    "postgres-12": {database: {"ssl_ciphers": "ALL:!ADH:!LOW:!EXP:!MD5:@STRENGTH"}},
    "postgres-13": {database: {"ways in by socket": "peer"}},
    "postgres-14": {database: {"ways in by TLS": "|scram-sha-256"}},
    "postgres-15": {database: {"ways in without TLS": "0"}},
    "postgres-16": {
        database: {
            **dict.fromkeys(("logging_collector", "log_connections", "log_disconnections"), "on"),
            **dict.fromkeys(("log_duration", "log_hostname"), "on"),
            "log_directory": "(?!log$).+",
            "log_line_prefix": "%t %u %d %h",
        }
    },
    "postgres-17": {database: {"grants to everybody": "0"}},
    "postgres-18": {database: {"grants that may be passed on": "0"}},
    "postgres-19": {database: {"functions with the rights of their owner": "0"}},
    "postgres-20": {
        files: {
            "/var/lib/postgresql/*/main": r"directory postgres:\S+ 700",
            "/var/log/postgresql": r"directory postgres:\S+ 700",
        }
    },
}

# What is in force where a waiver says that something as good or better takes the place.

GOOD_CIPHERS = r"((chacha20-poly1305|aes(128|256)-gcm)@openssh\.com,?|aes(128|192|256)-ctr,?)+"
NO_SHA1 = "(?!.*sha1).+"

INSTEAD: dict[str, Asks] = {
    "os-05": {shell: {"awk -F: '$2 !~ /^[!*]/ {print $1}' /etc/shadow": ""}},
    "os-06": {ssh: {"enablesshkeysign": "no"}},
    "sysctl-07": {kernel: {"net.ipv4.tcp_timestamps": "1"}},
    "ssh-06": {ssh: {"stricthostkeychecking": "ask|yes|true"}},
    "ssh-08": {ssh: {"ciphers": GOOD_CIPHERS}},
    "ssh-09": {ssh: {"kexalgorithms": NO_SHA1}},
    "ssh-17": {ssh: {"gssapidelegatecredentials": "no"}},
    "sshd-01": {sshd: {"ciphers": GOOD_CIPHERS}},
    "sshd-02": {sshd: {"kexalgorithms": "(?!.*(sha1|nistp|group1,|group14)).+"}},
    "sshd-03": {sshd: {"macs": r"((hmac-sha2-(256|512)|umac-128)-etm@openssh\.com,?)+"}},
    "sshd-14": {sshd: {"hostkey": "/etc/ssh/ssh_host_ed25519_key( /etc/ssh/ssh_host_rsa_4096_key)?"}},
    "sshd-19": {sshd: {"maxauthtries": "3"}},
    "sshd-31": {sshd: dict.fromkeys(("kerberosauthentication", "passwordauthentication"), "no")},
    "sshd-36": {sshd: {"clientaliveinterval": "[1-9][0-9]?"}},
    "sshd-37": {sshd: {"clientalivecountmax": "[1-3]"}},
    "sshd-45": {sshd: {"printlastlog": "yes"}},
    # 0 is that of the pages for a closed and a broken site, which are for whoever came with whatever.
    "nginx-06": {nginx: {"client_max_body_size": r"(0; )?\d{1,2}m"}},
    "nginx-08": {answers: {"page x-frame-options": "DENY"}},
    "nginx-09": {answers: {"page x-xss-protection": "|0"}},
    "nginx-12": {
        nginx: {
            "ssl_protocols": r"TLSv1\.2 TLSv1\.3",
            "ssl_ciphers": r"(ECDHE-(ECDSA|RSA)-(AES(128|256)-GCM-SHA(256|384)|CHACHA20-POLY1305):?)+",
        }
    },
    "nginx-13": {answers: {"page strict-transport-security": r"max-age=[3-9]\d{7}\b.*"}},
    "nginx-14": {answers: {"TRACE status": "405"}},
    "nginx-15": {answers: {"upload content-security-policy": "default-src 'none';.* sandbox"}},
    "nginx-16": {answers: {"page set-cookie": r"((?=.*; Secure).+\n?)+"}},
    "nginx-17": {nginx: dict.fromkeys(("client_body_timeout", "client_header_timeout", "send_timeout"), "10s?")},
    "postgres-06": {database: {"users with a password": "0", "ways in by socket": "peer"}},
    "postgres-10": {
        files: {
            "/etc/postgresql/*/main": "directory postgres:postgres 755",
            "/etc/postgresql/*/main/pg_hba.conf": "regular file root:postgres 640",
            "/etc/postgresql/*/main/conf.d/django_vps.conf": "regular file root:postgres 640",
        }
    },
    "postgres-12": {database: {"listen_addresses": ""}},
    "postgres-16": {database: {"log_destination": "stderr", "log_line_prefix": ".*%m.*%u@%d.*"}},
    "postgres-20": {
        files: {"/var/lib/postgresql/*/main": r"directory postgres:\S+ 700"},
        shell: {"find /var/log/postgresql -type f -perm /o+rwx": ""},
    },
}

#: Why a control need not hold, everywhere or `where`: on one site, or in a container, whose kernel may be as it likes.
WAIVERS: dict[str, dict[str, str]] = {
    control: entry if isinstance(entry, dict) else {"reason": entry}
    for control, entry in yaml.safe_load((Path(__file__).parents[1] / "waivers.yml").read_text()).items()
}

# The tests


def asked(source: Source) -> list[str]:
    """All names that a source is asked for, so that one command can tell them all."""
    tables = [*CONTROLS.values(), *INSTEAD.values()]
    return list(dict.fromkeys(name for asks in tables for name in asks.get(source, {})))


def unlike(asks: Asks, found: Callable[[Source], dict[str, str]]) -> list[str]:
    """What is not as it is asked for."""
    return [
        f"{name} is {found(source).get(name, '')!r} and not {wanted!r}"
        for source, values in asks.items()
        for name, wanted in values.items()
        if not re.fullmatch(wanted, found(source).get(name, ""))
    ]


def judge(control: str, site, found: Callable) -> tuple[str, str]:
    """The verdict, and why."""
    wrong = unlike(CONTROLS[control], found)
    waiver = WAIVERS.get(control, {})
    where = waiver.get("where", site.name)
    is_waived = bool(waiver) and (where == site.name or (where == "container" and found(is_container)))
    if not wrong:
        is_stale = is_waived and where != "container"
        return ("STALE", "it holds, so take it out of waivers.yml") if is_stale else ("holds", "")
    if not is_waived:
        return "FAILS", "; ".join(wrong)
    if control not in INSTEAD:
        return "waived", waiver["reason"]
    wrong = unlike(INSTEAD[control], found)
    return ("FAILS", f"in its place: {'; '.join(wrong)}") if wrong else ("instead", waiver["reason"])


def table(verdicts: dict[tuple[str, str], tuple[str, str]]) -> str:
    sites = sorted({site for _, site in verdicts})
    lines = [f"{'control':11} | {' | '.join(f'{site:7}' for site in sites)} | reason"]
    for control in dict.fromkeys(control for control, _ in verdicts):
        said = [verdicts.get((control, site), ("", "")) for site in sites]
        reasons = " / ".join(dict.fromkeys(reason for _, reason in said if reason))
        lines.append(f"{control:11} | {' | '.join(f'{verdict:7}' for verdict, _ in said)} | {reasons}")
    return "\n".join(lines)


@pytest.fixture(scope="session")
def found(site) -> Callable:
    """What a source says of this host; each is asked once."""
    return functools.cache(lambda source: source(site))


@pytest.fixture(scope="session")
def verdicts(request):
    """What was said of each control on each site; in the end all of it is shown, and nothing is missing."""
    verdicts: dict[tuple[str, str], tuple[str, str]] = {}
    yield verdicts
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{table(verdicts)}\n{dict(Counter(verdict for verdict, _ in verdicts.values()))}")
    tests = [item for item in request.session.items if item.function is test_baseline_control_holds_or_is_waived]
    assert len(verdicts) == len(tests)


@pytest.mark.parametrize("control", CONTROLS)
def test_baseline_control_holds_or_is_waived(site, found, verdicts, control):
    verdict, reason = verdicts[control, site.name] = judge(control, site, found)
    assert verdict in ("holds", "waived", "instead"), reason
    if verdict != "holds":
        pytest.xfail(reason)


def test_all_controls_of_the_baselines_are_here():
    counted = Counter(control.partition("-")[0] for control in CONTROLS)
    assert counted == {"os": 17, "package": 7, "sysctl": 35, "ssh": 22, "sshd": 49, "nginx": 16, "postgres": 19}


def test_every_waiver_has_a_control_and_a_reason():
    assert CONTROLS.keys() >= WAIVERS.keys() >= INSTEAD.keys()
    for control, waiver in WAIVERS.items():
        assert {"reason"} <= waiver.keys() <= {"reason", "where"}, control
        assert len(waiver["reason"].split()) > 4, control

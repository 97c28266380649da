# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Check types of values that the system reads: paths, users, units, keys, addresses."""

from __future__ import annotations

import difflib
import ipaddress
import posixpath
import re
import shlex
import zoneinfo
from collections.abc import Mapping

from ansible_collections.django_vps.stack.plugins.plugin_utils.inventory import Refusal, Rule
from ansible_collections.django_vps.stack.plugins.plugin_utils.value_types import managed, matching, words

#: Names that Debian, the stack and cloud images use for users, services, databases and in /etc.
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
#: Units of the system and their templates, in addition to the reserved names.
UNITS = words(
    """
    apt-daily apt-daily-upgrade autovt console-getty container-getty debug-shell dpkg-db-backup e2scrub emergency fstrim
    getty ifup initrd keyboard-setup kmod man-db networkd-dispatcher procps rc-local rescue serial-getty user
    user-runtime-dir wg-quick wpa_supplicant
    """
)
#: Names of the user with sudo rights in cloud images.
CLOUD_USERS = words("admin administrator debian ubuntu ec2-user azureuser cloud-user vagrant ansible")
#: Folders of the system that cannot be a folder of a site, and those that cannot contain one either.
SYSTEM_FOLDERS = words(
    """
    / /etc /home /media /mnt /opt /run /srv /usr /var /var/backups /var/cache /var/lib /var/local
    /var/lock /var/log /var/mail /var/opt /var/run /var/spool /var/tmp /var/www /var/www/html
    """
)
FOREIGN_FOLDERS = re.compile(r"/(bin|boot|dev|lib(32|64)?|libx32|lost\+found|proc|root|sbin|sys|tmp|usr|var/tmp)(/.*)?")
#: Folders in /var/lib of programs of Debian and the stack.
DATA_FOLDERS = words(
    """
    apt aspell chrony cloud containerd dbus docker dpkg emacsen-common fail2ban git grub initramfs-tools letsencrypt lxc
    machines man-db misc mysql nfs nginx ntpsec os-prober pam php polkit-1 portables postfix postgresql private python
    redis sasl2 snapd sudo swapspace systemd tpm ucf ufw unattended-upgrades update-notifier usbutils valkey vim xfonts
    xml-core
    """
)
PUBLIC_KEY = (
    r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)"
    r"\s+AAAA[A-Za-z0-9+/]+={0,3}(\s.*)?"
)


def not_reserved(value: str) -> Refusal | None:
    if value in CLOUD_USERS:
        return "is the administrator of many cloud images", "use another name, such as shop"
    return not_of_the_system(value)


def not_of_the_system(value: str) -> Refusal | None:
    if value in RESERVED or value.startswith(("systemd-", "_")):
        return "is used by the system or the stack", "use another name, such as shop"
    return None


def not_a_unit(value: str) -> Refusal | None:
    if value in UNITS:
        return "is a unit of the system", "use another name, such as shop-gunicorn"
    return None


def path(value: str) -> Refusal | None:
    """Check a path on the host that needs no quoting in any configuration."""
    if not value.startswith("/"):
        return "expected an absolute path", "write a path that starts with /"
    if not re.fullmatch(r"[A-Za-z0-9_./-]+", value):
        return "expected a path without special characters", "use only letters, digits and _ . / -"
    if posixpath.normpath(value) != value or value.startswith("//"):
        return "expected a normalized path", f"write {posixpath.normpath('/' + value.lstrip('/'))}"
    if value in SYSTEM_FOLDERS or FOREIGN_FOLDERS.fullmatch(value):
        return "belongs to the system", "use a folder of its own for the site, such as /srv/shop"
    return None


def folder(value: str) -> Refusal | None:
    """Check a folder that the stack writes to and that must survive a reboot."""
    if refusal := path(value):
        return refusal
    top, *below = value.strip("/").split("/")
    if top == "run" or (top == "etc" and below[0] in RESERVED):
        return "belongs to the system", "use a folder of its own for the site, such as /srv/shop"
    return None


def home(value: str) -> Refusal | None:
    # The sandbox of the units hides /home.
    if value.startswith("/home/"):
        return "is in the home of a user", "use a folder of its own for the site, such as /srv/shop"
    return folder(value)


def uploads(value: str) -> Refusal | None:
    """Check a folder that the site will own, so that no other program may need it."""
    if refusal := folder(value):
        return refusal
    of_others = re.match(r"/etc/|/home/[^/]+\Z|/var/(cache|log|spool|mail|backups)/", value)
    data = re.match(r"/var/lib/([^/]+)", value)
    if of_others or (data and data[1] in DATA_FOLDERS):
        return "belongs to another program", "use a folder of its own for the site, such as /srv/shop/media"
    return None


def file_named(name: str) -> Rule:
    def rule(value: str) -> Refusal | None:
        if posixpath.basename(value) != name:
            return f"expected a path that ends in /{name}", f"write a path such as /etc/shop/tls/{name}"
        return path(value) or folder(posixpath.dirname(posixpath.dirname(value)))

    return rule


def job_name(value: str) -> Refusal | None:
    """Check the name of a service or a timer."""
    if value == "gunicorn":
        return "is the name of the application server", "use another name, such as worker"
    if re.fullmatch(r"[a-z][a-z0-9-]{0,31}", value):
        return None
    return "expected a name for a unit", "use a lower-case letter, then up to 31 lower-case letters, digits and dashes"


def command(value: str) -> Refusal | None:
    """Check a command that systemd runs as the site's user without a shell."""
    if re.match(r"\s*[@:+!|-]", value):
        return ("starts with a prefix that systemd interprets", "write the program first")
    if not re.match(r"\s*((/[\w.+-]+)+|\w[\w.+-]*)(\s|$)", value, re.ASCII):
        return (
            "expected a command that starts with a program",
            "write python manage.py db_worker, or the absolute path of a program",
        )
    if value.rstrip().endswith("\\"):
        return ("ends in a backslash, which would continue the line", "remove it")
    try:
        shlex.split(value)
    except ValueError:
        return "has an unclosed quote", "close it, or remove it"
    if ";" in re.sub(r"'.*?'|\".*?\"", "quoted", value).split():
        return ("has a semicolon, after which systemd starts a second command", "write one command")
    return None


def directive(managed_names: Mapping[str, str | None]) -> Rule:
    """Return a rule for a line of a unit, which is also an argument of systemd-run."""

    def rule(value: str) -> Refusal | None:
        name = re.fullmatch(r"([A-Z][A-Za-z]+)=[^%]*(?<!\\)", value)
        if not name:
            return ("expected a directive of a systemd service", "write one such as PrivateTmp=yes")
        return managed(managed_names, name[1])

    return rule


def public_key(value: str) -> Refusal | None:
    """Check a line of authorized_keys."""
    if re.fullmatch(rf'([a-zA-Z-]+(="[^"]*")?(,|\s))*{PUBLIC_KEY}', value):
        return None
    if "PRIVATE KEY" in value:
        return "expected a public key, got a private key", "use the file that ends in .pub"
    return "expected a public SSH key", "write one such as ssh-ed25519 AAAA... ada@laptop"


def bare_public_key(value: str) -> Refusal | None:
    refusal = public_key(value)
    if not refusal and not re.fullmatch(PUBLIC_KEY, value):
        return "expected a public SSH key without options", "remove the options: ssh-ed25519 AAAA... ci@forge"
    return refusal


def firewall_rule(value: str) -> Refusal | None:
    depth = 0
    for sign in re.sub(r'"[^"]*"', "", value):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if depth < 0 or sign in "#;":
            return "expected one rule with balanced braces", "write one rule, and close each brace"
    if depth or not re.search(r"\b(accept|drop|reject|jump|goto|log|counter|limit)\b", value):
        return "expected a rule of nftables", "write one such as ip saddr 192.0.2.0/24 tcp dport 9100 accept"
    return None


def network(value: str) -> Refusal | None:
    try:
        ipaddress.ip_network(value, strict=False)
        if not re.fullmatch(r"[^/]+(/[0-9]+)?", value):
            raise ValueError
    except ValueError:
        return "expected an address or a network", "write one such as 192.0.2.7 or 192.0.2.0/24"
    return None


def network_in_front(value: str) -> Refusal | None:
    if refusal := network(value):
        return refusal
    if ipaddress.ip_network(value, strict=False).prefixlen == 0:
        return "would trust every client", "write the networks of your reverse proxies"
    return None


def site_address(value: str) -> Refusal | None:
    try:
        found = ipaddress.ip_address(value)
    except ValueError:
        return "expected an IP address", "write one such as 10.0.0.11, without a port or a network"
    if found.is_loopback or found.is_unspecified or found.is_multicast or found.is_link_local:
        return "expected an address that other hosts can reach", "write one such as 10.0.0.11"
    if value != str(found):
        return "expected the short form of the address", f"write {found}"
    return None


def proxy(value: str) -> Refusal | None:
    if re.match(r"[^/]*//[^/]*@", value):
        return "has credentials, which every user of the host could read", "use a proxy without credentials"
    if re.fullmatch(r"http://[A-Za-z0-9.\[\]:-]+:[1-9][0-9]{0,4}/?", value):
        return None
    return "expected the address of a proxy", "write one such as http://proxy.example:3128"


def timezone(value: str) -> Refusal | None:
    known = zoneinfo.available_timezones()
    shape = re.fullmatch(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}", value)
    if shape and (not known or value in known):
        return None
    near = difflib.get_close_matches(value, known, 1)
    return "expected a time zone", f"write {near[0] if near else 'one such as Etc/UTC or Europe/Vienna'}"


def postgres_name(value: str) -> Refusal | None:
    if value in ("postgres", "template0", "template1", "public", "none") or value.startswith("pg_"):
        return "is reserved by PostgreSQL", "use another name, such as shop"
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,62}", value):
        return (
            "expected a name that PostgreSQL does not quote",
            "use a lower-case letter, then up to 62 lower-case letters, digits, _ and -",
        )
    return None


USER_NAME = matching(
    r"[a-z_][a-z0-9_-]{0,30}",
    "expected a name for a user",
    "use a lower-case letter, then up to 30 lower-case letters, digits, _ and -",
)
SERVICE_NAME = matching(r"[a-z][a-z0-9-]{0,60}", "expected a name for a unit", "write one such as shop-gunicorn")
ARCHIVE = matching(
    r"https?://[A-Za-z0-9.-]+(:[0-9]+)?(/[!-~]*)?",
    "expected the address of an archive",
    "write one that starts with https://",
)
DAY = r"(mon(day)?|tue(sday)?|wed(nesday)?|thu(rsday)?|fri(day)?|sat(urday)?|sun(day)?)"
DAYS = rf"{DAY}((\.\.|,|-){DAY})*"
PART = r"[0-9*][0-9*.,/]*"
DATE, TIME = rf"({PART}-)?{PART}[-~]{PART}", rf"{PART}:{PART}(:{PART})?"
RESTIC = re.compile(
    r"sftp:([^@:/\s]+@)?[^@:/\s]+:\S+|sftp://([^@:/\s]+@)?[^@:/\s]+(:\d+)?/\S+|s3:(https?://)?[^/\s]+/[^/\s]+\S*"
    r"|rest:https?://\S+|(b2|azure|gs|swift):[^:\s]+:\S*|rclone:[^:\s]+:\S*"
)
PERIODS = ("daily", "weekly", "monthly", "yearly")


def repository(value: str) -> Refusal | None:
    """Check an address of restic."""
    if value.startswith("/"):
        return folder(value)
    if re.match(r"s3:(https?://)?[^/]+/?$", value):
        return "has no bucket", "write s3:https://HOST/BUCKET or s3:https://HOST/BUCKET/PATH"
    if re.match(r"sftp:[^@]*:.*@[^/]*:", value):
        return "has a password, which ssh does not accept", "remove it, and use a key: sftp:USER@HOST:PATH"
    if not RESTIC.fullmatch(value):
        return (
            "expected a folder on the host or an address of restic",
            "write one such as sftp:backup@backup.example.com:shop or s3:https://s3.example.com/my-bucket/shop",
        )
    return None


def retention(period: str, number: object) -> Refusal | None:
    """Check an entry of a dictionary with the number of sets of each period."""
    if period not in PERIODS:
        return f"expected one of {', '.join(PERIODS)}", "write {daily: 7, weekly: 4, monthly: 6}"
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= 1000:
        return "expected a number from 0 to 1000", "write the number of sets to keep"
    return None


CALENDAR = matching(
    r"(?i)(minutely|hourly|daily|weekly|monthly|quarterly|semiannually|yearly|annually"
    rf"|{DAYS}( {DATE})?( {TIME})?|{DATE}( {TIME})?|{TIME})( [a-z][a-z0-9_+-]*(/[a-z0-9_+-]+)*)?",
    "expected a time in systemd's notation",
    'write one such as daily or "Mon *-*-* 03:30"',
)


def calendar(value: str) -> Refusal | None:
    """Check a time in systemd's notation."""
    if refusal := CALENDAR(value):
        return refusal
    parts = re.search(rf"({PART}):({PART})(?::({PART}))?", value)
    for part, most in zip(parts.groups(default="") if parts else (), (23, 59, 59), strict=False):
        # What follows a slash is a distance.
        if too_large := [number for number in re.findall(r"(?<![/\d.])\d+", part) if int(number) > most]:
            return f"has {too_large[0]} where at most {most} is possible", "write a time such as 03:30"
    return None

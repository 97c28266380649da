# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Types of values that the system reads: paths, users, units, keys, addresses."""

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
#: Bytes of a path to a socket (unix(7)).
SOCKET_PATH = 107
#: Below the home of a site.
SOCKET = "/releases/20261129T120000Z/gunicorn.sock"
PUBLIC_KEY = (
    r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)"
    r"\s+AAAA[A-Za-z0-9+/]+={0,3}(\s.*)?"
)


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
        return ("does not begin with a program", "write python manage.py db_worker, or the whole path of a program")
    if value.rstrip().endswith("\\"):
        return ("ends in a backslash, which would join the next line to it", "leave it out")
    try:
        shlex.split(value)
    except ValueError:
        return "has a quote that does not end", "write it twice, or leave it out"
    if ";" in re.sub(r"'.*?'|\".*?\"", "quoted", value).split():
        return ("has a semicolon of its own, with which systemd begins a second command", "write one command")
    return None


def directive(managed_names: Mapping[str, str | None]) -> Rule:
    """A line of a unit, and an argument of systemd-run."""

    def rule(value: str) -> Refusal | None:
        name = re.fullmatch(r"([A-Z][A-Za-z]+)=[^%]*(?<!\\)", value)
        if not name:
            return ("is no directive of a systemd service", "write one such as PrivateTmp=yes")
        return managed(managed_names, name[1])

    return rule


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
SERVICE_NAME = matching(r"[a-z][a-z0-9-]{0,60}", "is no name for a unit", "write one such as shop-gunicorn")
ARCHIVE = matching(
    r"https?://[A-Za-z0-9.-]+(:[0-9]+)?(/[!-~]*)?", "is no address of an archive", "write one that starts with https://"
)
DAY = r"(mon(day)?|tue(sday)?|wed(nesday)?|thu(rsday)?|fri(day)?|sat(urday)?|sun(day)?)"
DAYS = rf"{DAY}((\.\.|,|-){DAY})*"
PART = r"[0-9*][0-9*.,/]*"
DATE, TIME = rf"({PART}-)?{PART}[-~]{PART}", rf"{PART}:{PART}(:{PART})?"
CALENDAR = matching(
    r"(?i)(minutely|hourly|daily|weekly|monthly|quarterly|semiannually|yearly|annually"
    rf"|{DAYS}( {DATE})?( {TIME})?|{DATE}( {TIME})?|{TIME})( [a-z][a-z0-9_+-]*(/[a-z0-9_+-]+)*)?",
    "is no time as systemd writes it",
    'write one such as daily or "Mon *-*-* 03:30"',
)

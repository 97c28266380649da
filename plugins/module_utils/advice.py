# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Find advice for a failed step of a deploy, by its output."""

from __future__ import annotations

import re

#: Advice for a file that cannot be written.
WRITABLE_ADVICE = (
    "The site writes its uploads and nothing else: let it log to the console, or name the folder in"
    " django_shared_paths."
)
#: An output of a failed compilation.
COMPILES = r"(?is)^install.*(gcc|cc1|compiler|Python\.h|pkg-config|rustc|cmake|_config|development packages)"
#: Patterns of such an output, each with the Debian package that it needs.
COMPILED = (
    (r"gcc|cc1|g\+\+|compiler|Python\.h", ""),
    (r"pg_config|libpq", "libpq-dev"),
    (r"libxml|xslt|lxml", "libxml2-dev libxslt1-dev"),
    (r"mysql_config|mysqlclient|libmysql|libmariadb", "default-libmysqlclient-dev pkg-config"),
    (r"ffi\.h|libffi", "libffi-dev"),
    (r"openssl/|libssl", "libssl-dev"),
    (r"ldap\.h|lber\.h|sasl", "libldap-dev libsasl2-dev"),
    (r"xmlsec", "libxmlsec1-dev pkg-config"),
    (r"jpeg|jpeglib", "libjpeg-dev zlib1g-dev"),
    (r"gdal", "libgdal-dev"),
    (r"cairo", "libcairo2-dev pkg-config"),
    (r"pkg-config|pkgconf", "pkg-config"),
    (r"cargo|rustc|rust toolchain", "cargo"),
    (r"cmake", "cmake"),
)

#: The most common advice for a failed step, by its output.
ADVICE = (
    (
        r"No space left on device|Disk quota exceeded",
        "The disk is full: look what fills it. playbooks/releases.yml lists the releases that could be removed;"
        " a lower django_keep_releases counts from the next switch on.",
    ),
    (
        r"(?i)git executable not found|cannot find command 'git'",
        "Name git in django_system_packages, and run site.yml.",
    ),
    (
        r"Permission denied \(publickey|Host key verification failed",
        "A package comes from git by SSH: write a key that opens it as django_build_git_key, or fetch it by https with"
        " a token (docs/project.md).",
    ),
    (
        r"(?i)hash(es)? mismatch|do not match the hashes",
        "A package is not the one that was locked: lock again, or ask why.",
    ),
    (
        r"(?is)^install.*(dns error|connect(ion)? error|timed out|unreachable|refused)",
        "The package index does not answer from the host.",
    ),
    (
        r"(?i)requires-python|requires python|a different python",
        "The project asks for another Python than the host has.",
    ),
    (r"Error loading psycopg", "Require psycopg[binary] or psycopg2-binary: the database is PostgreSQL."),
    (r"Read-only file system", WRITABLE_ADVICE),
    (
        r"(?s)^build: .*manage\.py.*(relation|column) \S+ does not exist",
        "A command of manage.py runs the checks, which do not find the tables before the migrations: add --skip-checks"
        " to the command.",
    ),
    (r"No module named", "Require the package that has it."),
    (
        r"(?i)could not find the (gdal|geos|proj) library",
        "GeoDjango needs it: write django_system_packages: [gdal-bin], which brings all three, and run site.yml.",
    ),
    (r"KeyError|ImproperlyConfigured", "Give the settings what they miss by django_env."),
)

#: For a site whose release is well and whose web server is not.
WEB_SERVER_ADVICE = "The release answers over its socket. See nginx's error.log, or run site.yml."
#: The most common advice for a failed check, by the complaint about the answer of the release.
HEALTH_ADVICE = (
    (r"does not answer|answers 503", "Raise django_health_timeout when it needs longer to start."),
    (r"answers (3|4(?!00))", "Set django_health_path to a path that answers 200 to everybody."),
    (r"answers 5", "The log below says why, unless LOGGING in the settings sends errors elsewhere."),
)


def find_advice(complaint: str, wheel: str | None = None) -> str:
    """Return the advice for a failed step; empty when there is none.

    `wheel` is a version of the package that need not be compiled; empty when there is none, None when it is unknown.
    """
    require = f"require {wheel}, which has a wheel" if wheel else ""
    if re.search(COMPILES, complaint):
        headers = [names for pattern, names in COMPILED if re.search(pattern, complaint)]
        if headers:
            packages = dict.fromkeys(" ".join(["build-essential python3-dev", *headers]).split())
            if "pg_config" in complaint and not wheel:
                require = "require psycopg[binary] or psycopg2-binary, which are compiled"
            elif wheel is None:
                require = "require a version that has a wheel"
            return (
                "A package is being compiled, as its index has no wheel for this Python: write"
                f" django_system_packages: [{', '.join(packages)}], with the headers of what it wraps, and run"
                f" site.yml{'; or ' * bool(require)}{require}."
            )
    if wheel:
        return f"A package cannot be built: {require}."
    return next((advice for pattern, advice in ADVICE if re.search(pattern, complaint)), "")


def find_health_advice(complaint: str) -> str:
    """Return the advice for a complaint about the answer of a release; empty when there is none."""
    return next((advice for pattern, advice in HEALTH_ADVICE if re.search(pattern, complaint)), "")

#!/usr/bin/env bash
# What site.yml does with inventories/demo on Debian 13, by hand: the yardstick of benchmarks/provision.
#
#   ssh HOST sudo bash -s < benchmarks/provision.sh
#
# The project lies unpacked in source/ of the home of the user who logs in. The files are word for word what the roles'
# templates come to, without the managed header: when a template changes, benchmarks/provision names the file.
set -euo pipefail
# In braces, so that bash has read it all before a program could read on.
{
export DEBIAN_FRONTEND=noninteractive
umask 022

domain=demo.localhost port=443
source=$PWD/source
id=$(date -u +%Y%m%dT%H%M%SZ)
release=/srv/demo/releases/$id
certificates=/etc/ssl/certs/ca-certificates.crt

answers() {
  for _ in {1..200}; do
    ! curl --silent --fail --output /dev/null "$@" || return 0
    sleep 0.1
  done
  echo "no answer: curl $*" >&2
  return 1
}

# Packages, in one go. That clusters get checksums has to be said before PostgreSQL is there.
mkdir -p /etc/postgresql-common/createcluster.d
cat > /etc/postgresql-common/createcluster.d/django_vps.conf << 'EOF'
# Checksums find pages that the disk spoilt. C.UTF-8 sorts the same for ever,
# so that an upgrade of the C library leaves indexes alone.
initdb_options = '--data-checksums --encoding=UTF8 --locale=C.UTF-8'
EOF
cat > /etc/apt/apt.conf.d/90-django_vps << 'EOF'
// An archive that is away for a moment, and another apt at work, are waited for.
Acquire::Retries "3";
DPkg::Lock::Timeout "300";
EOF
apt-get -qq update
apt-get -qq install --no-install-recommends \
  postgresql python3-psycopg2 acl python3-venv iproute2 openssl nginx > /dev/null

# PostgreSQL
mkdir -p /etc/systemd/system/postgresql@.service.d
cat > /etc/systemd/system/postgresql@.service.d/django_vps.conf << 'EOF'
# Debian leaves a killed server down.
[Service]
Restart=on-failure
RestartSec=1s
EOF
cd /etc/postgresql/17/main
cat > conf.d/django_vps.conf << 'EOF'
# Nobody reaches the server but through its socket.
listen_addresses = ''
unix_socket_directories = '/run/postgresql'
password_encryption = scram-sha-256
EOF
cat > pg_hba.conf << 'EOF'
# The kernel says who connects; a role is used by the system user of its name and by nobody else.
# TYPE  DATABASE  USER  METHOD
local   all       all   peer
EOF
chown root:postgres conf.d/django_vps.conf pg_hba.conf
chmod 0640 conf.d/django_vps.conf pg_hba.conf
systemctl daemon-reload
systemctl --quiet enable postgresql@17-main
systemctl restart postgresql@17-main
runuser -u postgres -- psql --quiet --set ON_ERROR_STOP=1 << 'SQL'
CREATE ROLE demo LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;
CREATE DATABASE demo OWNER demo ENCODING 'UTF8' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8' TEMPLATE template0;
REVOKE ALL ON DATABASE postgres, template1, demo FROM PUBLIC;
SQL

# The site's user, folders, environment and key
useradd --system --shell /usr/sbin/nologin --home-dir /srv/demo --no-create-home demo
mkdir -p "$release" /srv/demo/static /etc/demo
install -d -o demo -g www-data -m 2750 /srv/demo/media
install -d -o demo -g demo "$release"/{code,static} /var/cache/demo
cat > /usr/local/sbin/demo-manage << 'EOF'
#!/bin/sh
# Run manage.py as the site runs: with its user, environment, packages and sandbox.
#   demo-manage [--release=ID] [--writable=FOLDER] COMMAND [ARGUMENT]...
# By default of the live release; --writable is for building one.
set -eu

home=/srv/demo
release= writable=
while :; do
  case "${1-}" in
    --release=*) release=${1#*=} ;;
    --writable=*) writable=${1#*=} ;;
    *) break ;;
  esac
  shift
done
if [ -z "$release" ]; then
  release=$(readlink "$home/current") || { echo "no release of demo is live yet" >&2; exit 1; }
fi
folder=$home/releases/${release##*/}

# Without a description the journal would have all arguments, and those may be nobody's business.
description="manage.py ${1-} of demo, release ${release##*/}"
# systemd would expand variables in the arguments.
for argument; do
  set -- "$@" "$(printf '%s' "$argument" | sed 's/\$/$$/g')"
  shift
done

if [ -t 0 ] && [ -t 1 ]; then io=--pty; else io=--pipe; fi
set -- -- "$folder/venv/bin/python" manage.py "$@"
if [ "$writable" ]; then
  set -- --unit="demo-build-$$" --nice=10 --property=CPUWeight=20 --property=IOWeight=20 "$@"
fi

exec systemd-run --quiet --collect --wait "$io" --service-type=exec --description="$description" \
  --working-directory="$folder/project" \
  --setenv=PATH="$folder/venv/bin:/usr/local/bin:/usr/bin:/bin" \
  --property=User=demo \
  --property=Group=demo \
  --property=UMask=0027 \
  --property=EnvironmentFile="$folder/env" \
  --property=ReadWritePaths="/srv/demo/media $writable" \
  --property=ProtectSystem=strict \
  --property=ProtectHome=yes \
  --property=PrivateTmp=yes \
  --property=PrivateDevices=yes \
  --property=PrivateUsers=yes \
  --property=PrivateIPC=yes \
  --property=ProtectClock=yes \
  --property=ProtectHostname=yes \
  --property=ProtectKernelLogs=yes \
  --property=ProtectKernelModules=yes \
  --property=ProtectKernelTunables=yes \
  --property=ProtectControlGroups=yes \
  --property=NoNewPrivileges=yes \
  --property=CapabilityBoundingSet= \
  --property=LockPersonality=yes \
  --property=RestrictNamespaces=yes \
  --property=RestrictRealtime=yes \
  --property=RestrictSUIDSGID=yes \
  --property=RemoveIPC=yes \
  --property='RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK' \
  --property=SystemCallArchitectures=native \
  --property=SystemCallFilter=@system-service \
  --property='SystemCallFilter=~@privileged @resources' \
  --property=SystemCallErrorNumber=EPERM \
  --property=IPAddressDeny=169.254.169.254 \
  "$@"
EOF
chmod 0750 /usr/local/sbin/demo-manage
ln -s /srv/demo/current/env /etc/demo/env
cd /etc/demo
(
  umask 077
  python3 -c 'import secrets; print(secrets.token_urlsafe(48))' > secret_key
  environment=$(cat << EOF
ALLOWED_HOSTS="demo.localhost"
CSRF_TRUSTED_ORIGINS="https://$domain:$port"
DATABASE_URL="postgres://demo@/demo?host=/run/postgresql"
DEBUG="False"
MEDIA_ROOT="/srv/demo/media"
EOF
)
  {
    for name in SECRET_KEY DJANGO_SECRET_KEY; do echo "$name=\"$(cat secret_key)\""; done
    echo 'DJANGO_SETTINGS_MODULE="config.settings"'
    echo "RELEASE=\"$id\""
    echo "STATIC_ROOT=\"$release/static\""
    echo 'APPLICATION="config.wsgi:application"'
    echo "$environment"
  } > "$release/env"
)

# gunicorn
cat > gunicorn.conf.py << 'EOF'
import contextlib
import os

# The release says which application it is; systemd hands over the socket.
wsgi_app = os.environ["APPLICATION"]
proc_name = "demo-gunicorn"
worker_class = "gthread"
cores = len(os.sched_getaffinity(0))
megabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
workers = max(2, min(cores, megabytes // 256))
threads = 4
# A process takes in no more than it can handle at once, so the next request goes to a free one.
worker_connections = threads
# The web server opens a connection for each request.
keepalive = 0
timeout = 30
graceful_timeout = 30

# The heartbeat of a worker must not wait for a disk.
worker_tmp_dir = os.environ["RUNTIME_DIRECTORY"]

# Only the web server reaches the socket, and it overwrites these headers.
forwarded_allow_ips = "*"

# A second way in is not needed: systemd starts, stops and reloads.
control_socket_disable = True

# Errors go to the journal; requests are in the web server's log.
errorlog = "-"
accesslog = None


def post_worker_init(worker):
    # Django reads the URLconf, and with it most of a project, at the first request: that visitor would wait for it.
    # What cannot be read is told at that request, as it is without this.
    with contextlib.suppress(Exception):
        from django.urls import get_resolver

        get_resolver().url_patterns
EOF
cp gunicorn.conf.py "$release"
cd /etc/systemd/system
cat > demo-gunicorn@.socket << 'EOF'
[Unit]
Description=Socket of release %i of demo-gunicorn
PartOf=demo-gunicorn.service

[Socket]
ListenStream=/srv/demo/releases/%i/gunicorn.sock
# The web server may connect, and is in no group of the site for it.
SocketUser=root
SocketGroup=www-data
SocketMode=0660
EOF
cat > demo-gunicorn@.service << 'EOF'
[Unit]
Description=Release %i of demo-gunicorn
Requires=demo-gunicorn@%i.socket
After=demo-gunicorn@%i.socket network.target postgresql.service
# Stopping and restarting demo-gunicorn.service means this one.
PartOf=demo-gunicorn.service

[Service]
Type=notify
NotifyAccess=main
User=demo
Group=demo
UMask=0027
WorkingDirectory=/srv/demo/releases/%i/project
EnvironmentFile=/srv/demo/releases/%i/env
ExecSearchPath=/srv/demo/releases/%i/venv/bin:/usr/local/bin:/usr/bin:/bin
ExecStart=/srv/demo/releases/%i/venv/bin/python -m gunicorn \
  --config /srv/demo/releases/%i/gunicorn.conf.py
ExecReload=/bin/kill -s HUP $MAINPID
Restart=always
RestartSec=1s

# Only the master is told to stop; it lets its workers finish what they have in hand.
KillMode=mixed
TimeoutStopSec=35s

# Of the whole host it writes the uploads and nothing else.
RuntimeDirectory=demo-gunicorn/%i
RuntimeDirectoryMode=0700
ReadWritePaths=/srv/demo/media
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateUsers=yes
PrivateIPC=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
LockPersonality=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
IPAddressDeny=169.254.169.254
EOF
cat > demo-gunicorn.service << 'EOF'
# Asks `current` at every start, so what comes up at boot is what is live, by construction.
[Unit]
Description=The live release of demo-gunicorn
RequiresMountsFor=/srv/demo
After=network.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'id=$$(readlink /srv/demo/current) || exit 0; \
  exec systemctl --no-block start "demo-gunicorn@$${id##*/}.service"'

[Install]
WantedBy=multi-user.target
EOF
systemctl daemon-reload

# The release: uv, packages, code, assets, checked and migrated
mkdir -p /usr/local/lib/django_vps
cat > /run/uv.txt << 'TXT'
uv==0.13.8 \
  --hash=sha256:e18a57b8b352eb7c8feb317b9f6f533c8f0ad9673fd6cf34bbe3cf1a9f6a8984 \
  --hash=sha256:0b3e8b1a4f5e405e31e2ff33de8af4744831e9f7338539671efbd8c3c94e791d \
  --hash=sha256:5337c30bb893b4f9ce0ceb921ba2da0d13f649da644f40ad3bef84083bef0203
TXT
pip=(/usr/share/python-wheels/pip-*.whl)
PIP_CERT=$certificates python3 "${pip[0]}/pip" install --quiet --root-user-action ignore --require-hashes --no-deps \
  --only-binary=:all: --no-compile --disable-pip-version-check --no-cache-dir --target /run/uv -r /run/uv.txt
mv /run/uv/bin/uv /usr/local/lib/django_vps/uv-0.13.8
rm -r /run/uv /run/uv.txt

ln -s code "$release/project"
install -d -o demo -g demo "$release/venv"
(
  umask 027
  cd "$release/code"
  tar -C "$source" -c . | runuser -u demo -- tar -x --no-same-owner
  export UV_CACHE_DIR=/var/cache/demo/uv UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never SSL_CERT_FILE=$certificates
  uv=/usr/local/lib/django_vps/uv-0.13.8 python=$release/venv/bin/python
  runuser -u demo -- $uv venv --quiet --no-project --python /usr/bin/python3 "$release/venv"
  runuser -u demo -- $uv pip install --quiet --compile-bytecode --python "$python" -r requirements.txt
  runuser -u demo -- "$python" -m compileall -q "$release/code"
)
manage() { /usr/local/sbin/demo-manage --release="$id" --writable="$release" "$@"; }
manage collectstatic --noinput -v 0
manage check --deploy --fail-level ERROR --no-color > /dev/null 2>&1
manage migrate --noinput > /dev/null

chown -R root:demo "$release"/{code,venv}
chmod 0750 "$release"/{code,venv}
chown -R root:root "$release" --from=demo:demo
find "$release/static" -type d -exec chmod 0755 {} + -o -type f -exec chmod 0644 {} +
# The hashed assets outlive the release.
cd "$release/static"
find . -type f -regextype egrep -regex '.*\.[0-9a-f]{12}(\.[^/]*)?' -print0 |
  xargs -0 cp --parents --no-preserve=mode -t /srv/demo/static

systemctl start "demo-gunicorn@$id.service"
answers --unix-socket "$release/gunicorn.sock" --header 'X-Forwarded-Proto: https' "http://$domain/health/"
ln -s "releases/$id" /srv/demo/current
systemctl --quiet enable --now demo-gunicorn.service

# nginx, with a certificate that it signed itself
install -d -m 0700 /etc/demo/placeholder
cd /etc/demo/placeholder
openssl req -quiet -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 3650 -subj "/CN=$domain" \
  -addext "subjectAltName=DNS:$domain" -keyout privkey.pem -out fullchain.pem
ln -s placeholder /etc/demo/tls
mkdir -p /var/www/acme /etc/systemd/system/nginx.service.d
cat > /etc/systemd/system/nginx.service.d/django_vps.conf << 'EOF'
# Debian leaves a killed server down.
[Service]
Restart=on-failure
RestartSec=1s
EOF
cd /etc/nginx
rm sites-enabled/default
cat > conf.d/00-django_vps.conf << 'EOF'
# What holds for every site on this host.

# Slow clients are cut off here: nginx takes the header timeout of the default server,
# so a timeout inside a site would not stop them.
client_header_timeout 10s;
client_body_timeout 10s;
send_timeout 10s;
reset_timedout_connection on;

# Assets with a content hash in their name, as Django's manifest storage writes it, never change.
map $uri $django_vps_asset_cache {
    "~\.[0-9a-f]{12}(\.[^/]+)?$" "public, max-age=31536000, immutable";
    default                      "public, max-age=300";
}

# Only these uploads may be shown by a browser; everything else is saved, whatever it claims to be.
map $uri $django_vps_upload_disposition {
    "~*\.(png|jpe?g|gif|webp|avif)$" "";
    default                          "attachment";
}

# Nobody has any business here under another name.
server {
    listen 80 default_server;
    listen [::]:80 default_server;
    server_name _;
    return 444;
}

server {
    listen 443 ssl default_server;
    listen [::]:443 ssl default_server;
    http2 on;
    server_name _;
    ssl_reject_handshake on;
    # The protocols and curves of this server are those of all, for they are chosen before the name is known.
    include snippets/django_vps-tls.conf;
    return 444;
}
EOF
cat > snippets/django_vps-tls.conf << 'EOF'
ssl_protocols TLSv1.2 TLSv1.3;
ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305;
ssl_ecdh_curve ?X25519MLKEM768:X25519:prime256v1:secp384r1;
ssl_prefer_server_ciphers off;
ssl_session_cache shared:django_vps:10m;
ssl_session_timeout 1d;
EOF
cat > snippets/django_vps-proxy.conf << 'EOF'
# Overwritten, never appended: what a client says of itself is not passed on.
proxy_set_header Host $host;
proxy_set_header X-Real-IP $remote_addr;
proxy_set_header X-Forwarded-For $remote_addr;
proxy_set_header X-Forwarded-Proto $scheme;
proxy_set_header X-Forwarded-Host "";
proxy_set_header X-Forwarded-Port "";
proxy_set_header Forwarded "";
proxy_set_header Proxy "";
proxy_http_version 1.1;
proxy_set_header Connection "";
# This server sends the one header there is.
proxy_hide_header Strict-Transport-Security;
EOF
cat > conf.d/demo.conf << 'EOF'
server {
    listen 80;
    listen [::]:80;
    server_name demo.localhost;

    location ^~ /.well-known/acme-challenge/ {
        root /var/www/acme;
        default_type text/plain;
        try_files $uri =404;
    }

    location / {
        return 301 https://demo.localhost$request_uri;
    }
}

server {
    server_name demo.localhost;    listen 443 ssl;
    listen [::]:443 ssl;
    http2 on;
    include snippets/django_vps-tls.conf;
    ssl_certificate /etc/demo/tls/fullchain.pem;
    ssl_certificate_key /etc/demo/tls/privkey.pem;
    add_header Strict-Transport-Security "max-age=31536000" always;

    client_max_body_size 20m;

    # No file whose name begins with a dot is for visitors.
    if ($uri ~ "/\.(?!well-known/)") {
        return 404;
    }

    location ^~ /static/ {
        root /srv/demo/current;
        try_files $uri @assets_of_kept_releases;
        add_header Strict-Transport-Security "max-age=31536000" always;
        add_header X-Content-Type-Options nosniff always;
        add_header Cache-Control $django_vps_asset_cache;
    }

    # A page of the release before still finds its assets.
    location @assets_of_kept_releases {
        root /srv/demo;
        try_files $uri =404;
        add_header Strict-Transport-Security "max-age=31536000" always;
        add_header X-Content-Type-Options nosniff always;
        add_header Cache-Control $django_vps_asset_cache;
    }

    # Uploads are inert: nothing in them runs on the site's behalf.
    location ^~ /media/ {
        alias /srv/demo/media/;
        disable_symlinks if_not_owner from=/srv/demo/media;
        add_header Strict-Transport-Security "max-age=31536000" always;
        add_header X-Content-Type-Options nosniff always;
        add_header Content-Security-Policy "default-src 'none'; style-src 'unsafe-inline'; sandbox" always;
        add_header Content-Disposition $django_vps_upload_disposition always;
        add_header Cache-Control "private, max-age=300";
    }

    # Sent only when the site answers with X-Accel-Redirect, after it has asked who wants it.
    location ^~ /media/private/ {
        internal;
        alias /srv/demo/media/private/;
        disable_symlinks if_not_owner from=/srv/demo/media;
        add_header Strict-Transport-Security "max-age=31536000" always;
        add_header X-Content-Type-Options nosniff always;
        add_header Content-Security-Policy "default-src 'none'; sandbox" always;
    }

    location / {
        include snippets/django_vps-proxy.conf;
        proxy_read_timeout 60s;
        # Opened anew for each request: one rename of `current` moves the traffic.
        proxy_pass http://unix:/srv/demo/current/gunicorn.sock;
    }
}
EOF
nginx -t -q
systemctl daemon-reload
systemctl reload nginx
answers --insecure --resolve "$domain:443:127.0.0.1" "https://$domain/health/"
} < /dev/null

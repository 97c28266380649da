#!/usr/bin/env bash
# Set up a bare Debian 13 like site.yml (variables: tests/support/inventory.yml), for the comparison in provision.
#
#   ssh HOST sudo bash -s < benchmarks/provision.sh
#
# The home of the login user has the unpacked project in source/, and files.tar with the configuration files that an
# administrator would write or bring. benchmarks/provision takes them from a host that site.yml built.
set -euo pipefail
# The braces make bash read the complete script before a program can read from the same input.
{
export DEBIAN_FRONTEND=noninteractive
umask 022

domain=site13.example.test
source=$PWD/source
id=$(date -u +%Y%m%dT%H%M%SZ)
release=/srv/site13/releases/$id
certificates=/etc/ssl/certs/ca-certificates.crt
mv "$source/files.tar" /run/files.tar
place() { tar --extract --file /run/files.tar --directory / "$@"; }

answers() {
  for _ in {1..200}; do
    ! curl --silent --fail --output /dev/null "$@" || return 0
    sleep 0.1
  done
  echo "no answer: curl $*" >&2
  return 1
}

# Packages, by one command. The setting for checksums of clusters must exist before PostgreSQL is installed.
place etc/postgresql-common etc/apt
apt-get -qq update
apt-get -qq install --no-install-recommends \
  postgresql python3-psycopg2 acl python3-venv iproute2 brotli openssl \
  nginx libnginx-mod-http-brotli-static logrotate > /dev/null

# PostgreSQL
place etc/postgresql etc/systemd/system/postgresql@.service.d
systemctl daemon-reload
systemctl --quiet enable postgresql@17-main
systemctl restart postgresql@17-main
# Two releases of one worker more than there are processors, with four threads each, and ten for manage.py.
runuser -u postgres -- psql --quiet --set ON_ERROR_STOP=1 --set "limit=$((2 * 4 * ($(nproc) + 1) + 10))" << 'SQL'
CREATE ROLE site13 LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION CONNECTION LIMIT :limit;
CREATE DATABASE site13 OWNER site13 ENCODING 'UTF8' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8' TEMPLATE template0;
CREATE EXTENSION pg_stat_statements;
REVOKE ALL ON DATABASE postgres, template1, site13 FROM PUBLIC;
SQL

# The site's user, folders, environment and key
useradd --system --shell /usr/sbin/nologin --home-dir /srv/site13 --no-create-home site13
mkdir -p "$release" /srv/site13/static /etc/site13
install -d -o site13 -g www-data -m 2750 /srv/site13/media
install -d -o site13 -g site13 "$release"/{code,static} /var/cache/site13
place usr/local
ln -s /srv/site13/current/env /etc/site13/env
cd /etc/site13
(
  umask 077
  python3 -c 'import secrets; print(secrets.token_urlsafe(48))' > secret_key
  environment=$(cat << EOF
ALLOWED_HOSTS="$domain"
CSRF_TRUSTED_ORIGINS="https://$domain"
DATABASE_URL="postgres://site13@/site13?host=/run/postgresql"
DEBUG="False"
MEDIA_ROOT="/srv/site13/media"
PGDATABASE="site13"
PGHOST="/run/postgresql"
PGUSER="site13"
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
place etc/site13 etc/systemd/system
cp /etc/site13/gunicorn.conf.py "$release"
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
install -d -o site13 -g site13 "$release/venv"
(
  umask 027
  cd "$release/code"
  tar -C "$source" -c . | runuser -u site13 -- tar -x --no-same-owner
  export UV_CACHE_DIR=/var/cache/site13/uv UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never SSL_CERT_FILE=$certificates
  uv=/usr/local/lib/django_vps/uv-0.13.8 python=$release/venv/bin/python
  runuser -u site13 -- $uv venv --quiet --no-project --python /usr/bin/python3 "$release/venv"
  runuser -u site13 -- $uv pip install --quiet --compile-bytecode --python "$python" -r requirements.txt
  runuser -u site13 -- "$python" -m compileall -q "$release/code"
)
manage() { /usr/local/sbin/site13-manage --release="$id" --writable="$release" "$@"; }
manage collectstatic --noinput -v 0
manage check --deploy --fail-level ERROR --no-color > /dev/null 2>&1
manage migrate --noinput > /dev/null

# Texts among the assets are compressed once.
find "$release/static" -type f -size +1023c -regextype egrep -regex '.*\.[0-9a-f]{12}\.(css|js|json|svg|txt|xml|html|ttf|otf)' \
  -exec gzip --best --keep --no-name {} + -exec brotli --best --keep {} +
chown -R root:site13 "$release"/{code,venv}
chmod 0750 "$release"/{code,venv}
chown -R root:root "$release" --from=site13:site13
find "$release/static" -type d -exec chmod 0755 {} + -o -type f -exec chmod 0644 {} +
# The hashed assets are kept after the release is removed.
cd "$release/static"
find . -type f -regextype egrep -regex '.*\.[0-9a-f]{12}(\.[^/]*)*' -print0 |
  xargs -0 cp --parents --no-preserve=mode -t /srv/site13/static

systemctl start "site13-gunicorn@$id.service"
answers --unix-socket "$release/gunicorn.sock" --header 'X-Forwarded-Proto: https' "http://$domain/health/"
ln -s "releases/$id" /srv/site13/current
systemctl --quiet enable --now site13-gunicorn.service

# nginx, with a self-signed certificate
install -d -m 0700 /etc/site13/placeholder
cd /etc/site13/placeholder
openssl req -quiet -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 3650 -subj /CN=placeholder \
  -addext "subjectAltName=DNS:$domain" -keyout privkey.pem -out fullchain.pem
ln -s placeholder /etc/site13/tls
mkdir -p /var/www/acme
rm /etc/nginx/sites-enabled/default
place etc/nginx var/www
rm /run/files.tar
nginx -t -q
systemctl daemon-reload
systemctl reload nginx
answers --insecure --resolve "$domain:443:127.0.0.1" "https://$domain/health/"
} < /dev/null

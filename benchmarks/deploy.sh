#!/usr/bin/env bash
# Deploy a site by hand in a usual way, for the comparison in benchmarks/deploy.
#
#   ssh HOST sudo bash -s STEP < benchmarks/deploy.sh
#
#   repository   on a host that site.yml built: create a git repository to push to
#   prepare      serve the pushed code instead of the release
#   deploy       pull, install, migrate, collect, restart, all in one place
#   afresh       the same with a new virtual environment, built like that of a release
#
# /srv/site13/byhand has code, packages and static files; nginx finds it as /srv/site13/current.
set -euo pipefail
# The braces make bash read the complete script before a program can read from the same input.
{
home=/srv/site13/byhand
as_site() { runuser -u site13 -- "$@"; }
manage() {
  (
    set -a
    # shellcheck source=/dev/null
    source "$home/env"
    cd "$home/code"
    as_site ../venv/bin/python manage.py "$@"
  )
}
pull() {
  cd "$home/code"
  as_site git pull --quiet
}
finish() {
  manage migrate --noinput -v 0
  manage collectstatic --noinput -v 0
  systemctl restart byhand
}

case $1 in
  repository)
    apt-get -qq update
    apt-get -qq install --no-install-recommends git > /dev/null
    install -d -o site13 -g site13 /srv/site13.git "$home"
    as_site git init --quiet --bare --initial-branch main /srv/site13.git
    ;;
  prepare)
    as_site git clone --quiet /srv/site13.git "$home/code"
    as_site python3 -m venv "$home/venv-0"
    ln -s venv-0 "$home/venv"
    as_site "$home/venv/bin/pip" install --quiet --no-cache-dir -r "$home/code/requirements.txt"
    sed "s|^STATIC_ROOT=.*|STATIC_ROOT=\"$home/static\"|; s|^RELEASE=.*|RELEASE=\"byhand\"|" \
      /srv/site13/current/env > "$home/env"
    cat > /etc/systemd/system/byhand.service << 'UNIT'
[Unit]
After=network.target postgresql.service

[Service]
Type=notify
NotifyAccess=main
User=site13
Group=www-data
UMask=0007
RuntimeDirectory=byhand
WorkingDirectory=/srv/site13/byhand/code
EnvironmentFile=/srv/site13/byhand/env
ExecStart=/srv/site13/byhand/venv/bin/python -m gunicorn --config /etc/site13/gunicorn.conf.py \
  --bind unix:/srv/site13/byhand/gunicorn.sock
KillMode=mixed

[Install]
WantedBy=multi-user.target
UNIT
    install -d -o site13 -g site13 "$home/static"
    manage collectstatic --noinput -v 0
    systemctl daemon-reload
    systemctl --quiet enable --now byhand
    systemctl --quiet disable site13-gunicorn
    ln -sfn byhand /srv/site13/current
    systemctl stop 'site13-gunicorn@*.socket' 'site13-gunicorn@*.service'
    ;;
  deploy)
    pull
    # A virtual environment of uv has no pip.
    ln -sfn venv-0 "$home/venv"
    as_site "$home/venv/bin/pip" install --quiet --disable-pip-version-check -r requirements.txt
    finish
    ;;
  afresh)
    pull
    export UV_CACHE_DIR=/var/cache/site13/uv UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
    export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
    uv=$(echo /usr/local/lib/django_vps/uv-*) new=venv-$(date +%s)
    as_site "$uv" venv --quiet --no-project --python /usr/bin/python3 "$home/$new"
    as_site "$uv" pip install --quiet --compile-bytecode --python "$home/$new/bin/python" -r requirements.txt
    ln -sfn "$new" "$home/venv"
    finish
    find "$home" -maxdepth 1 -name 'venv-*' ! -name venv-0 ! -name "$new" -exec rm -r {} +
    ;;
esac
} < /dev/null

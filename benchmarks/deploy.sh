#!/usr/bin/env bash
# A deploy by hand, as many sites are deployed: the yardstick of benchmarks/deploy.
#
#   ssh HOST sudo bash -s STEP < benchmarks/deploy.sh
#
#   repository   on a host that site.yml built: a place to push to
#   prepare      let what was pushed there serve instead
#   deploy       pull, install, migrate, collect, restart, all in one place
#   afresh       the same with a new virtual environment, made as a release's is
#
# Code, packages and static files lie in /srv/demo/byhand, which is what nginx finds under /srv/demo/current.
set -euo pipefail
# In braces, so that bash has read it all before a program could read on.
{
home=/srv/demo/byhand
as_site() { runuser -u demo -- "$@"; }
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
    install -d -o demo -g demo /srv/demo.git "$home"
    as_site git init --quiet --bare --initial-branch main /srv/demo.git
    ;;
  prepare)
    as_site git clone --quiet /srv/demo.git "$home/code"
    as_site python3 -m venv "$home/venv-0"
    ln -s venv-0 "$home/venv"
    as_site "$home/venv/bin/pip" install --quiet --no-cache-dir -r "$home/code/requirements.txt"
    sed "s|^STATIC_ROOT=.*|STATIC_ROOT=\"$home/static\"|; s|^RELEASE=.*|RELEASE=\"byhand\"|" \
      /srv/demo/current/env > "$home/env"
    cat > /etc/systemd/system/byhand.service << 'UNIT'
[Unit]
After=network.target postgresql.service

[Service]
Type=notify
NotifyAccess=main
User=demo
Group=www-data
UMask=0007
RuntimeDirectory=byhand
WorkingDirectory=/srv/demo/byhand/code
EnvironmentFile=/srv/demo/byhand/env
ExecStart=/srv/demo/byhand/venv/bin/python -m gunicorn --config /etc/demo/gunicorn.conf.py \
  --bind unix:/srv/demo/byhand/gunicorn.sock
KillMode=mixed

[Install]
WantedBy=multi-user.target
UNIT
    install -d -o demo -g demo "$home/static"
    manage collectstatic --noinput -v 0
    systemctl daemon-reload
    systemctl --quiet enable --now byhand
    systemctl --quiet disable demo-gunicorn
    ln -sfn byhand /srv/demo/current
    systemctl stop 'demo-gunicorn@*.socket' 'demo-gunicorn@*.service'
    ;;
  deploy)
    pull
    # uv's has no pip.
    ln -sfn venv-0 "$home/venv"
    as_site "$home/venv/bin/pip" install --quiet --disable-pip-version-check -r requirements.txt
    finish
    ;;
  afresh)
    pull
    export UV_CACHE_DIR=/var/cache/demo/uv UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
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

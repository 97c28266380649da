# shellcheck shell=sh
# Install Ansible in an environment of its own, and make it the one that deploys use.
# Usage: install.sh FOLDER ENVIRONMENT
set -eu
environment=$2
cd "$1"
rm -rf "$environment"
python3 -m venv "$environment"
"$environment/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir \
  --cert /etc/ssl/certs/ca-certificates.crt --only-binary :all: --require-hashes -r requirements.txt
# Replace the link atomically, because a deploy of another site can be running; it is the last one to use the older
# environment.
ln -s "$environment" .ansible.new
mv -T .ansible.new ansible
find . -maxdepth 1 -name 'ansible-*' ! -name "$environment" -exec rm -rf {} +
(umask 077 && touch "$environment/.whole")

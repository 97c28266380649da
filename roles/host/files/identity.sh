# shellcheck shell=sh
# Make the key of this host, and a certificate for its address. A rename makes each file complete as soon as it exists.
# Usage: identity.sh FOLDER CERTIFICATE NAMES ADDRESS
set -eu
folder=$1 certificate=$2 names=$3 address=$4
umask 077
mkdir -p "$folder"
cd "$folder"
chmod 0755 .
# A host with two names in the inventory runs this twice at the same time.
exec 9> .lock
flock 9
[ ! -e "$certificate" ] || exit 0
if [ ! -e host.key ]; then
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -out host.key.new
  chgrp ssl-cert host.key.new
  chmod 0640 host.key.new
  mv host.key.new host.key
fi
printf '[req]\ndistinguished_name = dn\nx509_extensions = ext\n[dn]\n[ext]\n%s\n%s\n' \
  basicConstraints=critical,CA:FALSE "subjectAltName=$names" > host.cnf
openssl req -x509 -new -config host.cnf -key host.key -days 7300 -subj "/CN=$address" -out host.new
chmod 0644 host.new
mv host.new "$certificate"

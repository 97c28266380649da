# shellcheck shell=sh
# Remove the units of earlier names of the service, and give the live release a new socket if it has lost its own.
# Usage: cleanup.sh FOLDER-OF-UNITS SOCKET SERVICE FORMER-SERVICES
set -eu
units=$1 socket=$2 service=$3
cd "$units"
for name in $4; do
  systemctl stop "$name@*.socket" "$name@*.service" "$name.service"
  systemctl disable --quiet "$name.service"
  # The role django has moved the links of the services.
  rm -rf "$name@.service.wants"
  # The module claim finds the units by the last of these files.
  rm -f "$name@.socket" "$name@.service" "$name.service"
done
systemctl daemon-reload
# If a rename is reverted before its release goes live, their socket had the path of the live release.
connect='import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])'
if [ -e "$socket" ] && ! python3 -c "$connect" "$socket"; then
  systemctl restart "$service.service"
fi

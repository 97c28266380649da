# shellcheck shell=sh
# Pause the requests: restart the live release, whose start waits for as long as the file is there.
# Usage: hold.sh CURRENT SERVICE FILE
set -u
current=$1 service=$2 hold=$3
live=$(readlink "$current") || exit 0
unit=$service@${live##*/}.service
# Processes of the site see the file, and only root opens it.
(umask 077 && touch "$hold")
systemctl --no-block restart "$unit"
for _ in $(seq 400); do
  [ "$(systemctl show --property=SubState --value "$unit")" = start-pre ] && exit 0
  sleep 0.1
done
rm "$hold"
echo 'requests in progress do not end' >&2
exit 1

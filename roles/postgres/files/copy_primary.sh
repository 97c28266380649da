# shellcheck shell=sh
# Replace the data of a new server by a copy of the primary's, once the copy is complete.
# Usage: copy_primary.sh DATA-FOLDER FOLDER-OF-PROGRAMS CONNECTION UNIT
set -eu
data=$1 programs=$2 connection=$3 unit=$4
cd /
rm -rf "$data.new"
runuser -u postgres -- "$programs/pg_basebackup" --pgdata="$data.new" --checkpoint=fast --wal-method=stream \
  --dbname="$connection"
runuser -u postgres -- touch "$data.new/standby.signal"
systemctl stop "$unit"
rm -rf "$data.old"
mv "$data" "$data.old"
mv "$data.new" "$data"
rm -rf "$data.old"
systemctl start "$unit"

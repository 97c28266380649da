# shellcheck shell=sh
# Promote a standby once it has applied all of the WAL that it has received.
# Usage: promote.sh SOCKET-FOLDER
cd /
socket=$1
ask() { runuser -u postgres -- psql -XAtq -h "$socket" -d postgres -c "$1"; }
for _ in $(seq 100); do
  [ "$(ask 'SELECT pg_last_wal_receive_lsn() IS NOT DISTINCT FROM pg_last_wal_replay_lsn()')" = t ] && break
  sleep 0.1
done
ask 'SELECT pg_promote(true, 60)'
[ "$(ask 'SELECT pg_is_in_recovery()')" = f ]

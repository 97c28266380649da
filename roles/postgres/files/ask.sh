# shellcheck shell=sh
# Print what a server is, and the position of its WAL in bytes.
# primary: accepts writes and has the data of a site. new: has no data of a site, so its data can be replaced.
# Usage: ask.sh DATA-FOLDER SOCKET-FOLDER
cd /
if [ ! -e "$1/PG_VERSION" ]; then
  echo 'new 0'
elif ! runuser -u postgres -- psql -XAtq -F ' ' -h "$2" -d postgres -c "
  SELECT CASE WHEN pg_is_in_recovery() THEN 'replica'
              WHEN EXISTS (SELECT FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres')
              THEN 'primary' ELSE 'new' END,
         CASE WHEN pg_is_in_recovery()
              THEN coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn(), '0/0'::pg_lsn) - '0/0'::pg_lsn
              ELSE 0 END"; then
  echo 'down 0'
fi

# shellcheck shell=sh
# Print the port of each cluster, then the connections that the roles of other sites and the role of this one may open.
# A server that is not there yet has none.
# Usage: preflight.sh SOCKET-FOLDER ROLE
cd /
grep -HsE '^port *=' /etc/postgresql/*/*/postgresql.conf
runuser --user=postgres -- psql -XAtq --host="$1" --dbname=postgres --set=role="$2" << 'SQL'
SELECT coalesce(sum(rolconnlimit) FILTER (WHERE rolname <> :'role'), 0),
  coalesce(sum(rolconnlimit) FILTER (WHERE rolname = :'role'), 0)
FROM pg_roles WHERE rolconnlimit > 0;
SQL
true

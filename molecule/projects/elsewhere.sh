#!/bin/bash
# A PostgreSQL that the stack does not manage, over TLS on port 5498, and PgBouncer in front of it on port 5499.
set -euo pipefail
name=database.example.test
echo "$(hostname --ip-address) $name" >> /etc/hosts
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends pgbouncer > /dev/null

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=$name" \
  -addext "subjectAltName=DNS:$name" -keyout /etc/ssl/elsewhere.key -out /etc/ssl/elsewhere.pem 2> /dev/null
chown postgres: /etc/ssl/elsewhere.key

pg_createcluster --port=5498 17 elsewhere > /dev/null
cat > /etc/postgresql/17/elsewhere/conf.d/elsewhere.conf << 'CONF'
listen_addresses = '*'
shared_buffers = 32MB
ssl_cert_file = '/etc/ssl/elsewhere.pem'
ssl_key_file = '/etc/ssl/elsewhere.key'
CONF
echo 'hostssl all all all scram-sha-256' >> /etc/postgresql/17/elsewhere/pg_hba.conf
pg_ctlcluster 17 elsewhere start
# The journal has the arguments of commands.
runuser -u postgres -- psql -p 5498 -Xq <<< "CREATE ROLE lender LOGIN PASSWORD 'p@ss/w:rd'"
runuser -u postgres -- createdb -p 5498 --owner=lender lending

cat > /etc/pgbouncer/pgbouncer.ini << 'CONF'
[databases]
lending = host=127.0.0.1 port=5498
[pgbouncer]
listen_addr = *
listen_port = 5499
unix_socket_dir =
pool_mode = transaction
auth_type = scram-sha-256
auth_file = /etc/pgbouncer/userlist.txt
client_tls_sslmode = require
client_tls_cert_file = /etc/ssl/elsewhere.pem
client_tls_key_file = /etc/ssl/elsewhere.key
server_tls_sslmode = require
CONF
echo '"lender" "p@ss/w:rd"' > /etc/pgbouncer/userlist.txt
systemctl restart pgbouncer

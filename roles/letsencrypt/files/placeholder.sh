# shellcheck shell=sh
# Make a self-signed certificate; its link comes last, so that a certificate is never incomplete.
# Usage: placeholder.sh FOLDER LINK NAMES
set -eu
folder=$1 link=$2 names=$3
install -d -m 0755 "$folder"
cd "$folder"
install -d -m 0700 placeholder
openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 3650 -subj /CN=placeholder \
  -addext "subjectAltName=$names" -keyout placeholder/privkey.pem -out placeholder/fullchain.pem
ln -sfn placeholder "$link"

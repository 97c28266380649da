# shellcheck shell=sh
# Replace sshd's socket activation by its service, and print "replaced" if that was needed.
set -eu
systemctl --quiet is-active ssh.socket || exit 0
# ssh.service creates this folder, and without it sshd does not read its settings.
install -d -m 0755 /run/sshd
for port in $(systemctl show --property Listen --value ssh.socket | sed -nE 's/.*:?\b([0-9]+) \(Stream\).*/\1/p'); do
  if ! sshd -T | grep -x "port $port" > /dev/null; then
    echo "ssh.socket listens on port $port, and sshd would not. Fix: write 'Port $port' into" \
      /etc/ssh/sshd_config.d/port.conf on the host. >&2
    exit 1
  fi
done
systemctl --quiet disable --now ssh.socket
systemctl --quiet enable ssh.service
systemctl restart ssh.service || systemctl enable --now ssh.socket
echo replaced

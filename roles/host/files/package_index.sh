# shellcheck shell=sh
# Print the suites of apt's package index, after an update if there is none.
set -eu
index() { apt-get indextargets --format "\$(RELEASE)" 'Created-By: Packages'; }
found=$(index)
if [ -z "$found" ]; then
  LC_ALL=C apt-get -qq -o APT::Update::Error-Mode=any update
  found=$(index)
fi
echo "$found"

#!/bin/sh
# Starts the broker with the add-on's configuration, which is written at the first start and left alone from then on.
set -eu
config=/config/headwater.toml
[ -f "$config" ] || cp /usr/share/headwater/headwater.toml "$config"
exec /usr/bin/headwater run --config "$config"

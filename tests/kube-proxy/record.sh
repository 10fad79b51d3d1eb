#!/bin/sh
# Records what kube-proxy makes of scenes: record.sh PROGRAM GENERATION [SCENE …].
set -eu
program=$(realpath "$1") generation=$2
shift 2
cd "$(dirname "$0")"
[ $# -gt 0 ] || set -- scenes/*.yaml
for scene in "$@"; do
    recorded=recorded/$(basename "$scene" .yaml).$generation
    unshare --net sh -euc '
        ip link set lo up
        ip link add node type veth peer name far
        ip link set node up
        "$0" "$1" > "$2" 2> "$2.log" || { cat "$2.log"; exit 1; }
        sed -i "/^# \(Generated\|Completed\)/d" "$2"
    ' "$program" "$scene" "$recorded"
    rm "$recorded.log"
    echo "$recorded"
done

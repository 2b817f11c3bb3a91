#!/usr/bin/env bash
# Cancels the jobs of the cluster that up.sh started below a folder, and stops it: down.sh FOLDER
set -euo pipefail
[ $# -eq 1 ] || { echo "down.sh: one argument is needed: the folder that the cluster lives in" >&2; exit 1; }
folder=$(cd "$1" && pwd)
. "$folder/env.sh"

jobs() { timeout 10 squeue --noheader --format %A 2>/dev/null; }
# Without its daemon a node would leave its jobs running.
for _ in $(seq 100); do
    running=$(jobs) && [ -n "$running" ] || break
    timeout 10 scancel $running 2>/dev/null || true
    sleep 0.2
done

for name in slurmd slurmctld; do
    file=$folder/$name.pid
    [ -s "$file" ] || continue
    pid=$(cat "$file")
    for attempt in $(seq 50); do
        # A number that now belongs to another process is none of ours.
        grep -qs "$name" "/proc/$pid/cmdline" || break
        signal=TERM
        [ "$attempt" -lt 50 ] || signal=KILL
        kill -s "$signal" "$pid" 2>/dev/null || break
        sleep 0.2
    done
    rm -f "$file"
done

#!/usr/bin/env bash
# A Slurm cluster of one node, for tests: Debian's packages are fetched and unpacked below a folder, not installed.
#
#   up.sh FOLDER          starts it, and ends once the node takes jobs
#   . FOLDER/env.sh       puts sbatch, squeue, scontrol and a stand-in for sacct on PATH
#   down.sh FOLDER        cancels its jobs and stops it
#
# It needs root (the daemon of a node starts jobs as other users) and Debian 12 or one of its kin, with its package
# index fetched. It listens on the loopback device alone, knows no passwords, and keeps everything below FOLDER.
set -euo pipefail

fail() {
    echo "up.sh: $1" >&2
    exit 1
}

[ $# -eq 1 ] || fail "one argument is needed: the folder that the cluster is to live in"
[ "$(id -u)" -eq 0 ] || fail "only root can start Slurm's daemons; run this as root"
for needed in apt-get dpkg ldd python3; do
    command -v "$needed" >/dev/null || fail "no $needed here; Slurm is taken from Debian's packages, use Debian 12"
done

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
mkdir -p "$folder"/{packages,root,bin,state,spool,log}
shopt -s nullglob
pids=("$folder"/*.pid)
[ ${#pids[@]} -eq 0 ] || fail "$folder holds a cluster that was not stopped; run down.sh $folder"

# Slurm, and the libraries it needs that a small Debian lacks.
packages=(slurm-client slurmctld slurmd slurm-wlm-basic-plugins libhwloc15 liblua5.1-0 libmunge2)
(cd "$folder/packages" && apt-get -o APT::Sandbox::User=root download "${packages[@]}") >"$folder/log/fetch" 2>&1 ||
    fail "Slurm's packages cannot be had, try apt-get update: $(grep '^E:' "$folder/log/fetch" | head -n 1)"
for package in "$folder"/packages/*.deb; do
    dpkg -x "$package" "$folder/root"
done

plugins=$(find "$folder/root/usr/lib" -type d -name slurm-wlm -print -quit)
binary() { # Debian adds -wlm to the names of the daemons.
    for path in "$folder/root/usr/sbin/$1-wlm" "$folder/root/usr/sbin/$1"; do
        [ ! -x "$path" ] || { echo "$path"; return; }
    done
    fail "the packages hold no $1; use those of Debian 12"
}
controller=$(binary slurmctld)
daemon=$(binary slurmd)
stepd=$(binary slurmstepd)

cat >"$folder/env.sh" <<END
export SLURM_CONF='$folder/slurm.conf'
export LD_LIBRARY_PATH='$(dirname "$plugins"):$plugins'
export PATH='$folder/bin:$folder/root/usr/bin':"\$PATH"
END
. "$folder/env.sh"
missing=$(ldd "$controller" "$daemon" "$folder/root/usr/bin/scontrol" | grep 'not found' || true)
[ -z "$missing" ] || fail "libraries are missing:$(echo "$missing" | awk '{printf " %s", $1}'); use Debian 12"

# Ports that nothing listens on, so that several clusters can be up at once.
read -r controller_port daemon_port < <(python3 -c '
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(one.getsockname()[1] for one in sockets))')

host=$(hostname -s)
memory=$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
cat >"$folder/slurm.conf" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller_port
SlurmdPort=$daemon_port
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
# A job that is put back into the queue waits there for as long as a credential lives: 2 minutes by default.
AuthInfo=cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld
SlurmdLogFile=$folder/log/slurmd
PluginDir=$plugins
# Nothing here needs control groups, a database or MPI.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
# Between SIGTERM and SIGKILL.
KillWait=2
# How long a job that has ended is remembered, which is where the stand-in for sacct looks.
MinJobAge=86400
ReturnToService=2
# The partition above takes the node from jobs of the one below, which go back into the queue.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=low Nodes=$host PriorityTier=1 GraceTime=5 MaxTime=INFINITE State=UP Default=YES
PartitionName=high Nodes=$host PriorityTier=2 PreemptMode=OFF MaxTime=INFINITE State=UP
END
# The real sacct asks a database, and submitit asks sacct whether a job has ended without a result.
install -m 755 "$here/sacct.py" "$folder/bin/sacct"

nohup "$controller" -D -i >"$folder/log/slurmctld.out" 2>&1 </dev/null &
nohup "$daemon" -D -d "$stepd" >"$folder/log/slurmd.out" 2>&1 </dev/null &
for _ in $(seq 150); do
    [ -z "$(sinfo --noheader --states idle --partition low 2>/dev/null)" ] || exit 0
    sleep 0.2
done
tail -n 5 "$folder"/log/slurm* >&2
"$here/down.sh" "$folder"
fail "the node took no jobs for 30 seconds; the last lines of the logs are above"

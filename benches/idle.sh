#!/bin/bash
# What many idle vessels cost, all of them up at once, and whether each still answers.
#
#   benches/idle.sh VESSELRT ROOTFS.tar [COUNT]        for one: benches/idle.sh target/release/vesselrt debian.tar 500
#
# Memory of a vessel is that of all its processes which is no file: Pss_Anon and Pss_Shmem of smaps_rollup
# (proc_pid_smaps(5)), so that a page which they share counts once. An ordinary user may not look into processes of user
# namespaces: for those it is RssAnon of /proc/PID/status, where such a page counts for each. What the kernel needs for
# processes, namespaces and mounts is in "memory of the host". Disk: the root file system, and 60 KB a vessel.
set -euo pipefail

bin=$(realpath "$1"); rootfs=$(realpath "$2"); count=${3:-500}
tmp=$(mktemp -d "${TMPDIR:-/tmp}/vesselrt-idle-XXXXXX")
export VESSELRT_ROOT=$tmp/store
finish() { "$bin" stop --all >/dev/null 2>&1 || true; "$bin" ls -q | xargs -r "$bin" rm >/dev/null 2>&1 || true; "$bin" image rm idle >/dev/null 2>&1 || true
    "$bin" gc >/dev/null 2>&1 || true; rm -rf "$tmp"; }
trap finish EXIT
now() { date +%s%N; }
since() { echo $((($(now) - $1) / 1000000)); }

memory() {
    python3 - "$VESSELRT_ROOT/vessels/" <<'PY'
import os, sys
mark = sys.argv[1].encode()
def read(pid, name):
    try: return open(f"/proc/{pid}/{name}", "rb").read()
    except OSError: return b""
parents, shims = {}, set()
for pid in filter(str.isdigit, os.listdir("/proc")):
    stat = read(pid, "stat")
    if not stat: continue
    parents[pid] = stat.rsplit(b")", 1)[1].split()[1].decode()
    if read(pid, "cmdline").startswith(b"vesselrt-shim") and mark in read(pid, "mountinfo"): shims.add(pid)
def owner(pid):
    top = None
    while pid in parents:
        if pid in shims: top = pid
        pid = parents[pid]
    return top
def private(pid):
    def sum_of(name, *keys):
        lines = (line.split() for line in read(pid, name).splitlines())
        return sum(int(words[1]) for words in lines if words and words[0].rstrip(b":") in keys)
    smaps = read(pid, "smaps_rollup")
    if smaps: return sum_of("smaps_rollup", b"Pss_Anon", b"Pss_Shmem"), "smaps_rollup"
    return sum_of("status", b"RssAnon"), "RssAnon"
vessels, ways, processes = {}, set(), 0
for pid in parents:
    top = owner(pid)
    if top is None: continue
    size, way = private(pid)
    ways.add(way); processes += 1
    vessels[top] = vessels.get(top, 0) + size
sizes = sorted(vessels.values()) or [0]
print(f"  memory of a vessel: median {sizes[len(sizes) // 2] / 1024:.2f} MiB, largest {sizes[-1] / 1024:.2f} MiB; of all {len(vessels)}: "
      f"{sum(sizes) / 1024:.0f} MiB in {processes} processes ({', '.join(sorted(ways))})")
PY
}

"$bin" image import "$rootfs" --ref idle >/dev/null
for n in $(seq "$count"); do echo "idle-$n"; done >"$tmp/ids"
echo "$count vessels, $("$bin" --version), $(id -un)"
began=$(now); xargs -P2 -I{} "$bin" create idle --id {} <"$tmp/ids" >/dev/null; echo "  create: $(since "$began") ms"
available() { awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo; }
before=$(available)
began=$(now); xargs -n1 -P2 "$bin" start <"$tmp/ids" >"$tmp/started" || true; echo "  start: $(since "$began") ms, $(wc -l <"$tmp/started") are up"
sleep 3
echo "  memory of the host that is gone: $((before - $(available))) MiB"
memory
began=$(now); answered=0
while read -r id; do
    [ "$("$bin" exec "$id" -- echo "$id" </dev/null | cat)" = "$id" ] && answered=$((answered + 1))
done <"$tmp/ids"
echo "  exec in each: $(since "$began") ms, $answered answered"
sleep 2
memory
began=$(now); "$bin" stop --all >"$tmp/stopped"; echo "  stop --all: $(since "$began") ms, $(wc -l <"$tmp/stopped") stopped"

# Runs in the machine: one line for each check, `CHECK WHO/WHAT pass` or `… FAIL why`.
cat > /tmp/checks <<'CHECKS'
export VESSELRT_IDLE=0 VESSELRT_ROOT=$HOME/store
# A buffer of so much memory.
hog='dd if=/dev/zero of=/dev/null bs=60M count=1; exit $?'
many='i=0; while [ $i -lt 40 ]; do sleep 60 & i=$((i+1)); done'
out=$HOME/out

check() {
    what=$1
    shift
    if "$@" > "$out" 2>&1; then
        echo "CHECK $who/$what pass"
    else
        echo "CHECK $who/$what FAIL $(tail -c 600 "$out" | tr '\n' '|')"
    fi
}

# expect CODE COMMAND…: it exits with that code.
expect() {
    wanted=$1
    shift
    code=0
    "$@" || code=$?
    [ "$code" = "$wanted" ] || { echo "exit code $code and not $wanted of: $*"; return 1; }
}

groups() { find /sys/fs/cgroup -type d -name 'vesselrt-*' ! -name vesselrt-aside; }
number() { sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p" "$2" | head -n 1; }

import() { vesselrt image import /data/base.tar --ref base:1; }

without() {
    [ "$(vesselrt run --rm base:1 -- sh -c 'echo hello')" = hello ] && [ -z "$(groups)" ]
}

memory() {
    expect 137 vesselrt run --rm --memory 32m base:1 -- sh -c "$hog" > "$out.2" 2>&1 || { cat "$out.2"; return 1; }
    cat "$out.2"
    grep -q 'memory' "$out.2" && [ -z "$(groups)" ]
}

pids() {
    vesselrt run --rm --pids 20 base:1 -- sh -c "$many" > "$out.2" 2>&1 && return 1
    cat "$out.2"
    grep -q fork "$out.2"
}

cpu() {
    vesselrt create base:1 --id cpu --cpus 0.5 && vesselrt start cpu || return 1
    expect 124 vesselrt exec cpu --timeout 3s -- sh -c '(while :; do :; done) & while :; do :; done' || return 1
    vesselrt stats cpu --json > "$out.2"
    cat "$out.2"
    used=$(number cpuTimeUs "$out.2")
    throttled=$(number throttledUs "$out.2")
    vesselrt rm cpu
    # Half of three seconds, with what the start of a command takes in an emulated machine.
    [ "$used" -gt 200000 ] && [ "$used" -lt 2600000 ] && [ "$throttled" -gt 0 ]
}

update() {
    vesselrt create base:1 --id up && vesselrt start up || return 1
    [ -z "$(groups)" ] || return 1
    vesselrt exec up -- sleep 60 &
    sleep 2
    vesselrt update up --memory 48m --pids 30 --cpus 1.5 || return 1
    group=$(groups | head -n 1)
    cat "$group"/memory.max "$group"/pids.max "$group"/cpu.max "$group"/memory.swap.max "$group"/pids.current
    [ "$(cat "$group/memory.max")" = 50331648 ] && [ "$(cat "$group/pids.max")" = 30 ] || return 1
    [ "$(cat "$group/cpu.max")" = '150000 100000' ] && [ "$(cat "$group/pids.current")" -ge 2 ] || return 1
    expect 137 vesselrt exec up -- sh -c "$hog" || return 1
    vesselrt update up --memory none || return 1
    [ "$(cat "$group/memory.max")" = max ] || return 1
    expect 0 vesselrt exec up -- sh -c "$hog" || return 1
    vesselrt stop up
    wait
    [ -z "$(groups)" ]
}

tighter() {
    expect 137 vesselrt exec up --memory 24m -- sh -c "$hog" || return 1
    expect 0 vesselrt exec up -- sh -c "$hog" || return 1
    vesselrt exec up --pids 6 -- sh -c "$many" && return 1
    return 0
}

inside() {
    vesselrt exec up -- cat /proc/self/cgroup > "$out.2" || return 1
    cat "$out.2"
    grep -q delegated "$out.2" && return 1
    [ "$(vesselrt exec up -- sh -c 'ls -A /sys/fs/cgroup | wc -l')" = 0 ] || return 1
    vesselrt exec up -- mount -t cgroup2 cgroup2 /tmp && return 1
    return 0
}

stats() {
    vesselrt start up && vesselrt exec up -- sh -c "$hog" || return 1
    vesselrt stats up --json > "$out.2"
    cat "$out.2"
    grep -q '"source": "cgroup"' "$out.2" && grep -q '"enforcement": "cgroup-v2"' "$out.2" || return 1
    [ "$(number memoryPeak "$out.2")" -gt 1000000 ] && [ "$(number cpuTimeUs "$out.2")" -gt 0 ] || return 1
    vesselrt inspect up --json | grep -q '"enforcement": "cgroup-v2"'
}

killed() {
    groups | grep -q . || return 1
    for process in /proc/[0-9]*; do
        if grep -q '^vesselrt-shim' "$process/cmdline" 2>/dev/null; then kill -9 "${process#/proc/}"; fi
    done
    sleep 1
    groups | grep -q . || { echo 'nobody was there to remove it'; return 1; }
    vesselrt gc && [ -z "$(groups)" ]
}

refused() {
    expect 125 vesselrt create base:1 --memory 64m > "$out.2" 2>&1 || { cat "$out.2"; return 1; }
    cat "$out.2"
    grep -q 'Delegate=yes' "$out.2" && grep -q -- '--best-effort' "$out.2" || return 1
    vesselrt create base:1 --id no || return 1
    expect 125 vesselrt update no --pids 30 && expect 125 vesselrt exec no --cpus 1 -- true
}

best_effort() {
    vesselrt create base:1 --id best --memory 32m --pids 12 --best-effort && vesselrt start best || return 1
    vesselrt inspect best --json | grep -q '"enforcement": "best-effort"' || return 1
    vesselrt exec best -- sh -c "$hog" && return 1
    vesselrt exec best -- sh -c "$many" && return 1
    vesselrt exec best -- true
}

clean() {
    vesselrt stop --all && vesselrt gc || return 1
    groups
    [ -z "$(groups)" ] && ! grep -q vesselrt-shim /proc/[0-9]*/cmdline
}

check import import
check without without
if [ "$who" = plain ]; then
    check refused refused
    check best-effort best_effort
else
    check memory memory
    check pids pids
    check cpu cpu
    check update update
    check tighter tighter
    check inside inside
    check stats stats
    check killed killed
fi
check clean clean
CHECKS

# as WHO USER GROUP: the checks as that user, in that control group.
as() {
    sh -c 'echo $$ > "$0/cgroup.procs" && exec su "$1" -c "export PATH=/bin who=$2; sh /tmp/checks"' "$3" "$2" "$1"
}

as root root /sys/fs/cgroup
# What systemd-run --user --scope -p Delegate=yes makes of a group.
echo '+cpu +memory +pids +io' > /sys/fs/cgroup/cgroup.subtree_control
mkdir /sys/fs/cgroup/delegated
for file in '' /cgroup.procs /cgroup.subtree_control /cgroup.threads; do
    chown user "/sys/fs/cgroup/delegated$file"
done
as delegated user /sys/fs/cgroup/delegated
rm -rf /home/user/store
mkdir /sys/fs/cgroup/plain
as plain user /sys/fs/cgroup/plain

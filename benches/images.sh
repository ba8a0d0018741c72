#!/bin/bash
# How fast images come in and snapshots come back, beside the peers that are installed.
#
#   benches/images.sh VESSELRT ROOTFS.tar.gz [ROUNDS]       for one: benches/images.sh target/release/vesselrt debian.tar.gz 5
#
# ROOTFS.tar.gz is a root file system, such as `mmdebstrap --variant=minbase bookworm debian.tar && gzip -1 debian.tar`
# makes. Peers: tar, umoci, podman, skopeo, zstd; the registry is Debian's docker-registry on loopback. What is not
# installed is left out. Runs alternate; each begins with nothing; the first round does not count. Medians in
# milliseconds, and ours as a part of the peer's. Disk: about ten times the root file system, under $TMPDIR.
#
# ext4 does not use the inodes of removed files again for a minute or more, and makes everybody who creates files beside
# them pay for that; vesselrt unpacks elsewhere. SPREAD=1 gives the peers the same advantage (chattr +T), SPREAD=0 shows
# what users get (the default). RACES="import pull restore" says which ones.
set -euo pipefail

bin=$(realpath "$1"); rootfs=$(realpath "$2"); rounds=${3:-5}; spread=${SPREAD:-0}
tmp=$(mktemp -d "${TMPDIR:-/tmp}/vesselrt-images-XXXXXX"); results=$tmp/results
export HOME=$tmp/home REGISTRY_AUTH_FILE=$tmp/home/auth.json; mkdir -p "$HOME"; echo "{}" >"$REGISTRY_AUTH_FILE"
registry=
finish() { [ -z "$registry" ] || kill "$registry" 2>/dev/null || true; rm -rf "$tmp"; }
trap finish EXIT

have() { command -v "$1" >/dev/null; }
fresh() { # DIR: an empty directory, where the disk has room if SPREAD says so
    rm -rf "$tmp/at"; mkdir "$tmp/at"
    [ "$spread" = 0 ] || chattr +T "$tmp/at" 2>/dev/null || true
    mkdir "$tmp/at/$RANDOM$RANDOM" && mv "$tmp"/at/* "$1"
}
timed() { # RACE NAME COMMAND...
    local race=$1 name=$2 start end; shift 2
    start=$(date +%s%N); "$@" >"$tmp/out" 2>&1 || { echo "$race: $name failed:"; cat "$tmp/out"; return; }; end=$(date +%s%N)
    [ "$round" = 0 ] || echo "$race $name $(((end - start) / 1000))" >>"$results"
}
median() { sort -n | awk '{ v[NR] = $1 } END { print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'; }
report() { # RACE
    local race=$1 ours name took
    ours=$(awk -v r="$race" '$1 == r && $2 == "vesselrt" { print $3 }' "$results" | median)
    echo "## $race"
    for name in $(awk -v r="$race" '$1 == r && !seen[$2]++ { print $2 }' "$results"); do
        took=$(awk -v r="$race" -v n="$name" '$1 == r && $2 == n { print $3 }' "$results" | median)
        awk -v n="$name" -v t="$took" -v o="$ours" 'BEGIN { printf "  %-24s %8.0f ms   ours/peer %.2f\n", n, t / 1000, o / t }'
    done
}
podman_() { podman --root "$tmp/podman" --runroot "$tmp/podman-run" "$@"; }

# One image of six layers: the entries of the root file system in their order, cut at equal numbers of bytes.
layers() {
    python3 - "$rootfs" "$tmp" <<'PY'
import sys, tarfile
source, to = tarfile.open(sys.argv[1]), sys.argv[2]
members = source.getmembers()
total, at, part, out = sum(m.size for m in members), 0, -1, None
for member in members:
    if out is None or (at * 6 // max(total, 1) > part and part < 5):
        if out: out.close()
        part += 1
        out = tarfile.open(f"{to}/layer{part}.tar", "w")
    at += member.size
    out.addfile(member, source.extractfile(member) if member.isreg() else None)
out.close()
PY
    umoci init --layout "$tmp/six"; umoci new --image "$tmp/six:1"
    for part in 0 1 2 3 4 5; do umoci raw add-layer --image "$tmp/six:1" "$tmp/layer$part.tar"; done
    rm "$tmp"/layer?.tar
}
serve() {
    local port=$((20000 + RANDOM % 20000))
    printf 'version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: %s\nhttp:\n  addr: 127.0.0.1:%s\n' \
        "$tmp/registry" "$port" >"$tmp/registry.yml"
    # Its own settings have that prefix.
    env -u REGISTRY_AUTH_FILE docker-registry serve "$tmp/registry.yml" >"$tmp/registry.log" 2>&1 & registry=$!
    mkdir -p "$HOME/.config/vesselrt"
    printf '[registry."127.0.0.1:%s"]\nplain_http = true\n' "$port" >"$HOME/.config/vesselrt/config.toml"
    image=127.0.0.1:$port/bench/six:1
    for _ in $(seq 100); do (: </dev/tcp/127.0.0.1/"$port") 2>/dev/null && break; sleep 0.05; done
    skopeo copy -q --dest-tls-verify=false "oci:$tmp/six:1" "docker://$image"
}

import_race() {
    if have umoci && have skopeo && have podman; then
        podman_ import -q "$rootfs" localhost/bench:1 >/dev/null 2>&1
        skopeo copy -q "containers-storage:[overlay@$tmp/podman+$tmp/podman-run]localhost/bench:1" "oci:$tmp/one:1" 2>/dev/null || true
    fi
    for round in $(seq 0 "$rounds"); do
        timed import vesselrt "$bin" --root "$tmp/store" image import "$rootfs" --ref bench:1; rm -rf "$tmp/store"
        fresh "$tmp/tree"; timed import "tar-xzf" tar -C "$tmp/tree" -xzf "$rootfs"; rm -rf "$tmp/tree"
        if [ -d "$tmp/one" ]; then
            fresh "$tmp/bundles"; timed import umoci-unpack umoci unpack --image "$tmp/one:1" "$tmp/bundles/b"; rm -rf "$tmp/bundles"
        fi
        if have podman; then
            timed import podman-import podman_ import -q "$rootfs" localhost/bench:2; podman_ rmi -f localhost/bench:2 >/dev/null 2>&1 || true
        fi
    done
    report import
}
pull_race() {
    have docker-registry && have umoci && have skopeo || { echo "## pull: needs docker-registry, umoci and skopeo"; return; }
    layers; serve
    for round in $(seq 0 "$rounds"); do
        rm -rf "$tmp/store"; timed pull vesselrt "$bin" --root "$tmp/store" pull "$image"
        timed pull-again vesselrt "$bin" --root "$tmp/store" pull "$image"
        rm -rf "$tmp/layout"; fresh "$tmp/bundles"
        timed pull skopeo+umoci sh -c "skopeo copy -q --src-tls-verify=false docker://$image oci:$tmp/layout:1 &&
            umoci unpack --image $tmp/layout:1 $tmp/bundles/b"; rm -rf "$tmp/layout" "$tmp/bundles"
        if have podman; then
            timed pull podman-pull podman_ pull -q --tls-verify=false "$image"
            timed pull-again podman-pull podman_ pull -q --tls-verify=false "$image"
            podman_ rmi -f "$image" >/dev/null 2>&1 || true
        fi
    done
    report pull; report pull-again
}
restore_race() {
    have zstd || { echo "## restore: needs zstd"; return; }
    local store=$tmp/store id snapshot archive
    rm -rf "$store"; fresh "$tmp/tree"; tar -C "$tmp/tree" -xzf "$rootfs" --exclude='./dev/*'
    "$bin" --root "$store" image import "$rootfs" --ref bench:1 >/dev/null 2>&1
    id=$("$bin" --root "$store" create bench:1 | tail -1); "$bin" --root "$store" cp "$tmp/tree" "$id:/srv/" >/dev/null
    snapshot=$("$bin" --root "$store" snapshot create "$id" | tail -1)
    archive=$(ls "$store"/data/vessels/*/snapshots/*.tar.zst)
    for round in $(seq 0 "$rounds"); do
        rm -rf "$store/layers/$snapshot"
        timed restore vesselrt "$bin" --root "$store" snapshot restore "$id" "$snapshot"
        fresh "$tmp/tree2"; timed restore "zstd-d|tar-x" sh -c "zstd -dcq $archive | tar -C $tmp/tree2 -xf -"; rm -rf "$tmp/tree2"
    done
    report restore
}

: >"$results"
for race in ${RACES:-import pull restore}; do "${race}_race"; done

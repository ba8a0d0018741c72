# Run in a machine that was booted for it, as root: mounts of root and of a user without subordinate ids, on file systems in
# memory. The part between the marks is the user's script too.
cat > /data/check <<'END'
export PATH=/bin VESSELRT_IDLE=0 VESSELRT_ROOT=$3
who=$1; src=$2
check() {
    name=$1; shift
    if "$@" >/tmp/out-$who 2>&1; then echo "CHECK $who/$name pass"; else echo "CHECK $who/$name FAIL"; cat /tmp/out-$who; fi
}
says() {
    wanted=$1; shift
    found=$("$@")
    [ "$found" = "$wanted" ] || { echo "$found is not $wanted"; return 1; }
}
fails() {
    ! "$@"
}
check import vesselrt image import /data/base.tar --ref base
check create vesselrt create base --id v -v $src:/data -v $src/sub:/ro:ro -v vol:/vol --mount type=tmpfs,dst=/mem,size=1m
check reads says mine vesselrt exec v -- cat /data/f
check writes vesselrt exec v -- sh -c 'echo w > /data/sub/w && echo v > /vol/v && echo m > /mem/m'
check outside says w cat $src/sub/w
check ephemeral says "$(printf 'w\nv')" vesselrt exec --ephemeral v -- cat /data/sub/w /vol/v
check read-only fails vesselrt exec v -- sh -c 'echo no > /ro/w'
check files says w vesselrt fs cat v /ro/w
check snapshot vesselrt snapshot create v -m x
check afterwards says "$(printf 'w\nv')" vesselrt exec v -- cat /data/sub/w /vol/v
check used fails vesselrt volume rm vol
check removed vesselrt rm v
check volume vesselrt volume rm vol
END
mkdir -p /host/sub /home/user/host/sub
echo mine > /host/f
echo mine > /home/user/host/f
# Where ids cannot be mapped, root's files are nobody's: what everybody may write can be written.
chmod 777 /host/sub
chown -R 1000:1000 /home/user
chmod 755 /host /data
sh /data/check root /host /host-store
su user -c 'sh /data/check user /home/user/host /home/user/store'

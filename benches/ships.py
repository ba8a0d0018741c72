#!/usr/bin/env python3
"""Many ships that are all used at once: whether every answer is right, what they cost, and whether anything is left of them.

  benches/ships.py VESSELRT ROOTFS.tar [--ships 100] [--clients 4] [--seconds 60] [--ttl 90] [--rounds 1] [--as USER]

The image needs a shell and python3. A client is a session: 4 clients are 4 users of a ship, each with a Python of its own.
Each does one thing after the other without a pause (shell, Python, files, uploads and downloads, background processes, now and
then a terminal over a WebSocket) and compares what it is answered with what it must be. Then nobody does anything for as
long as the sessions have, and what is left is counted: ships, processes, sockets, mounts, control groups, descriptors.

Memory is Private_Clean and Private_Dirty of smaps_rollup (proc_pid_smaps(5)) and, as forks share pages that are nobody's
alone then, Pss_Anon and Pss_Shmem beside it; what is ours (the service, and of each ship shim, inits, slots, loggers)
apart from what is the guest's (Python, shells, commands). An ordinary user may not look into processes of user namespaces:
start it as root with --as USER, which then is who runs the service.
"""
import argparse, asyncio, base64, collections, json, os, pwd, re, shutil, signal, subprocess, sys, tempfile, time

TOKEN = "bench"
ERRORS = []


def wrong(what, got):
    ERRORS.append((what, str(got)[:300]))


class Client:
    """A session and its connection."""

    def __init__(self, port, session):
        self.port, self.session, self.ship = port, session, None
        self.reader = self.writer = None
        self.times = collections.defaultdict(list)
        self.count = 0

    async def ask(self, method, path, body=None, kind="application/json", stream=None):
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nX-SESSION-ID: {self.session}\r\n"
        if body is not None:
            head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        self.writer.write(head.encode() + b"\r\n" + (body or b""))
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 120)
        status = int(head.split(b" ", 2)[1])
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        answer = await asyncio.wait_for(self.reader.readexactly(int(length.group(1))), 120) if length else b""
        return status, answer

    async def exec(self, kind, payload):
        status, answer = await self.ask("POST", f"/ship/{self.ship}/exec", {"type": kind, "payload": payload})
        if status != 200:
            wrong(f"{kind} {payload}", f"{status} {answer!r}")
            return {}
        return json.loads(answer)["data"]

    async def timed(self, name, work):
        began = time.perf_counter()
        try:
            await work
        except Exception as error:
            wrong(name, repr(error))
            self.writer = None
        self.times[name].append(time.perf_counter() - began)

    async def shell(self):
        done = await self.exec("shell/exec", {"command": f"echo {self.session} {self.count}; echo e >&2; exit 3"})
        if (done.get("stdout"), done.get("stderr"), done.get("return_code")) != (f"{self.session} {self.count}", "e", 3):
            wrong("shell", done)

    async def python(self):
        code = f"seen = globals().get('seen', 0) + 1\nprint('{self.session}', {self.count})\nseen"
        done = await self.exec("ipython/exec", {"code": code})
        self.seen = getattr(self, "seen", 0) + 1
        if done.get("output", {}).get("text") != f"{self.session} {self.count}\n{self.seen}":
            wrong("python", (self.seen, done))

    async def files(self):
        text = f"{self.session} {self.count}\n"
        await self.exec("fs/write_file", {"path": "notes/a.txt", "content": text} if self.count > 4 else {"path": "a.txt", "content": text})
        path = "notes/a.txt" if self.count > 4 else "a.txt"
        done = await self.exec("fs/read_file", {"path": path})
        if done.get("content") != text:
            wrong("read_file", done)
        done = await self.exec("fs/edit_file", {"path": path, "old_string": self.session, "new_string": "x"})
        if done.get("replacements") != 1:
            wrong("edit_file", done)
        done = await self.exec("fs/list_dir", {"path": "."})
        if not any(f["name"] in ("a.txt", "notes") for f in done.get("files", [])):
            wrong("list_dir", done)

    async def transfer(self):
        content = os.urandom(1000) * 50
        part = lambda head, data: b"--b\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + data + b"\r\n"
        form = part(b'name="file"; filename="upload"', content) + part(b'name="file_path"', b"up.bin") + b"--b--\r\n"
        status, answer = await self.ask("POST", f"/ship/{self.ship}/upload", form, "multipart/form-data; boundary=b")
        if status != 200:
            wrong("upload", (status, answer))
        status, answer = await self.ask("GET", f"/ship/{self.ship}/download?file_path=up.bin")
        if status != 200 or answer != content:
            wrong("download", (status, len(answer)))

    async def background(self):
        done = await self.exec("shell/exec", {"command": "sleep 1", "background": True})
        known = await self.exec("shell/processes", {})
        if done.get("process_id") not in [p["process_id"] for p in known.get("processes", [])]:
            wrong("background", (done, known))

    async def terminal(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            key = base64.b64encode(os.urandom(16)).decode()
            writer.write(f"GET /ship/{self.ship}/term?token={TOKEN}&session_id={self.session} HTTP/1.1\r\nHost: localhost\r\n"
                f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
            if b" 101 " not in head:
                return wrong("terminal", head)
            typed = f"echo $((6*7))-{self.session}\n".encode()
            writer.write(bytes([0x81, 0x80 | len(typed), 0, 0, 0, 0]) + typed)
            shown = b""
            while f"42-{self.session}".encode() not in shown:
                kind, length = await asyncio.wait_for(reader.readexactly(2), 60)
                if length == 126:
                    length = int.from_bytes(await reader.readexactly(2), "big")
                data = await reader.readexactly(length)
                if kind & 15 == 8:
                    return wrong("terminal", shown)
                shown += data
        finally:
            writer.close()

    async def work(self, until):
        turn = ["shell", "python", "files", "python", "shell", "transfer", "python", "shell"]
        self.count = hash(self.session) % 40
        while time.monotonic() < until:
            self.count += 1
            name = "terminal" if self.count % 40 == 0 else "background" if self.count % 40 == 20 else turn[self.count % len(turn)]
            await self.timed(name, getattr(self, name)())


class Processes:
    """What there is of a store's vessels."""

    def __init__(self, store, service):
        self.mark, self.service = (store + "/vessels/").encode(), str(service)

    @staticmethod
    def read(pid, name):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                return file.read()
        except OSError:
            return b""

    def all(self):
        """Ours and the guests', by who is below what."""
        parents, lines, tops = {}, {}, {self.service}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            stat = self.read(pid, "stat")
            if not stat:
                continue
            fields = stat.rsplit(b")", 1)[1].split()
            if fields[0] == b"Z":
                continue
            parents[pid], lines[pid] = fields[1].decode(), self.read(pid, "cmdline")
            if lines[pid].startswith(b"vesselrt-") and self.mark in self.read(pid, "mountinfo"):
                tops.add(pid)
        ours, guests = [], []
        for pid in parents:
            top = pid
            while top in parents and top not in tops:
                top = parents[top]
            if top in tops:
                (ours if pid == self.service or lines[pid].startswith(b"vesselrt-") else guests).append(pid)
        return ours, guests

    def memory(self, pids):
        """Private and proportional bytes."""
        private = shared = 0
        for pid in pids:
            rows = [row.split() for row in self.read(pid, "smaps_rollup").splitlines()]
            if not rows:
                private += sum(int(row.split()[1]) for row in self.read(pid, "status").splitlines() if row.startswith(b"RssAnon"))
            private += sum(int(row[1]) for row in rows if row and row[0].startswith(b"Private_"))
            shared += sum(int(row[1]) for row in rows if row and row[0] in (b"Pss_Anon:", b"Pss_Shmem:"))
        return private << 10, shared << 10

    def descriptors(self):
        try:
            return len(os.listdir(f"/proc/{self.service}/fd"))
        except OSError:
            return 0


def left(store, before, vessels):
    """What is not a process: sockets, mounts of the host, control groups of these vessels."""
    sockets = subprocess.run(["find", store + "/vessels", "-type", "s"], capture_output=True, text=True).stdout.split()
    mounts = len(open("/proc/self/mountinfo").readlines()) - before
    groups = [name for _, names, _ in os.walk("/sys/fs/cgroup") for name in names if name.rsplit("-", 1)[-1] in vessels]
    return len(sockets), mounts, len(groups)


def mib(size):
    return f"{size / (1 << 20):.2f}"


async def watch(processes, until, worst):
    while time.monotonic() < until:
        await asyncio.sleep(5)
        ours, guests = await asyncio.to_thread(processes.all)
        rest = await asyncio.to_thread(processes.memory, [p for p in ours if p != processes.service])
        service = await asyncio.to_thread(processes.memory, [processes.service])
        total = (service[0] + rest[0], service[1] + rest[1])
        if total > worst.get("total", (0, 0)):
            worst.update(total=total, service=service, rest=rest, count=len(ours), guests=len(guests))


async def run(args, store, port, service, round):
    processes = Processes(store, service)
    descriptors = processes.descriptors()
    baseline = processes.memory([processes.service])
    print(f"{args.ships} ships, {args.clients} clients each, {args.seconds} s, as {args.user or pwd.getpwuid(os.getuid()).pw_name}")
    mounts = len(open("/proc/self/mountinfo").readlines())
    clients = [Client(port, f"s{round}-{ship}-{n}") for ship in range(args.ships) for n in range(args.clients)]
    vessels, began = set(), time.monotonic()
    for n, client in enumerate(clients):
        ask = {"ttl": args.ttl, "max_session_num": args.clients, "force_create": n % args.clients == 0}
        status, answer = await client.ask("POST", "/ship", ask)
        if status != 201:
            sys.exit(f"failed to create a ship: {status} {answer!r}")
        ship = json.loads(answer)
        client.ship = ship["id"]
        vessels.add(ship["container_id"])
    print(f"  created in {time.monotonic() - began:.1f} s")
    began, several = time.monotonic(), asyncio.Semaphore(8)

    async def first(client):
        async with several:
            await client.timed("first", client.python())
    await asyncio.gather(*map(first, clients))
    print(f"  a Python for each session in {time.monotonic() - began:.1f} s")
    worst, until = {}, time.monotonic() + args.seconds
    await asyncio.gather(watch(processes, until, worst), *(client.work(until) for client in clients))
    done = collections.defaultdict(list)
    for client in clients:
        for name, times in client.times.items():
            done[name] += times
    total = sum(len(times) for name, times in done.items() if name != "first")
    print(f"  {total} operations, {total / args.seconds:.0f} a second, {len(ERRORS)} errors")
    for name, times in sorted(done.items()):
        times.sort()
        print(f"    {name:<10} {len(times):>6}  p50 {times[len(times) // 2] * 1e3:7.1f} ms  p99 {times[len(times) * 99 // 100] * 1e3:7.1f} ms")
    for what, count in collections.Counter(ERRORS).most_common(10):
        print(f"    error {count}x {what[0]}: {what[1]}")
    each = tuple(size / args.ships for size in worst["total"])
    print(f"  memory of ours at its most, a ship: {mib(each[0])} MiB private ({mib(each[1])} proportional); the service "
          f"{mib(worst['service'][0])}, {worst['count'] - 1} other processes {mib(worst['rest'][0])}")
    await asyncio.sleep(3)
    ours, guests = processes.all()
    idle, theirs = processes.memory(ours), processes.memory(guests)
    print(f"  the same when nobody asks: {mib(idle[0] / args.ships)} MiB private ({mib(idle[1] / args.ships)} proportional) in "
          f"{len(ours)} processes; guests: {mib(theirs[0] / args.ships)} MiB in {len(guests)}")
    print(f"  descriptors of the service: {descriptors} before, {processes.descriptors()} now")
    for client in clients[1:]:
        if client.writer is not None:
            client.writer.close()
    for _ in range(args.ttl + 60):
        await asyncio.sleep(1)
        status, answer = await clients[0].ask("GET", "/ships")
        states = collections.Counter(ship["status"] for ship in json.loads(answer))
        ours, guests = processes.all()
        if not states[1] and len(ours) + len(guests) == 1:
            break
    await asyncio.sleep(2)
    ours, guests = processes.all()
    things = left(store, mounts, vessels)
    memory = processes.memory([processes.service])
    print(f"  after {args.ttl} s: ships up {states[1]}, stopped {states[0]}; processes beside the service {len(ours) + len(guests) - 1}, "
          f"sockets {things[0]}, mounts {things[1]}, groups {things[2]}, descriptors {processes.descriptors()}, "
          f"service {mib(memory[0])} MiB ({mib(baseline[0])} before)")
    clean = not states[1] and len(ours) + len(guests) == 1 and not any(things)
    return not ERRORS and clean


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vesselrt")
    parser.add_argument("rootfs")
    parser.add_argument("--ships", type=int, default=100)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--ttl", type=int, default=90)
    parser.add_argument("--as", dest="user", help="who runs the service, if this is started as root")
    parser.add_argument("--rounds", type=int, default=1, help="do all of it more than once, with the same service")
    args = parser.parse_args()
    tmp = os.path.realpath(tempfile.mkdtemp(prefix="vesselrt-ships-"))
    store, log = tmp + "/store", open(tmp + "/log", "w+")
    who = {}
    if args.user:
        user = pwd.getpwnam(args.user)
        os.chown(tmp, user.pw_uid, user.pw_gid)
        who = dict(user=user.pw_uid, group=user.pw_gid, extra_groups=[], cwd="/")
    env = {"PATH": os.environ["PATH"], "HOME": tmp, "VESSELRT_ROOT": store, "ACCESS_TOKEN": TOKEN}
    call = lambda *argv: subprocess.run([args.vesselrt, *argv], check=True, env=env, stdout=subprocess.DEVNULL, **who)
    args.vesselrt = os.path.realpath(args.vesselrt)
    service, good = None, False
    try:
        call("image", "import", os.path.realpath(args.rootfs), "--ref", "ship:latest")
        service = subprocess.Popen([args.vesselrt, "serve", "--json", "--listen", "127.0.0.1:0", "--when-full", "reject",
            "--max-ships", str(args.ships)], env=env, stdout=subprocess.PIPE, stderr=log, text=True, **who)
        port = int(json.loads(service.stdout.readline())["url"].rsplit(":", 1)[1])
        good = all([asyncio.run(run(args, store, port, service.pid, n)) for n in range(args.rounds)])
        service.send_signal(signal.SIGTERM)
        good &= service.wait(30) == 0
    finally:
        if service and service.poll() is None:
            service.kill()
            service.wait()
        log.seek(0)
        for line in [line for line in log if " WARN " in line or " ERROR " in line][:5]:
            print("  log:", line.strip()[:300])
        for vessel in subprocess.run([args.vesselrt, "ls", "-q"], env=env, capture_output=True, text=True, **who).stdout.split():
            call("rm", vessel)
        call("image", "rm", "ship:latest")
        call("gc")
        shutil.rmtree(tmp, ignore_errors=True)
    sys.exit(0 if good else 1)


main()

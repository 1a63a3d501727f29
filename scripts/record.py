"""Asks real servers and writes what they answer, byte by byte, into fixtures/. scripts/record runs it.

Whatever is another one at every run (ports, ids, times, sizes) is made constant, so that recording again changes
nothing as long as the servers are the same.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures")
# How long anything may take that is bound to happen.
PATIENCE = 30
PASSWORD = "secret"
# In place of the ports that the system picks.
PRIMARY, REPLICA, SENTINEL = 6379, 6380, 26379

questions = {}


# --- The protocol ---------------------------------------------------------------------------------------------------

def command(words):
    """A command as clients send it."""
    words = [word if isinstance(word, bytes) else word.encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def read_reply(stream):
    """One reply as a list of pieces: whole lines as (None, line), strings with a length as (type, string)."""
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise EOFError(f"the connection ended after {line!r}")
    kind, rest = line[:1], line[1:-2]
    if kind in b"$=!" and rest != b"-1":
        text = stream.read(int(rest) + 2)
        return [(kind, text[:-2])]
    pieces = [(None, line[:-2])]
    # What a list has of each of its items.
    each = {b"*": 1, b"~": 1, b">": 1, b"%": 2, b"|": 2}.get(kind, 0)
    for _ in range(each * int(rest) if each and rest != b"-1" else 0):
        pieces += read_reply(stream)
    return pieces


def written(pieces):
    """The bytes of these pieces."""
    lines = [text if kind is None else b"%s%d\r\n%s" % (kind, len(text), text) for kind, text in pieces]
    return b"".join(line + b"\r\n" for line in lines)


class Client:
    """A connection to a server, on a Unix socket or over TCP."""

    def __init__(self, address):
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(address)
        self.stream = self.socket.makefile("rb")

    def send(self, *commands):
        """Commands as lists of words, or in one string."""
        lists = [words.split() if isinstance(words, str) else words for words in commands]
        self.socket.sendall(b"".join(map(command, lists)))

    def replies(self, number):
        return [read_reply(self.stream) for _ in range(number)]

    def ask(self, *commands):
        """The replies to these commands, in one list of pieces."""
        self.send(*commands)
        return [piece for reply in self.replies(len(commands)) for piece in reply]

    def rest(self):
        """Everything up to the end that the server makes of the connection."""
        with contextlib.suppress(ConnectionResetError):
            return self.stream.read()
        return b""

    def close(self):
        self.stream.close()
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# --- Servers --------------------------------------------------------------------------------------------------------

def free_port():
    """One to which a cluster's own port, 10000 higher, is one too."""
    while True:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        if port <= 55535:
            return port


class Server:
    """A server with these lines of configuration, on a Unix socket; over TCP too, where it is given a port."""

    def __init__(self, program, *lines, port=0, bind="127.0.0.1", sentinel=False, directory=None):
        self.program, self.lines, self.port, self.bind, self.sentinel = program, lines, port, bind, sentinel
        self.kept = directory
        self.directory = directory or tempfile.mkdtemp(prefix="record-")
        self.socket = os.path.join(self.directory, "redis.sock")
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise

    def start(self):
        path = os.path.join(self.directory, "redis.conf")
        lines = [f"dir {self.directory}", f"unixsocket {self.socket}", f"port {self.port}"]
        lines += [f"bind {self.bind}"] if self.bind else []
        lines += [] if self.sentinel else ['save ""', "appendonly no", "repl-diskless-sync-delay 0"]
        with open(path, "w", encoding="ascii") as file:
            file.write("\n".join([*lines, *self.lines, ""]))
        arguments = [self.program, path] + (["--sentinel"] if self.sentinel else [])
        with open(os.path.join(self.directory, "log"), "wb") as log:
            self.process = subprocess.Popen(arguments, stdout=log, stderr=log)
        self.wait_for("an answer", self.answers)

    def wait_for(self, what, holds):
        deadline = time.monotonic() + PATIENCE
        while not holds():
            if self.process.poll() is not None or time.monotonic() > deadline:
                with open(os.path.join(self.directory, "log"), encoding="utf-8") as log:
                    sys.exit(f"{self.program}: waited in vain for {what}\n{log.read()}")
            time.sleep(0.02)

    def answers(self):
        with contextlib.suppress(OSError), Client(self.socket) as client:
            client.send("PING")
            return client.stream.readline()[:1] in (b"+", b"-")
        return False

    def client(self):
        return Client(self.socket)

    def ask(self, *commands):
        """The same over a connection of their own."""
        with self.client() as client:
            return client.ask(*commands)

    def info(self, section, field):
        text = self.ask(f"INFO {section}")[0][1].decode()
        return next((line.split(":", 1)[1] for line in text.splitlines() if line.startswith(field + ":")), None)

    def stop(self):
        # There is nothing to save.
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
        if not self.kept:
            shutil.rmtree(self.directory)


# --- What is another one at every run -------------------------------------------------------------------------------

# What INFO says of the server and its part in replication; every other number in it is of this machine and moment.
KEPT_IN_INFO = {
    "redis_version", "valkey_version", "valkey_release_stage", "server_name", "redis_git_sha1", "redis_git_dirty",
    "redis_build_id", "redis_mode", "server_mode", "arch_bits", "gcc_version", "multiplexing_api", "atomicvar_api",
    "mem_allocator", "connected_slaves", "role", "master_host", "master_port", "cluster_enabled", "slave_priority",
    "slave_read_only", "replica_announced", "hz", "configured_hz",
}
# The fields of CLIENT INFO whose numbers say something.
KEPT_OF_CLIENT = {"name", "db", "sub", "psub", "ssub", "multi", "watch", "resp", "lib-name", "lib-ver"}
# The fields of SENTINEL MASTER and SENTINEL REPLICAS whose numbers say something.
KEPT_OF_SENTINEL = {
    b"port", b"config-epoch", b"num-slaves", b"num-other-sentinels", b"quorum", b"slave-priority", b"parallel-syncs",
    b"failover-timeout", b"down-after-milliseconds", b"replica-announced", b"master-port",
}


def without_numbers(text):
    return re.sub(r"-?\d+(\.\d+)?", "0", text)


def info_line(line):
    name, colon, value = line.partition(":")
    if re.fullmatch(r"slave\d+", name):
        return f"{name}:" + re.sub(r"(offset|lag)=\d+", r"\1=0", value)
    if not colon or name in KEPT_IN_INFO:
        return line
    if re.fullmatch("[0-9a-f]{40}", value):
        return f"{name}:{'0' * 40}"
    constant = {
        "os": "Linux x86_64", "executable": "/usr/bin/redis-server", "config_file": "/etc/redis/redis.conf",
        "tcp_port": str(PRIMARY), "monotonic_clock": "POSIX clock_gettime", "used_memory_peak_perc": "0%",
    }
    if name in constant:
        return f"{name}:{constant[name]}"
    return f"{name}:0B" if name.endswith("_human") else f"{name}:{without_numbers(value)}"


def client_field(field):
    name, equals, value = field.partition("=")
    return field if not equals or name in KEPT_OF_CLIENT or "/" in value else f"{name}={without_numbers(value)}"


class Constant:
    """Makes constant what is another one at every run. The ports and directories that it is given have a name."""

    def __init__(self, ports=(), directories=()):
        self.ports = {str(port).encode(): str(name).encode() for port, name in ports}
        self.directories = [directory.encode() for directory in directories]

    def __call__(self, pieces):
        done, before = [], None
        for kind, text in pieces:
            text = self.named(text)
            if kind is None and text[:1] == b":":
                text = self.number(text, before)
            elif kind == b"$":
                text = self.string(text, before)
            done.append((kind, text))
            before = text
        return done

    def named(self, text):
        for directory in self.directories:
            text = text.replace(directory, b"/run/redis")
        for port, name in self.ports.items():
            text = re.sub(rb"(?<![0-9])%s(?![0-9])" % port, name, text)
        return text

    @staticmethod
    def number(text, before):
        # A connection's, in the reply to HELLO.
        return b":7" if before == b"id" else text

    @staticmethod
    def string(text, before):
        if b"\r\n" in text and re.search(rb"^\w+:", text, re.MULTILINE):
            return "\r\n".join(map(info_line, text.decode().split("\r\n"))).encode()
        if re.match(rb"id=\d+ addr=", text):
            return " ".join(map(client_field, text.decode().split(" "))).encode()
        if re.fullmatch(rb"[0-9a-f]{40}", text):
            return b"0" * 40
        return text


class OfSentinel(Constant):
    """The same for names and values."""

    @staticmethod
    def string(text, before):
        text = Constant.string(text, before)
        # An address' port follows its host.
        is_kept = before in KEPT_OF_SENTINEL or before in (b"runid", b"127.0.0.1")
        return text if is_kept or not re.fullmatch(rb"-?[0-9]+", text) else b"0"


def in_order(pieces):
    """A list of lists, by the second string of each: a Sentinel's own order is by chance."""
    starts = [at for at, (kind, text) in enumerate(pieces) if at > 0 and kind is None and text[:1] == b"*"]
    lists = [pieces[start:end] for start, end in zip(starts, [*starts[1:], len(pieces)])]
    return pieces[:1] + [piece for items in sorted(lists, key=lambda items: items[2][1]) for piece in items]


def without_offsets(pieces):
    """The reply to ROLE, but for how far replication is: the last number, and behind the port of each replica."""
    last = max(at for at, (kind, text) in enumerate(pieces) if kind is None and text[:1] == b":")
    done = []
    for at, (kind, text) in enumerate(pieces):
        is_offset = kind == b"$" and pieces[at - 1] == (b"$", str(REPLICA).encode())
        done.append((None, b":0") if at == last else (kind, b"0" if is_offset else text))
    return done


# --- Where it goes --------------------------------------------------------------------------------------------------

class Folder:
    """A folder of recorded answers, and how they were asked for."""

    def __init__(self, *path):
        self.path = os.path.join(FIXTURES, *path)
        self.kind = path[0]
        os.makedirs(self.path, exist_ok=True)

    def save(self, name, question, answer):
        """`answer` is pieces, or bytes as they came."""
        with open(os.path.join(self.path, f"{name}.resp"), "wb") as file:
            file.write(answer if isinstance(answer, bytes) else written(answer))
        questions.setdefault(self.kind, {}).setdefault(name, question)


def write_questions():
    for kind, asked in questions.items():
        width = max(map(len, asked))
        with open(os.path.join(FIXTURES, kind, "questions.txt"), "w", encoding="ascii") as file:
            file.write("# Written by scripts/record: what each of the answers was an answer to.\n")
            file.writelines(f"{name:{width}}  {asked[name]}\n" for name in sorted(asked))


# --- The servers of a link ------------------------------------------------------------------------------------------

def record_password(program, folder):
    user = f"user app on >{PASSWORD} ~* +@all -select -role -info"
    with Server(program, f"requirepass {PASSWORD}", user) as server:
        constant = Constant(directories=[server.directory])

        def save(name, *commands):
            folder.save(name, "a password is wanted: " + ", ".join(commands), constant(server.ask(*commands)))

        save("wrongpass", "AUTH wrong")
        save("wrongpass-user", "AUTH app wrong")
        save("auth", f"AUTH {PASSWORD}")
        save("auth-user", f"AUTH app {PASSWORD}")
        save("auth-arguments", "AUTH a b c")
        save("auth-twice", "AUTH wrong", f"AUTH {PASSWORD}", "SELECT 1")
        save("noauth", "GET key")
        save("noauth-select", "SELECT 1")
        save("noauth-pipeline", "AUTH wrong", "SELECT 1")
        save("noauth-hello", "HELLO 3")
        save("hello-wrongpass", "HELLO 3 AUTH default wrong")
        save("hello-2", f"HELLO 2 AUTH default {PASSWORD}")
        save("hello-3", f"HELLO 3 AUTH default {PASSWORD}")
        save("hello-setname", f"HELLO 3 AUTH default {PASSWORD} SETNAME me", "CLIENT GETNAME")
        save("hello-version", "HELLO 4")
        save("hello-no-version", "HELLO x")
        save("hello-syntax", "HELLO 3 NONSENSE")
        save("select", f"AUTH {PASSWORD}", "SELECT 3")
        save("select-range", f"AUTH {PASSWORD}", "SELECT 16")
        save("select-no-number", f"AUTH {PASSWORD}", "SELECT x")
        save("noperm-select", f"AUTH app {PASSWORD}", "SELECT 3")
        save("noperm-role", f"AUTH app {PASSWORD}", "ROLE")
        save("noperm-info", f"AUTH app {PASSWORD}", "INFO")
        save("reset", f"AUTH {PASSWORD}", "RESET", "GET key")
        save("reset-before-auth", "RESET")
        save("reset-multi", f"AUTH {PASSWORD}", "MULTI", "GET key", "RESET")
        save("reset-resp3", f"HELLO 3 AUTH default {PASSWORD}", "RESET", f"AUTH {PASSWORD}", "HGETALL key")
        save("client-getname", f"AUTH {PASSWORD}", "CLIENT SETNAME me", "CLIENT GETNAME")
        save("client-setname", f"AUTH {PASSWORD}", "CLIENT SETNAME me")
        save("client-setinfo", f"AUTH {PASSWORD}", "CLIENT SETINFO LIB-NAME lib", "CLIENT SETINFO LIB-VER 1.0")
        save("client-info", f"AUTH {PASSWORD}", "SELECT 3", "CLIENT SETNAME me", "CLIENT INFO")
        save("client-unknown", f"AUTH {PASSWORD}", "CLIENT NONSENSE")
        save("unknown-command", f"AUTH {PASSWORD}", "NONSENSE first second")
        save("unknown-command-before-auth", "NONSENSE")
        save("quit-before-auth", "QUIT")
        save("quit", f"AUTH {PASSWORD}", "QUIT")
        for name, question, sent in [
            ("unauthenticated-arguments", "a command of 11 words", b"*11\r\n"),
            ("unauthenticated-length", "AUTH with a word of 16385 bytes", b"*2\r\n$4\r\nAUTH\r\n$16385\r\n"),
        ]:
            with server.client() as client:
                client.socket.sendall(sent)
                folder.save(name, f"a password is wanted: {question}", client.rest())


def beyond_the_limit(server):
    """What the first client hears for which there is no room."""
    with contextlib.ExitStack() as stack:
        while True:
            client = stack.enter_context(server.client())
            with contextlib.suppress(OSError):
                client.send("PING")
            answer = client.replies(1)[0]
            if answer != [(None, b"+PONG")]:
                return answer


def record_open(program, folder):
    with Server(program, "maxclients 4") as server:
        constant = Constant(directories=[server.directory])

        def save(name, *commands):
            folder.save(name, "no password is wanted: " + ", ".join(commands), constant(server.ask(*commands)))

        # First, while no error has been counted.
        save("info", "INFO")
        save("info-replication", "INFO replication")
        save("role", "ROLE")
        save("no-password", "AUTH p")
        save("no-password-user", "AUTH default p")
        save("no-password-unknown-user", "AUTH app p")
        save("ping", "PING")
        save("string", "SET key value", "GET key", "GET none")
        save("multi", "MULTI", "GET key", "EXEC")
        save("hash-2", "HSET hash field value", "HGETALL hash")
        with server.client() as client:
            answer = client.ask("HELLO 3", "HGETALL hash", "GET none")
            folder.save("hash-3", "no password is wanted: HELLO 3, HGETALL hash, GET none", constant(answer))
        save("subscribe", "SUBSCRIBE news")
        save("subscribe-3", "HELLO 3", "SUBSCRIBE news")
        with server.client() as client:
            client.send("CLIENT REPLY SKIP", "RESET", "PING")
            reply = client.replies(1)[0]
            folder.save("client-reply-skip", "no password is wanted: CLIENT REPLY SKIP, RESET, PING", reply)
        folder.save("max-clients", "maxclients is reached: nothing", beyond_the_limit(server))
    renamed = [f'rename-command {name} ""' for name in ["AUTH", "HELLO", "RESET", "ROLE", "INFO", "SELECT"]]
    with Server(program, *renamed) as server:
        def save_renamed(name, *commands):
            folder.save(name, "the command was renamed: " + ", ".join(commands), server.ask(*commands))

        save_renamed("unknown-auth", "AUTH secret")
        save_renamed("unknown-auth-user", "AUTH app secret")
        save_renamed("unknown-hello", "HELLO 2")
        save_renamed("unknown-reset", "RESET")
        save_renamed("unknown-role", "ROLE")
        save_renamed("unknown-info", "INFO replication")
        save_renamed("unknown-select", "SELECT 3")
    with Server(program, "cluster-enabled yes", port=(port := free_port())) as server:
        folder.save("select-cluster", "in cluster mode: SELECT 1", server.ask("SELECT 1"))
        folder.save("clusterdown", "in cluster mode, no slot is served: GET key", server.ask("GET key"))
        folder.save("hello-cluster", "in cluster mode: HELLO 2", Constant([(port, PRIMARY)])(server.ask("HELLO 2")))


def own_address():
    """This machine's address as others see it. Nothing is sent there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        # Documentation's own network (RFC 5737).
        found.connect(("192.0.2.1", 9))
        return found.getsockname()[0]


def record_protected(program, folder):
    # Up to 6.2 only a server that no address was chosen for is protected.
    with Server(program, "protected-mode yes", port=(port := free_port()), bind=None):
        with Client((own_address(), port)) as client:
            folder.save("protected-mode", "protected mode, from another host: nothing", client.rest())


def record_busy(program, folder):
    with Server(program, f"requirepass {PASSWORD}", "lua-time-limit 50") as server:
        with server.client() as script:
            script.ask(f"AUTH {PASSWORD}")
            script.send(["EVAL", "while true do end", "0"])
            asked = [f"AUTH {PASSWORD}", "PING"]
            server.wait_for("a busy server", lambda: server.ask(*asked)[-1][1].startswith(b"-BUSY"))
            commands = [f"AUTH {PASSWORD}", "SELECT 3"]
            folder.save("busy", "a script runs: " + ", ".join(commands), server.ask(*commands))


def record_loading(program, folder):
    directory = tempfile.mkdtemp(prefix="record-")
    lines = [f"requirepass {PASSWORD}", "rdbcompression no"]
    with Server(program, *lines, directory=directory) as server, server.client() as client:
        client.ask(f"AUTH {PASSWORD}")
        # Clients are served every 2 MiB.
        for number in range(200):
            client.ask([b"SET", b"key%d" % number, bytes(100_000)])
        client.ask("SAVE")
    # 20 ms a key.
    with Server(program, *lines, "key-load-delay 20000", directory=directory) as server:
        for name, asked in [
            ("loading", "PING"), ("loading-select", "SELECT 3"), ("loading-role", "ROLE"), ("loading-get", "GET key"),
        ]:
            commands = [f"AUTH {PASSWORD}", asked]
            folder.save(name, "the data are being loaded: " + ", ".join(commands), server.ask(*commands))
    shutil.rmtree(directory)


def is_up(replica):
    return replica.info("replication", "master_link_status") == "up"


def record_replication(program, folder):
    port, other = free_port(), free_port()
    constant = Constant([(port, PRIMARY), (other, REPLICA)])
    with Server(program, port=port) as primary, Server(program, f"replicaof 127.0.0.1 {port}", port=other) as replica:
        replica.wait_for("replication", lambda: is_up(replica))
        primary.wait_for("a replica", lambda: "state=online" in (primary.info("replication", "slave0") or ""))
        roles = [("primary", primary, "a primary with a replica"), ("replica", replica, "a replica")]
        for name, server, question in roles:
            folder.save(f"role-{name}", f"{question}: ROLE", without_offsets(constant(server.ask("ROLE"))))
            info = constant(server.ask("INFO replication"))
            folder.save(f"info-replication-{name}", f"{question}: INFO replication", info)
        folder.save("hello-2-replica", "a replica: HELLO 2", constant(replica.ask("HELLO 2")))
        folder.save("readonly", "a replica: SET key value", replica.ask("SET key value"))
        primary.stop()
        replica.ask("CONFIG SET replica-serve-stale-data no")
        replica.wait_for("the end of the link", lambda: not is_up(replica))
        alone = "a replica that has lost its primary and serves no stale data"
        for name, asked in [
            ("masterdown", "PING"), ("masterdown-get", "GET key"), ("masterdown-select", "SELECT 3"),
            ("masterdown-role", "ROLE"),
        ]:
            folder.save(name, f"{alone}: {asked}", constant(replica.ask(asked)))


# --- Sentinels ------------------------------------------------------------------------------------------------------

SERVICE = "mymaster"


def monitor(port, epoch):
    """What a Sentinel is told of a service."""
    return [
        f"sentinel monitor {SERVICE} 127.0.0.1 {port} 1",
        f"sentinel down-after-milliseconds {SERVICE} 1000",
        f"sentinel failover-timeout {SERVICE} 10000",
        f"sentinel config-epoch {SERVICE} {epoch}",
        f"sentinel leader-epoch {SERVICE} {epoch}",
        f"sentinel current-epoch {epoch}",
    ]


def is_known(sentinel):
    """Whether the Sentinel has heard everything of the primary, and of its replicas."""
    said = written(sentinel.ask(f"SENTINEL MASTER {SERVICE}"))
    parts = [rb"runid\r\n\$40", rb"flags\r\n\$6\r\nmaster", rb"num-slaves\r\n\$1\r\n2"]
    return all(re.search(part, said) for part in parts)


def record_sentinel(program, folder):
    with contextlib.ExitStack() as stack:
        def start(*lines, **rest):
            return stack.enter_context(Server(program, *lines, **rest))

        ports = [free_port() for _ in range(5)]
        constant = OfSentinel(zip(ports, [PRIMARY, REPLICA, REPLICA + 1, SENTINEL, SENTINEL + 1]))
        start(port=ports[0])
        replicas = [start(f"replicaof 127.0.0.1 {ports[0]}", port=port) for port in ports[1:3]]
        for replica in replicas:
            replica.wait_for("replication", lambda replica=replica: is_up(replica))
        sentinel = start(*monitor(ports[0], 4), port=ports[3], sentinel=True)

        def asked(words):
            return written(sentinel.ask(f"SENTINEL {words} {SERVICE}"))

        def save(name, words, note="a Sentinel", of=sentinel):
            answer = constant(of.ask(words))
            folder.save(name, f"{note}: {words}", in_order(answer) if "REPLICAS" in words else answer)

        sentinel.wait_for("the primary", lambda: is_known(sentinel))
        # It is asked by the replicas' INFO, every ten seconds.
        for part in [rb"runid\r\n\$40", rb"master-link-status\r\n\$2\r\nok", rb"flags\r\n\$5\r\nslave"]:
            sentinel.wait_for("both replicas", lambda part=part: len(re.findall(part, asked("REPLICAS"))) == 2)
        save("address", f"SENTINEL GET-MASTER-ADDR-BY-NAME {SERVICE}")
        save("master", f"SENTINEL MASTER {SERVICE}")
        save("replicas", f"SENTINEL REPLICAS {SERVICE}")
        save("sentinels", f"SENTINEL SENTINELS {SERVICE}")
        save("null", "SENTINEL GET-MASTER-ADDR-BY-NAME other")
        save("master-unknown", "SENTINEL MASTER other")
        save("replicas-unknown", "SENTINEL REPLICAS other")
        save("subscribe", "SUBSCRIBE +switch-master")
        save("hello", "HELLO 2")
        save("role", "ROLE")
        save("select", "SELECT 1")

        with Server(program, *monitor(ports[0], 3), port=ports[4], sentinel=True) as stale:
            stale.wait_for("the primary", lambda: is_known(stale))
            save("old-epoch", f"SENTINEL MASTER {SERVICE}", "a Sentinel that has slept through a failover", stale)

        replicas[1].stop()
        sentinel.wait_for("a replica that is down", lambda: b"s_down,slave,disconnected" in asked("REPLICAS"))
        save("replicas-down", f"SENTINEL REPLICAS {SERVICE}", "one of two replicas is down")
        with sentinel.client() as client:
            client.ask("SUBSCRIBE +switch-master")
            sentinel.wait_for("a failover", lambda: asked("FAILOVER") == b"+OK\r\n")
            switched = constant(client.replies(1)[0])
            folder.save("switch-master", "a failover, behind SUBSCRIBE +switch-master", switched)
        sentinel.wait_for("the new primary", lambda: is_known(sentinel))
        save("new-epoch", f"SENTINEL MASTER {SERVICE}", "after a failover")
    with Server(program, f"requirepass {PASSWORD}", port=free_port(), sentinel=True) as sentinel:
        for name, words in [
            ("noauth", f"SENTINEL GET-MASTER-ADDR-BY-NAME {SERVICE}"),
            ("wrongpass", "AUTH wrong"),
            ("auth", f"AUTH {PASSWORD}"),
        ]:
            folder.save(name, f"a Sentinel wants a password: {words}", sentinel.ask(words))


# --- A cluster ------------------------------------------------------------------------------------------------------

# Three primaries, and a replica of the first.
NODES = [letter * 40 for letter in "abcd"]
SLOTS = ["0-5460", "5461-10922", "10923-16383"]
# In place of their ports, and how far from those the ports of the cluster bus are.
NODE, NODE_TLS, BUS = 7001, 7101, 10000
# Keys: of the third node; of the first; of a slot that the first gives away to the second.
ELSEWHERE, OWN, LEAVING, LEAVING_SLOT = "key", "b", "f", 3168


def node_lines(ports, host, me, has_shards):
    """The file of a node that has met all others already."""
    for at, (node, port) in enumerate(zip(NODES, ports)):
        shard = f",,shard-id={at % 3 + 1:040x}" if has_shards else ""
        flags = "myself," if at == me else ""
        role = "master -" if at < 3 else f"slave {NODES[0]}"
        slots = f" {SLOTS[at]}" if at < 3 else ""
        yield f"{node} {host}:{port}@{port + BUS}{shard} {flags}{role} 0 0 {at % 3 + 1} connected{slots}\n"
    yield "vars currentEpoch 3 lastVoteEpoch 0\n"


class OfCluster(Constant):
    """The same for what nodes say: when they have heard of each other, and in which order they tell it."""

    def __call__(self, pieces):
        done, before = [], None
        for kind, text in pieces:
            text = self.named(text)
            if kind:
                lines = re.sub(rb"( -| [0-9a-f]{40}) \d+ \d+ (\d+ connected)", rb"\1 0 0 \2", text).splitlines(True)
                # RESP3 says first what kind of text it is.
                lines[:1] = [lines[0].removeprefix(b"txt:")] if lines else []
                text = (b"txt:" if kind == b"=" else b"") + b"".join(sorted(lines))
            done.append((None, b":0") if before == b"replication-offset" else (kind, text))
            before = text
        return done


def items(pieces):
    """The pieces of each item of a list."""
    done, due = [], 0
    for kind, text in pieces[1:]:
        if due == 0:
            done.append([])
            due = 1
        each = 0 if kind else {b"*": 1, b"%": 2}.get(text[:1], 0)
        due += each * max(int(text[1:]), 0) - 1 if each else -1
        done[-1].append((kind, text))
    return done


def nodes_in_order(pieces):
    """CLUSTER SLOTS and CLUSTER SHARDS in the order of the nodes: a server's own is by chance."""
    def first(item):
        return min(text for _, text in item if text.decode() in NODES)

    return pieces[:1] + [piece for item in sorted(items(pieces), key=first) for piece in item]


def has_met(server, wanted):
    """Whether a node has heard of all others what they have to say."""
    said, state = (written(server.ask(f"CLUSTER {words}")) for words in ["NODES", "INFO"])
    return b"cluster_state:ok" in state and said.count(b" connected") == 4 and said.count(wanted) >= 4


def with_certificate(directory):
    """The lines for servers that speak TLS, to each other too: only then they tell of both ports."""
    key, cert = os.path.join(directory, "key.pem"), os.path.join(directory, "cert.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=redis",
         "-keyout", key, "-out", cert], check=True, stderr=subprocess.DEVNULL)
    return [f"tls-cert-file {cert}", f"tls-key-file {key}", f"tls-ca-cert-file {cert}", "tls-auth-clients no",
            "tls-cluster yes", "tls-replication yes"]


def record_nodes(program, version, name, about, *lines, host="127.0.0.1", wanted=b"@", has_tls=False):
    """What the first of the nodes says, in RESP2 and in RESP3."""
    ports, tls_ports = [free_port() for _ in NODES], [free_port() for _ in NODES]
    constant = OfCluster(
        (port + more, name + more)
        for first, found in [(NODE, ports), (NODE_TLS, tls_ports)]
        for name, port in enumerate(found, first)
        for more in [0, BUS]
    )
    with contextlib.ExitStack() as stack:
        of_tls = with_certificate(stack.enter_context(tempfile.TemporaryDirectory())) if has_tls else []
        servers = []
        for me, port in enumerate(ports):
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="record-"))
            with open(os.path.join(directory, "nodes.conf"), "w", encoding="ascii") as file:
                file.writelines(node_lines(tls_ports if has_tls else ports, host, me, version not in ["redis-6.2", "redis-7.0"]))
            own = [line.format(number=me + 1) for line in lines]
            own += [f"tls-port {tls_ports[me]}", *of_tls] if has_tls else []
            server = Server(program, "cluster-enabled yes", *own, port=port, bind=host, directory=directory)
            servers.append(stack.enter_context(server))
        for server in servers:
            server.wait_for("its cluster", lambda server=server: has_met(server, wanted))
        servers[3].wait_for("replication", lambda: is_up(servers[3]))
        tables = ["CLUSTER SLOTS"] + ([] if version == "redis-6.2" else ["CLUSTER SHARDS"])
        # A replica is one that loads until it has told how far it is.
        servers[0].ask(f"SET {OWN} value", f"CLUSTER SETSLOT {LEAVING_SLOT} MIGRATING {NODES[1]}")
        servers[0].wait_for("a replica", lambda: b"loading" not in written(servers[0].ask(tables[-1])))
        for port in ports:
            servers[0].wait_for("all ports", lambda port=port: b":%d\r\n" % port in written(servers[0].ask(tables[-1])))

        all_of = [*tables, "CLUSTER NODES", f"CLUSTER REPLICAS {NODES[0]}"]
        asked = [*all_of, f"GET {ELSEWHERE}", f"GET {LEAVING}"]
        queued = [*all_of, f"GET {OWN}"] if name == "plain" else []
        for protocol in (2, 3):
            with servers[0].client() as client:
                client.ask(f"HELLO {protocol}")
                answers = [constant(client.ask(words)) for words in asked]
                for at, words in enumerate(asked):
                    answers[at] = nodes_in_order(answers[at]) if words in tables else answers[at]
                if queued:
                    answer = constant(client.ask("MULTI", *queued, "EXEC")[1 + len(queued):])
                    parts = items(answer)
                    parts[:len(tables)] = map(nodes_in_order, parts[:len(tables)])
                    answers.append(answer[:1] + [piece for part in parts for piece in part])
            # 6.2 has no SHARDS.
            words = f"CLUSTER SLOTS, SHARDS, NODES, REPLICAS, GET {ELSEWHERE}, GET {LEAVING}" + ", EXEC of these" * bool(queued)
            pieces = [piece for answer in answers for piece in answer]
            Folder("cluster", version).save(f"{name}-{protocol}", f"{about}, in RESP{protocol}: {words}", pieces)


def record_cluster(program, version):
    record_nodes(program, version, "plain", "a cluster")
    record_nodes(program, version, "ipv6", "a cluster on IPv6", host="::1")
    if version == "redis-6.2":
        return
    named, names = "cluster-announce-hostname node{number}.test", "cluster-preferred-endpoint-type"
    record_nodes(program, version, "hostname", "names are told", named, f"{names} hostname", wanted=b".test")
    record_nodes(program, version, "hostname-none", "names are told, and there are none", f"{names} hostname")
    record_nodes(program, version, "unknown", "no host is told", named, f"{names} unknown-endpoint", wanted=b".test")
    # The others that tell of it are built without.
    if version == "redis-7.0":
        record_nodes(program, version, "tls", "nodes speak TLS too", has_tls=True)


def main(servers):
    for server in servers:
        version, _, program = server.partition("=")
        print(f"recording {version}", file=sys.stderr)
        folder = Folder("replies", version)
        for record in [
            record_password, record_open, record_protected, record_busy, record_loading, record_replication,
        ]:
            record(program, folder)
        record_sentinel(program, Folder("sentinel", version))
        record_cluster(program, version)
    write_questions()


if __name__ == "__main__":
    main(sys.argv[1:])

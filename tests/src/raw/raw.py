"""Tries things with raw sockets: each line of its input is one, with its arguments. Answers each with a line: `ok` and what came
of it, or the name of the error."""
import ctypes
import errno
import os
import select
import socket
import struct
import sys

V4 = (socket.AF_INET, 1, 8, 0)
V6 = (socket.AF_INET6, 58, 128, 129)
PROTOCOLS = {"icmp": 1, "igmp": 2, "tcp": 6, "udp": 17, "icmpv6": 58}
FLAGS = {"syn": 2, "rst": 4, "ack": 16, "none": 0}
# What a verb leaves for the next ones.
KEPT = {}


def of(address):
    return V6 if ":" in address else V4


def family_of(address):
    return of(address)[0]


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def message(kind, number, sequence, payload, code=0):
    bare = struct.pack("!BBHHH", kind, code, 0, number, sequence) + payload
    return bare[:2] + struct.pack("!H", checksum(bare)) + bare[4:]


def packet(made):
    """The next packet, from its transport header on."""
    data = made.recv(70000)
    return data[(data[0] & 15) * 4:] if made.family == socket.AF_INET and made.type == socket.SOCK_RAW else data


def arriving(made, seconds):
    """What arrives until it has been quiet for so long."""
    got = []
    while select.select([made], [], [], seconds)[0]:
        got.append(packet(made))
    return got


def make(family, kind, protocol):
    """Only makes it."""
    socket.socket(int(family), int(kind), int(protocol)).close()
    return "made"


def several(family, protocol, count):
    """How many raw sockets there can be at a time, of so many."""
    made = []
    try:
        for _ in range(int(count)):
            made.append(socket.socket(int(family), socket.SOCK_RAW, int(protocol)))
    except OSError as error:
        return f"{len(made)} {errno.errorcode[error.errno]}"
    return len(made)


def asked(address, number, sequence):
    family, protocol, request, _ = of(address)
    made = socket.socket(family, socket.SOCK_RAW, protocol)
    made.sendto(message(request, int(number), int(sequence), b"plab"), (address, 0))
    made.settimeout(20)
    return made


def echo(address, number, sequence="1"):
    """One request; its answer must be the first that is heard."""
    data = packet(asked(address, number, sequence))
    return f"{data[0] == of(address)[3]} {struct.unpack('!H', data[4:6])[0]} {data[8:].decode()}"


def answered(address, number):
    """As echo, for who hears more than that, such as its own request on loopback."""
    made = asked(address, number, 1)
    while True:
        data = packet(made)
        if data[0] == of(address)[3] and struct.unpack("!H", data[4:6])[0] == int(number):
            return number


def send(address, kind, code, number="1"):
    """One message of any type, from a raw socket."""
    family, protocol, _, _ = of(address)
    made = socket.socket(family, socket.SOCK_RAW, protocol)
    made.sendto(message(int(kind), int(number), 1, b"x" * 32, int(code)), (address, 0))
    return "sent"


def option(family, protocol, level, name, value="1"):
    made = socket.socket(int(family), socket.SOCK_RAW, int(protocol))
    made.setsockopt(int(level), int(name), int(value))
    return "set"


def recverr(family, protocol, level, name):
    """Sets an option, and says what it is then."""
    made = socket.socket(int(family), socket.SOCK_RAW, int(protocol))
    made.setsockopt(int(level), int(name), 1)
    return f"is {made.getsockopt(int(level), int(name))}"


def ancillary(address, level, kind, value, other=None):
    """An echo request with ancillary data, the value in hexadecimal; by a raw socket of another protocol if one is said."""
    family, protocol, request, _ = of(address)
    made = socket.socket(family, socket.SOCK_RAW, int(other or protocol))
    data = [(int(level), int(kind), bytes.fromhex(value))]
    made.sendmsg([message(request, 7, 1, b"x")], data, 0, (address, 0))
    return "sent"


def bound(address):
    family, protocol, _, _ = of(address)
    made = socket.socket(family, socket.SOCK_RAW, protocol)
    made.bind((address, 0))
    return "bound"


def listen(protocol, address):
    """Begins to hear by a raw socket of the address's version of IP."""
    KEPT["listener"] = socket.socket(family_of(address), socket.SOCK_RAW, PROTOCOLS[protocol])
    return "listens"


def heard():
    """How many packets have been heard since it began to listen."""
    with KEPT.pop("listener") as made:
        return len(arriving(made, 0.2))


def pinging(address, number, seconds="20"):
    """One request by the kernel's own ping, from a socket of this ID; its answer, and then whatever comes is heard."""
    family, protocol, request, _ = of(address)
    made = KEPT["listener"] = ping_socket(address, number)
    made.sendto(message(request, 0, 1, b"plab"), (address, 0))
    made.settimeout(int(seconds))
    return made.recv(100)[8:].decode()


def ping_socket(address, number):
    """A socket of the kernel's own ping that has this ID."""
    family, protocol, _, _ = of(address)
    made = socket.socket(family, socket.SOCK_DGRAM, protocol)
    made.bind((address, int(number)))
    return made


def await_echoes(address, number):
    """Begins to hear by a socket of the kernel's own ping."""
    KEPT["listener"] = ping_socket(address, number)
    return "listens"


def error(address, port):
    """A datagram from an ordinary socket to where nobody listens; the error that comes back, by a raw one."""
    family, protocol, _, _ = of(address)
    made = socket.socket(family, socket.SOCK_RAW, protocol)
    sender = socket.socket(family, socket.SOCK_DGRAM)
    sender.sendto(b"x", (address, int(port)))
    made.settimeout(20)
    data = packet(made)
    while data[0] in (8, 128, 135, 136):
        data = packet(made)
    inner = data[8 + (20 if family == socket.AF_INET else 40):]
    own = struct.unpack("!H", inner[:2])[0] == sender.getsockname()[1]
    return f"type {data[0]} code {data[1]} own {own}"


def ids(address, first, count):
    """Sends with so many IDs; how many went out, and what the first that did not came to."""
    family, protocol, request, _ = of(address)
    made = socket.socket(family, socket.SOCK_RAW, protocol)
    for sent in range(int(count)):
        try:
            made.sendto(message(request, int(first) + sent, 1, b""), (address, 0))
        except OSError as error:
            return f"{sent} then {errno.errorcode[error.errno]}"
    return f"{int(count)} sent"


def offer(path):
    """Has a raw socket of this capsule for whoever connects there."""
    server = KEPT["offer"] = socket.socket(socket.AF_UNIX)
    server.bind(path)
    os.chmod(path, 0o777)
    server.listen()
    return "offered"


def hand_over(kind="raw", port="0"):
    """Hands it to the first who does; or an ordinary one, bound to a port if one is said."""
    if kind == "raw":
        made = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
    else:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        if port != "0":
            made.bind(("", int(port)))
    client, _ = KEPT.pop("offer").accept()
    socket.send_fds(client, [b"x"], [made.fileno()])
    client.recv(1)
    return "handed over"


def await_socket(path):
    """Is ready to be given one there."""
    return offer(path).replace("offered", "waits")


def given():
    """Takes it."""
    client, _ = KEPT.pop("offer").accept()
    _, fds, _, _ = socket.recv_fds(client, 1, 1)
    KEPT["given"] = socket.socket(fileno=fds[0])
    return "given"


def carry(source, to):
    """Takes a socket from one and gives it to another, who cannot reach each other."""
    clients = []
    for path in (source, to):
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        clients.append(client)
    _, fds, _, _ = socket.recv_fds(clients[0], 1, 1)
    socket.send_fds(clients[1], [b"x"], fds)
    return "carried"


def given_bind(port):
    """Binds what was given."""
    KEPT["given"].bind(("", int(port)))
    return "bound"


def given_send(to, port):
    """Sends by what was given."""
    KEPT["given"].sendto(b"plab", (to, int(port)))
    return "sent"


def taken(path, address, number):
    """Takes a raw socket from there, tries to forge an error with it, and sends an echo."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    _, fds, _, _ = socket.recv_fds(client, 1, 1)
    made = socket.socket(fileno=fds[0])
    forged = "sent"
    try:
        made.sendto(message(3, 0, 0, b"x" * 32, 1), (address, 0))
    except OSError as error:
        forged = errno.errorcode[error.errno]
    made.sendto(message(8, int(number), 1, b"plab"), (address, 0))
    made.settimeout(20)
    return f"forged {forged}, heard {packet(made)[8:].decode()}"


def transport(protocol, source, from_port, to, to_port, flags="syn"):
    """A UDP datagram or a TCP segment with its checksum."""
    pack = socket.inet_pton
    if protocol == "udp":
        bare, at = struct.pack("!HHHH", from_port, to_port, 12, 0) + b"plab", 6
    else:
        bare, at = struct.pack("!HHIIBBHHH", from_port, to_port, 7, 0, 80, FLAGS[flags], 1000, 0, 0), 16
    pseudo = pack(family_of(to), source) + pack(family_of(to), to) + struct.pack("!II", len(bare), PROTOCOLS[protocol])
    return bare[:at] + struct.pack("!H", checksum(pseudo + bare) or 0xFFFF) + bare[at + 2:]


def source_to(to):
    with socket.socket(family_of(to), socket.SOCK_DGRAM) as probe:
        probe.connect((to, 9))
        return probe.getsockname()[0]


def raw(protocol, to, from_port, to_port, flags="syn"):
    """One packet from a raw socket of its protocol, the header the kernel's."""
    made = socket.socket(family_of(to), socket.SOCK_RAW, PROTOCOLS[protocol])
    data = transport(protocol, source_to(to), int(from_port), to, int(to_port), flags)
    made.sendto(data, (to, 0))
    return "sent"


def forge(protocol, source, to, from_port, to_port, fragment="0", options="", route=""):
    """One packet with an IPv4 header of one's own; `own` is the right source."""
    made = socket.socket(socket.AF_INET, socket.SOCK_RAW, 255)
    made.setsockopt(0, 3, 1)
    source = source_to(to) if source == "own" else source
    if protocol in ("udp", "tcp"):
        data = transport(protocol, source, int(from_port), to, int(to_port))
    else:
        data = message(8, int(from_port), 1, b"plab") if protocol == "icmp" else struct.pack("!BBHI", 0x16, 0, 0xE9FF, 0)
    options = bytes.fromhex(options)
    head = struct.pack("!BBHHHBBH", 0x45 + len(options) // 4, 0, 20 + len(options) + len(data), 0, int(fragment, 16),
                       64, PROTOCOLS[protocol], 0)
    head += socket.inet_aton(source) + socket.inet_aton(to) + options
    made.sendto(head + data, (route or to, 0))
    return "sent"


def routed(to, route, from_port, to_port):
    """A datagram to one address, sent where another is."""
    return forge("udp", "own", to, from_port, to_port, route=route)


def syn(to, kind, port="0"):
    """A SYN by a raw socket to where nobody listens, from the port of a socket that is bound (`held`, whose port the
    kernel chose; `own`), or that is closed again (`gone`); the reset that comes back must be heard."""
    family = family_of(to)
    holder = socket.socket(family)
    if kind != "own":
        holder.bind(("", int(port)))
        port = holder.getsockname()[1]
    if kind == "gone":
        holder.close()
    made = socket.socket(family, socket.SOCK_RAW, 6)
    made.sendto(transport("tcp", source_to(to), int(port), to, 9), (to, 0))
    made.settimeout(20)
    while True:
        data = packet(made)
        if data[13] & 4:
            return f"reset {struct.unpack('!H', data[2:4])[0] == int(port)}"


def pair(protocol, address):
    """Sockets on ports that the kernel chose: who is sent to, who sends, who listens."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    server, client = socket.socket(family_of(address), kind), socket.socket(family_of(address), kind)
    server.bind((address, 0))
    if protocol == "tcp":
        server.listen()
    client.connect(server.getsockname())
    return (server.accept()[0] if protocol == "tcp" else server), client, server


def bind_to(address, port):
    """Keeps a socket of TCP on a port that the kernel chooses, though it has only this one to choose from unless it is 0."""
    made = socket.socket(family_of(address))
    if family_of(address) == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if port != "0":
        made.setsockopt(0, 51, struct.pack("I", int(port) << 16 | int(port)))  # IP_LOCAL_PORT_RANGE
    made.bind((address, 0))
    KEPT.setdefault("bound", []).append(made)
    return made.getsockname()[1]


def connect_from(address, port):
    """Connects the last such socket."""
    KEPT["bound"][-1].connect((address, int(port)))
    return "connected"


def let_go():
    """Closes all of them."""
    for made in KEPT.pop("bound"):
        made.close()
    return "let go"


def from_kept(to, from_port, to_port):
    """A datagram from the raw socket that listens."""
    KEPT["listener"].sendto(transport("udp", source_to(to), int(from_port), to, int(to_port)), (to, 0))
    return "sent"


def unbound():
    """Keeps a socket of UDP that had a port, which connect(2) has taken from it: that port."""
    made = KEPT["unbound"] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("", 0))
    port = made.getsockname()[1]
    if ctypes.CDLL(None).connect(made.fileno(), bytes(16), 16):
        raise RuntimeError("connect to AF_UNSPEC")
    return f"{port} then {made.getsockname()[1]}"


def waiting(address):
    """A connection that is in TIME_WAIT at its client's side: both ports."""
    server, client, listener = pair("tcp", address)
    ports = f"{client.getsockname()[1]} {server.getsockname()[1]}"
    listener.close()
    client.close()
    server.recv(1)
    server.close()
    return ports


def chat(protocol, address):
    """Traffic of its own, and whether a raw socket beside sees what came to it."""
    try:
        made = socket.socket(family_of(address), socket.SOCK_RAW, PROTOCOLS[protocol])
    except PermissionError:
        made = None
    server, client, _ = pair(protocol, address)
    client.send(b"chat")
    server.recv(10)
    got = arriving(made, 0.2) if made else []
    port = server.getsockname()[1]
    return f"chatted {any(b'chat' in data and port in struct.unpack('!HH', data[:4]) for data in got)}"


def hold(protocol, address):
    """Keeps such a pair: its ports."""
    server, client, _ = KEPT["pair"] = pair(protocol, address)
    return f"{client.getsockname()[1]} {server.getsockname()[1]}"


def kept():
    """What has come to the pair before what the sender sends now."""
    server, client, _ = KEPT.pop("pair")
    client.send(b"own")
    server.settimeout(20)
    got = 0
    while server.recv(100) != b"own":
        got += 1
    return f"kept, {got} before"


def served(port, count):
    """Sends so many datagrams to a port of its own, and takes them."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", int(port)))
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for _ in range(int(count)):
        client.sendto(b"plab", ("127.0.0.1", int(port)))
        server.recv(10)
    return client.getsockname()[1]


def caps():
    """This process's capabilities: inheritable, permitted, effective, bounding, ambient."""
    text = open("/proc/self/status").read()
    return " ".join(line.split()[1].lstrip("0") or "0" for line in text.splitlines() if line.startswith("Cap"))


VERBS = {f.__name__: f for f in (
    make, echo, answered, send, option, recverr, ancillary, bound, listen, heard, error, ids, offer, hand_over, taken, await_socket, given, carry, given_bind, given_send, caps, raw, forge,
    pinging, await_echoes, routed, syn, chat, hold, kept, served, several, bind_to, connect_from, let_go, from_kept, unbound, waiting)}


def tried(verb, *arguments):
    try:
        return f"ok {VERBS[verb](*arguments)}"
    except OSError as error:
        return "timeout" if error.errno is None else errno.errorcode[error.errno]


for line in sys.stdin:
    print(tried(*line.rstrip("\n").split(" ")), flush=True)

"""Tries one thing on the network and prints how it ended: `ok` with what came of it, or the name of the error."""
import errno
import socket
import sys

PROTOCOLS = {
    "tcp": (socket.SOCK_STREAM, 0),
    "mptcp": (socket.SOCK_STREAM, 262),
    "udp": (socket.SOCK_DGRAM, 0),
    "udplite": (socket.SOCK_DGRAM, 136),
}


def make(protocol, address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.socket(family, *PROTOCOLS[protocol])


def bind(protocol, address, port, *options, device=None):
    made = make(protocol, address)
    if device:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    for option in options:
        made.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
    made.bind((address, int(port)))
    return made


def ephemeral(protocol, address, count, first, last):
    """Ports of the kernel's choice: none may be within these."""
    held = [bind(protocol, address, 0) for _ in range(int(count))]
    hit = [s.getsockname()[1] for s in held if int(first) <= s.getsockname()[1] <= int(last)]
    return f"{len(held)} sockets, {len(hit)} within"


def implicit(count, first, last):
    """The same where nothing was bound: listen, connect and send take a port, too."""
    ports, held = [], []
    for _ in range(int(count)):
        listener = make("tcp", "127.0.0.1")
        listener.listen()
        client = socket.create_connection(listener.getsockname())
        sender = make("udp", "127.0.0.1")
        sender.sendto(b"x", ("127.0.0.1", 9))
        held += [listener, client, sender]
        ports += [s.getsockname()[1] for s in (listener, client, sender)]
    hit = [port for port in ports if int(first) <= port <= int(last)]
    return f"{len(ports)} sockets, {len(hit)} within"


def connect(protocol, address, port):
    made = make(protocol, address)
    made.settimeout(20)
    made.connect((address, int(port)))
    if protocol in ("tcp", "mptcp"):
        return made.recv(100).decode()
    made.send(b"x")
    return made.recv(100).decode()


def send(protocol, address, port):
    made = make(protocol, address)
    made.sendto(b"x", (address, int(port)))
    return "sent"


def option(family, level, name):
    made = socket.socket(int(family), socket.SOCK_DGRAM)
    made.setsockopt(int(level), int(name), 1)
    return "set"


def serve(protocol, address, port, word, device=None):
    """Answers everybody with a word, and says when it is ready and how it ended."""
    made = bind(protocol, address, port, "SO_REUSEADDR", device=device)
    if protocol in ("tcp", "mptcp"):
        made.listen()
    print("ready", made.getsockname()[1], flush=True)
    try:
        while True:
            if protocol in ("tcp", "mptcp"):
                client = made.accept()[0]
                client.sendall(word.encode())
                client.close()
            else:
                made.sendto(word.encode(), made.recvfrom(100)[1])
    except OSError as error:
        return "ended " + errno.errorcode[error.errno]


VERBS = {f.__name__: f for f in (bind, connect, ephemeral, implicit, option, send, serve)}
try:
    result = VERBS[sys.argv[1]](*sys.argv[2:])
    print("ok", result.getsockname()[1] if isinstance(result, socket.socket) else result, flush=True)
except OSError as error:
    print("timeout" if error.errno is None else errno.errorcode[error.errno], flush=True)

"""The key-value store: lines of text over TCP, an append-only log below."""

import asyncio
import fcntl
import os
import pathlib
import signal
import struct
import sys
import zlib

HOME = pathlib.Path(os.environ["HOME"])
DATA = HOME / "data"
LOG = DATA / "log"
PID_FILE = HOME / "kv.pid"

MAX_LINE = 64 << 10
MAX_BYTES = 32 << 20  # of keys and values: they are all held in memory
MAX_CLIENTS = 200
COMPACT_ABOVE = 1 << 20

# A record: CRC-32 of all that follows, length of the key, length of the value; the key, the value.
CRC = struct.Struct("<I")
LENGTHS = struct.Struct("<II")
HEAD = CRC.size + LENGTHS.size
DELETED = 0xFFFFFFFF


def record(key, value):
    """`value` None records that the key was deleted."""
    length = DELETED if value is None else len(value)
    body = LENGTHS.pack(len(key), length) + key + (value or b"")
    return CRC.pack(zlib.crc32(body)) + body


def replay(content):
    """The keys and values a log holds, and how many of its bytes are good."""
    values, at = {}, 0
    while at + HEAD <= len(content):
        key_length, value_length = LENGTHS.unpack_from(content, at + CRC.size)
        deleted = value_length == DELETED
        end = at + HEAD + key_length + (0 if deleted else value_length)
        if end > len(content) or zlib.crc32(content[at + CRC.size : end]) != CRC.unpack_from(content, at)[0]:
            break
        key = bytes(content[at + HEAD : at + HEAD + key_length])
        if deleted:
            values.pop(key, None)
        else:
            values[key] = bytes(content[at + HEAD + key_length : end])
        at = end
    return values, at


def sync_directory():
    fd = os.open(DATA, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd, content):
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


class Store:
    """What is stored. Changes are made in batches: one sync serves everybody who waits for it."""

    def __init__(self):
        DATA.mkdir(mode=0o700, exist_ok=True)
        self.lock = os.open(DATA / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.fd = os.open(LOG, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        content = LOG.read_bytes()
        self.values, self.size = replay(content)
        if self.size < len(content):
            # The end of the power, or worse: what follows the good part is kept for a look.
            (DATA / "log.damaged").write_bytes(content[self.size :])
            os.ftruncate(self.fd, self.size)
            print(f"{len(content) - self.size} damaged bytes cut off the log", file=sys.stderr, flush=True)
        self.bytes = sum(len(key) + len(value) for key, value in self.values.items())
        self.waiting = []
        self.committing = False
        self.wake = asyncio.Event()

    async def change(self, key, value):
        """Sets a key, or deletes it if the value is None; whether it was there. Durable on return."""
        done = asyncio.get_running_loop().create_future()
        self.waiting.append((key, value, done))
        self.wake.set()
        return await done

    async def commit_for_ever(self):
        loop = asyncio.get_running_loop()
        while True:
            await self.wake.wait()
            self.wake.clear()
            batch, self.waiting = self.waiting, []
            if not batch:
                continue
            self.committing = True
            await self.commit(loop, batch)
            self.committing = False

    async def commit(self, loop, batch):
        log = b"".join(record(key, value) for key, value, _ in batch)
        try:
            write_all(self.fd, log)
            await loop.run_in_executor(None, os.fdatasync, self.fd)
        except OSError as error:
            # Storage is full, say. The log must not keep what its clients are told is not there.
            os.ftruncate(self.fd, self.size)
            for _, _, done in batch:
                if not done.done():
                    done.set_exception(error)
            return
        self.size += len(log)
        for key, value, done in batch:
            before = self.values.pop(key, None)
            if before is not None:
                self.bytes -= len(key) + len(before)
            if value is not None:
                self.values[key] = value
                self.bytes += len(key) + len(value)
            if not done.done():  # whose client has gone
                done.set_result(before is not None)
        if self.size > COMPACT_ABOVE and self.size > 2 * (self.bytes + HEAD * len(self.values)):
            self.compact()

    def compact(self):
        new = DATA / "log.new"
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            content = b"".join(record(key, value) for key, value in self.values.items())
            write_all(fd, content)
            os.fsync(fd)
            os.rename(new, LOG)
        except OSError as error:
            # The old log is as good as before, only long.
            os.close(fd)
            new.unlink(missing_ok=True)
            print(f"not compacted: {error}", file=sys.stderr, flush=True)
            return
        sync_directory()
        os.close(self.fd)
        self.fd, self.size = fd, len(content)


class Service:
    def __init__(self, store):
        self.store = store
        self.clients = set()
        self.requests = 0

    async def serve(self, reader, writer):
        task = asyncio.current_task()
        if len(self.clients) >= MAX_CLIENTS:
            writer.write(b"ERROR too many clients\n")
            writer.close()
            return
        self.clients.add(task)
        try:
            await self.converse(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.clients.discard(task)
            writer.close()

    async def converse(self, reader, writer):
        while True:
            try:
                line = await reader.readuntil(b"\n")
            except asyncio.IncompleteReadError:
                return
            except asyncio.LimitOverrunError:
                # Where the next line begins is not known any more.
                writer.write(b"ERROR line too long\n")
                await writer.drain()
                return
            answer = await self.answer(line.rstrip(b"\r\n"))
            if answer is None:
                return
            writer.write(answer + b"\n")
            await writer.drain()

    async def answer(self, line):
        self.requests += 1
        command, _, rest = line.partition(b" ")
        key, space, value = rest.partition(b" ")
        command = command.upper()
        store = self.store
        if command == b"QUIT":
            return None
        if command == b"STATS":
            numbers = f"{len(store.values)} keys, {store.bytes} bytes, log {store.size} bytes, {self.requests} requests"
            return b"STATS " + numbers.encode()
        if command == b"KEYS":
            keys = sorted(key for key in store.values if key.startswith(rest))
            return b"\n".join([b"KEYS %d" % len(keys), *keys])
        if not key:
            return b"ERROR commands: GET key, SET key value, DEL key, KEYS [prefix], STATS, QUIT"
        if command == b"GET":
            found = store.values.get(key)
            return b"NONE" if found is None else b"VALUE " + found
        if command not in (b"SET", b"DEL") or (command == b"SET" and not space):
            return b"ERROR commands: GET key, SET key value, DEL key, KEYS [prefix], STATS, QUIT"
        if command == b"DEL":
            value = None
        elif store.bytes + len(key) + len(value) > MAX_BYTES:
            return b"ERROR the store is full"
        try:
            was_there = await store.change(key, value)
        except OSError as error:
            return b"ERROR not stored: " + os.strerror(error.errno).encode()
        return b"OK" if value is not None or was_there else b"NONE"


def settings():
    """kv.conf: lines of `key = value`; `#` begins a comment line."""
    read = {"port": "7070", "address": "127.0.0.1"}
    try:
        for line in (HOME / "kv.conf").read_text().splitlines():
            key, equals, value = line.partition("=")
            if equals and not line.lstrip().startswith("#"):
                read[key.strip()] = value.strip()
    except FileNotFoundError:
        pass
    return read


async def main():
    configuration = settings()
    try:
        store = Store()
    except BlockingIOError:
        sys.exit("another instance is running on this data")
    service = Service(store)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    committer = asyncio.create_task(store.commit_for_ever())
    address, port = configuration["address"], int(configuration["port"])
    server = await asyncio.start_server(service.serve, address, port, limit=MAX_LINE)
    PID_FILE.write_text(f"{os.getpid()}\n")
    stopped = asyncio.create_task(ended.wait())
    # A committer that ends has failed, and without it nothing can be stored: then all ends.
    await asyncio.wait({stopped, committer}, return_when=asyncio.FIRST_COMPLETED)
    server.close()
    # What has been asked for is stored and answered; then the clients are let go.
    while (store.waiting or store.committing) and not committer.done():
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.01)
    for client in list(service.clients):
        client.cancel()
    if service.clients:
        await asyncio.wait(service.clients, timeout=2)
    failed = committer.done()
    committer.cancel()
    PID_FILE.unlink(missing_ok=True)
    if failed:
        sys.exit(f"the log cannot be written: {committer.exception()}")


if __name__ == "__main__":
    asyncio.run(main())

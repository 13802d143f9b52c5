"""The mirror's web server: serves what ~/www/MANIFEST.sha256 lists, and nothing else."""

import email.utils
import http.server
import json
import mimetypes
import os
import pathlib
import shutil
import signal
import socketserver
import sys
import threading
import urllib.parse

from config import read_config

HOME = pathlib.Path(os.environ["HOME"])
WWW = HOME / "www"
STATE = HOME / "mirror.state"
PID_FILE = HOME / "mirror.pid"
# Well below an ordinary slice's limit of tasks: clients beyond it wait to be accepted.
MAX_CLIENTS = 32


class Content:
    """The manifest, read again when it changes."""

    def __init__(self):
        self.lock = threading.Lock()
        self.stamp = None
        self.digests = {}

    def read(self):
        stamp = os.stat(WWW / "MANIFEST.sha256")
        stamp = (stamp.st_ino, stamp.st_mtime_ns)
        with self.lock:
            if stamp != self.stamp:
                digests = {}
                for line in (WWW / "MANIFEST.sha256").read_text().splitlines():
                    digest, _, name = line.partition("  ")
                    digests[name] = digest
                self.stamp, self.digests = stamp, digests
            return self.digests


class Counter:
    """Requests served since the mirror was installed: goes on over restarts."""

    def __init__(self):
        self.lock = threading.Lock()
        try:
            self.requests = int(json.loads(STATE.read_text())["requests"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            self.requests = 0

    def add(self):
        with self.lock:
            self.requests += 1

    def save(self):
        new = STATE.with_suffix(".new")
        new.write_text(json.dumps({"requests": self.requests}) + "\n")
        new.replace(STATE)


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    # Not daemonic: requests that are being answered at the end are waited for.
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, address):
        self.content = Content()
        self.counter = Counter()
        self.room = threading.BoundedSemaphore(MAX_CLIENTS)
        self.content.read()
        super().__init__(address, Handler)

    def server_bind(self):
        # HTTPServer's own looks the address up in the DNS, for a name that nothing here uses.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    def process_request(self, request, client_address):
        self.room.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread to be had
            self.room.release()
            raise

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.room.release()


class Handler(http.server.BaseHTTPRequestHandler):
    server_version = "mirror"
    protocol_version = "HTTP/1.1"
    # An answer is a head and a body, two writes: the second must not wait for the first one's acknowledgement.
    disable_nagle_algorithm = True
    # One that says nothing gives its place up, and cannot hold up the end for long.
    timeout = 2

    def do_GET(self):
        if self.headers.get("User-Agent") != "mirror-status":
            self.server.counter.add()
        path = urllib.parse.unquote(self.path.partition("?")[0])
        try:
            digests = self.server.content.read()
        except OSError:
            return self.answer_text(503, "being configured\n")
        if path == "/-/summary":
            requests = self.server.counter.requests
            return self.answer_text(200, f"mirror: {len(digests)} files, {requests} requests\n")
        name = path[1:] + ("index.html" if path.endswith("/") else "")
        if name not in digests and name != "MANIFEST.sha256":
            return self.answer_text(404, "not found\n")
        try:
            with open(WWW / name, "rb") as file:
                self.answer_file(name, file, digests.get(name))
        except OSError as error:
            # The answer may have begun: then all that is left is to end the connection.
            self.log_error("%s: %s", name, error)
            self.close_connection = True

    do_HEAD = do_GET

    def answer_file(self, name, file, digest):
        stat = os.fstat(file.fileno())
        modified = int(stat.st_mtime)
        etag = f'"{digest[:32]}"' if digest else None
        current = self.is_current(etag, modified)
        if current:
            self.send_response(304)
        else:
            self.send_response(200)
            kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(stat.st_size))
        self.send_header("Last-Modified", email.utils.formatdate(modified, usegmt=True))
        if etag:
            self.send_header("ETag", etag)
        self.end_headers()
        if self.command == "GET" and not current:
            shutil.copyfileobj(file, self.wfile)

    def is_current(self, etag, modified):
        """Whether the client has it already (RFC 9110, 13.2: If-None-Match decides if it is there)."""
        known = self.headers.get("If-None-Match")
        if known is not None:
            tags = [tag.strip().removeprefix("W/") for tag in known.split(",")]
            return "*" in tags or etag in tags
        try:
            since = email.utils.parsedate_to_datetime(self.headers["If-Modified-Since"]).timestamp()
        except (TypeError, ValueError, OverflowError):
            return False
        return modified <= since

    def answer_text(self, status, text):
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_request(self, code="-", size="-"):
        pass  # a log line a request would fill the slice's storage


def main():
    settings = read_config(HOME / "mirror.conf")
    try:
        server = Server((settings.get("address", "0.0.0.0"), int(settings.get("port", "8080"))))
    except FileNotFoundError:
        sys.exit("there is no ~/www/MANIFEST.sha256: has PlanetLab-control/configure been run?")
    # Blocked before any thread is made, so that it is the main thread that is told.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    PID_FILE.write_text(f"{os.getpid()}\n")
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2})
    serving.start()
    signal.sigwait(signals)
    server.shutdown()
    serving.join()
    server.server_close()  # waits for requests that are being answered
    server.counter.save()
    PID_FILE.unlink(missing_ok=True)


if __name__ == "__main__":
    main()

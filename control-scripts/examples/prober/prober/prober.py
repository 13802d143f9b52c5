"""The prober: `prober.py run` measures, `prober.py status` says how that goes."""

import csv
import datetime
import io
import json
import os
import pathlib
import signal
import socket
import sys
import time
import tomllib

HOME = pathlib.Path(os.environ["HOME"])
RESULTS = HOME / "results"
STATE = HOME / "prober.state"
PID_FILE = HOME / "prober.pid"
RESOURCES = HOME / "PlanetLab-control" / "resources"
HEADER = ["time", "target", "connect_us", "first_byte_us", "http_status", "error"]
KEEP_DAYS = 30
END, PAUSE, GO_ON = signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2
SIGNALS = {END, PAUSE, GO_ON, signal.SIGINT}


def settings():
    """prober.conf: lines of `key = number`; `#` begins a comment line."""
    read = {"interval": 10.0, "timeout": 2.0, "port": 8080.0}
    try:
        for line in (HOME / "prober.conf").read_text().splitlines():
            key, equals, value = line.partition("=")
            if equals and not line.lstrip().startswith("#"):
                read[key.strip()] = float(value)
    except FileNotFoundError:
        pass
    return read


def targets(port):
    """(host, port) of everything to measure: the researcher's list, or else the slice's nodes."""
    try:
        lines = (HOME / "targets").read_text().split()
    except FileNotFoundError:
        try:
            addresses = tomllib.loads(RESOURCES.read_text())["node_addresses"]
        except (OSError, KeyError, tomllib.TOMLDecodeError):
            addresses = []
        lines = [f"{address}:{port}" for address in addresses if address] + [f"127.0.0.1:{port}"]
    found = []
    for line in dict.fromkeys(lines):
        host, _, number = line.rpartition(":")
        if host and number.isdigit():
            found.append((host, int(number)))
    return found


def microseconds(since):
    return (time.perf_counter_ns() - since) // 1000


def measure(host, port, timeout):
    """One record: [connect_us, first_byte_us, http_status, error], "" for what was not had."""
    try:
        # Looked up before the clock starts: the resolver's time is not the target's.
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        return ["", "", "", f"lookup: {error.strerror}"]
    connected = ""
    try:
        with socket.socket(family, kind, protocol) as connection:
            connection.settimeout(timeout)
            begun = time.perf_counter_ns()
            connection.connect(address)
            connected = microseconds(begun)
            request = f"HEAD / HTTP/1.0\r\nHost: {host}\r\nUser-Agent: prober\r\n\r\n"
            begun = time.perf_counter_ns()
            connection.sendall(request.encode())
            answer = connection.recv(64)
            first_byte = microseconds(begun)
    except TimeoutError:
        return [connected, "", "", "timeout"]
    except OSError as error:
        return [connected, "", "", error.strerror or str(error)]
    words = answer.split(maxsplit=2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return [connected, first_byte, "", "no HTTP answer"]
    return [connected, first_byte, int(words[1]), ""]


class Results:
    """The CSV files, one a day (UTC)."""

    def __init__(self):
        RESULTS.mkdir(exist_ok=True)
        self.records = 0
        for path in RESULTS.glob("*.csv"):
            self.records += self.mend(path)

    def mend(self, path):
        """Counts a file's records, and cuts off one that an abrupt end left half written."""
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
        return max(content.count(b"\n") - 1, 0)

    def append(self, records):
        """Adds one round. On storage when this returns."""
        path = RESULTS / f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}.csv"
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        new = not path.exists() or path.stat().st_size == 0
        if new:
            writer.writerow(HEADER)
        writer.writerows(records)
        # One write, so that a reader finds whole records.
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            before = os.fstat(fd).st_size
            content = text.getvalue().encode()
            if os.write(fd, content) != len(content):
                os.ftruncate(fd, before)
                raise OSError("the slice's storage is full")
            os.fsync(fd)
        finally:
            os.close(fd)
        self.records += len(records)
        if new:
            self.rotate()

    def rotate(self):
        for path in sorted(RESULTS.glob("*.csv"))[:-KEEP_DAYS]:
            self.records -= self.mend(path)
            path.unlink()


def save(state):
    new = STATE.with_suffix(".new")
    new.write_text(json.dumps(state) + "\n")
    new.replace(STATE)


def run():
    # Blocked, and taken where it suits: a measurement is never cut short by one.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    results = Results()
    PID_FILE.write_text(f"{os.getpid()}\n")
    state = {"records": results.records, "last": time.time(), "rtt": None, "interval": 0, "paused": False}
    due = time.monotonic()
    while True:
        if state["paused"]:
            told = signal.sigwaitinfo(SIGNALS)
        else:
            told = signal.sigtimedwait(SIGNALS, max(due - time.monotonic(), 0))
        if told is not None:
            if told.si_signo in (END, signal.SIGINT):
                break
            state["paused"] = told.si_signo == PAUSE
            state["last"] = time.time()
            due = time.monotonic()
            save(state)
            continue
        now = settings()
        state["interval"] = now["interval"]
        due = time.monotonic() + now["interval"]
        records = []
        for host, port in targets(int(now["port"])):
            if signal.sigpending() & SIGNALS:
                break  # what has been measured is recorded first
            stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
            record = measure(host, port, now["timeout"])
            records.append([stamp, f"{host}:{port}", *record])
            if record[0] != "":
                state["rtt"] = record[0]
        if records:
            try:
                results.append(records)
            except OSError as error:
                print(f"not recorded: {error}", file=sys.stderr, flush=True)
                continue  # `status` will notice
            state["records"], state["last"] = results.records, time.time()
            save(state)
    PID_FILE.unlink(missing_ok=True)


def status():
    try:
        state = json.loads(STATE.read_text())
    except (FileNotFoundError, ValueError):
        print("prober: no record yet")
        return 1
    if state["paused"]:
        print(f"prober: {state['records']} records, paused for another's window")
        return 0
    age = time.time() - state["last"]
    if age > 3 * state["interval"]:
        print(f"prober: {state['records']} records, the last {age:.0f} s ago")
        return 1
    rtt = "no answer" if state["rtt"] is None else f"last RTT {state['rtt']} us"
    print(f"prober: {state['records']} records, {rtt}")
    return 0


if __name__ == "__main__":
    sys.exit({"run": run, "status": status}[sys.argv[1]]())

//! Real software does its real work in a capsule, under the profile `default` and, but for debuggers, under `strict`.
//! A program that is missing on this machine is a failure that names it.

use std::net::TcpListener;
use std::process::Command;

use plab_tests::command::output_of_input;
use plab_tests::installed::InstalledSlice;
use plab_tests::{Output, TestNode, patience};

const PROFILES: [&str; 2] = ["default", "strict"];

/// What says that this is a node, with plabd under its unit, whose hardening is then around all that runs here.
const LANE: &str = "PLAB_LANE";

/// Where the slices are.
enum Node {
    Tests(TestNode),
    Installed,
}

impl Node {
    fn plab(&self, args: &[&str], input: &[u8]) -> Output {
        match self {
            Self::Tests(node) => node.plab_with_input(args, input),
            Self::Installed => output_of_input(Command::new("plab").args(args), input),
        }
    }
}

/// One slice a profile, each as large as servers need.
struct Machine {
    node: Node,
    slices: [Slice; 2],
}

struct Slice {
    name: String,
    profile: &'static str,
    port: u16,
    /// Removes it from a node that stays.
    _installed: Option<InstalledSlice>,
}

impl Machine {
    /// `programs` must be there, seen from inside.
    fn start(test: &str, programs: &[&str]) -> Self {
        let node = match std::env::var(LANE) {
            Ok(lane) if lane == "node" => Node::Installed,
            _ => Node::Tests(TestNode::start(&format!("software-{test}"))),
        };
        let ports = free_ports();
        let slices = [0, 1].map(|i| Slice::define(&node, test, PROFILES[i], ports[i]));
        for slice in &slices {
            for program in programs {
                let look = format!("PATH=$PATH:/usr/local/sbin:/usr/sbin command -v {program}");
                let found = node.plab(&["exec", &slice.name, "--", "bash", "-c", &look], b"");
                assert_eq!(found.code, 0, "{program} is missing on this machine, or in the capsule's view");
            }
        }
        Self { node, slices }
    }

    /// Runs a script under each profile; its last line must be `done`, which comes after all it checks.
    fn run(&self, script: &str) {
        for profile in PROFILES {
            let output = self.try_run(profile, script);
            assert!(output.code == 0 && output.stdout.ends_with("done\n"), "under {profile}: {output:#?}");
        }
    }

    /// Runs a script under one profile, with the slice's port in `$PORT`.
    fn try_run(&self, profile: &str, script: &str) -> Output {
        let slice = self.slices.iter().find(|slice| slice.profile == profile).expect("a profile");
        let script = format!(
            "set -euo pipefail\ntrap 'kill $(jobs -p) 2> /dev/null || true' EXIT\nPORT={}\nsoon() {{ for _ in $(seq {}); do \"$@\" && return; sleep 0.05; done; echo \"never: $*\" >&2; return 1; }}\n{script}\necho done\n",
            slice.port,
            patience().as_secs() * 10
        );
        let never = (patience() * 2).as_secs().to_string();
        self.node.plab(&["exec", &slice.name, "timeout", &never, "bash", "-s"], script.as_bytes())
    }

    /// Whatever still ran ends with its capsule.
    fn finish(self) {
        if let Node::Tests(node) = self.node {
            node.finish();
        }
    }
}

impl Slice {
    fn define(node: &Node, test: &str, profile: &'static str, port: u16) -> Self {
        let name = format!("site_{test}_{profile}");
        let more = format!(
            "[memory]\nmax = \"1G\"\n[tasks]\nmax = 512\n[seccomp]\nprofile = \"{profile}\"\n\
             [network]\nports = [\"tcp/{port}\", \"udp/{port}\"]"
        );
        let installed = match node {
            Node::Tests(node) => {
                node.define(&name, &more);
                None
            }
            Node::Installed => Some(InstalledSlice::define(&name, &more)),
        };
        Self { name, profile, port, _installed: installed }
    }
}

/// Two ports that nobody has now.
fn free_ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    listeners.map(|listener| listener.local_addr().expect("an address").port())
}

#[test]
fn bash_and_coreutils() {
    let machine = Machine::start(
        "bash",
        &[
            "bash",
            "sort",
            "sha256sum",
            "dd",
            "split",
            "timeout",
            "stat",
            "df",
            "nproc",
            "mktemp",
            "tail",
            "install",
        ],
    );
    machine.run(
        r##"
        declare -A counts
        while read -r word; do counts[$word]=$(( ${counts[$word]:-0} + 1 )); done < <(printf 'a\nb\na\n')
        [ "${counts[a]}-${counts[b]}" = 2-1 ]
        coproc CAT { cat; }
        echo through >&"${CAT[1]}"; read -r line <&"${CAT[0]}"; [ "$line" = through ]; kill "$CAT_PID"
        [ "$(seq 100000 | shuf | sort -n | uniq | tail -n 1)" = 100000 ]
        dd if=/dev/zero of=zeros bs=1M count=16 status=none
        [ "$(sha256sum < zeros)" = "080acf35a507ac9849cfcba47dc2ad83e01b75663a516279c8b9d243b719643e  -" ]
        split -b 4M zeros part. ; cat part.* | cmp - zeros
        [ "$(stat -c %s-%a-%U zeros)" = "16777216-644-$USER" ]
        d=$(mktemp -d); install -m 700 zeros "$d/copy"; ln -s copy "$d/link"; [ "$(readlink -f "$d/link")" = "$d/copy" ]; rm -r "$d"
        if timeout 0.1 sleep 100; then exit 1; else [ $? = 124 ]; fi
        [ "$(nproc)" -ge 1 ]; df . > df.txt; [ "$(ls -1 part.* | wc -l)" = 4 ]
        (trap 'echo trapped > trapped' USR1; kill -USR1 $BASHPID); [ "$(cat trapped)" = trapped ]
        [ "$(date -u -d @0 +%F)" = 1970-01-01 ]
        mkfifo pipe; (echo fifo > pipe) & [ "$(cat pipe)" = fifo ]; wait"##,
    );
    machine.finish();
}

#[test]
fn git() {
    let machine = Machine::start("git", &["git"]);
    machine.run(
        r#"
        git config --global user.name Test; git config --global user.email test@example.org
        git init -q -b main here; cd here; echo one > file; git add file; git commit -q -m first
        git checkout -q -b side; echo two >> file; git commit -q -am second; git checkout -q main
        git merge -q side; git gc -q
        cd ..; git clone -q "file://$HOME/here" there; cd there
        [ "$(git log --format=%s | tr '\n' ' ')" = "second first " ]; [ "$(cat file)" = $'one\ntwo' ]
        echo three >> file; git commit -q -am third; git push -q origin HEAD:third; git -C ../here fsck --strict
        [ "$(git -C ../here log -1 --format=%s third)" = third ]"#,
    );
    machine.finish();
}

#[test]
fn curl_and_pythons_http_server() {
    let machine = Machine::start("curl", &["curl", "python3"]);
    machine.run(
        r#"
        mkdir www; head -c 3000000 /dev/urandom > www/data
        python3 -m http.server --directory www --bind 127.0.0.1 "$PORT" > server.log 2>&1 & server=$!
        soon curl -sf -o got "http://127.0.0.1:$PORT/data"; cmp got www/data
        [ "$(curl -s -o /dev/null -w '%{http_code}' "http://localhost:$PORT/none")" = 404 ]
        [ "$(curl -s -r 0-9 "http://127.0.0.1:$PORT/data" | wc -c)" -ge 10 ]
        kill $server; wait $server || true"#,
    );
    machine.finish();
}

#[test]
fn python_with_threads_processes_and_shared_memory() {
    let machine = Machine::start("python", &["python3"]);
    machine.run(
        r#"
        cat > work.py <<'END'
import asyncio, concurrent.futures, ctypes, hashlib, multiprocessing as mp, os, socket, sqlite3, ssl, subprocess, sys, tempfile, threading
from multiprocessing import shared_memory

def square(x):
    return x * x

def fill(name, i):
    block = shared_memory.SharedMemory(name=name)
    block.buf[i] = i + 1
    block.close()

def locked(lock, counter, rounds):
    for _ in range(rounds):
        with lock:
            counter.value += 1

def main():
    total, guard = [0], threading.Lock()
    def add():
        for _ in range(1000):
            with guard:
                total[0] += 1
    threads = [threading.Thread(target=add) for _ in range(16)]
    [t.start() for t in threads]; [t.join() for t in threads]
    assert total[0] == 16000
    for method in "fork", "spawn", "forkserver":
        context = mp.get_context(method)
        with context.Pool(3) as pool:
            assert pool.map(square, range(50)) == [x * x for x in range(50)], method
        lock, counter = context.Lock(), context.Value("i", 0)
        workers = [context.Process(target=locked, args=(lock, counter, 200)) for _ in range(3)]
        [w.start() for w in workers]; [w.join() for w in workers]
        assert counter.value == 600, (method, counter.value)
        block = shared_memory.SharedMemory(create=True, size=4096)
        try:
            workers = [context.Process(target=fill, args=(block.name, i)) for i in range(4)]
            [w.start() for w in workers]; [w.join() for w in workers]
            assert bytes(block.buf[:4]) == b"\1\2\3\4", method
        finally:
            block.close(); block.unlink()
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        assert list(pool.map(square, [3, 4])) == [9, 16]
    async def run():
        process = await asyncio.create_subprocess_exec("tr", "a-z", "A-Z", stdin=-1, stdout=-1)
        out, _ = await process.communicate(b"asyncio")
        assert out == b"ASYNCIO"
        async def echo(reader, writer):
            writer.write(await reader.readline()); await writer.drain(); writer.close()
        path = os.path.join(tempfile.mkdtemp(), "socket")
        server = await asyncio.start_unix_server(echo, path)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"line\n")
        assert await reader.readline() == b"line\n"
        server.close()
    asyncio.run(run())
    base = sqlite3.connect("base.sqlite")
    base.execute("pragma journal_mode = wal")
    base.execute("create table if not exists t (x)")
    base.executemany("insert into t values (?)", [(i,) for i in range(100)])
    base.commit()
    assert base.execute("select sum(x) from t").fetchone()[0] == 4950
    assert ctypes.CDLL(None).getpid() == os.getpid()
    assert subprocess.run(["python3", "-c", "import os; os.abort()"]).returncode == -6
    a, b = socket.socketpair()
    a.send(b"x"); assert b.recv(1) == b"x"
    assert ssl.create_default_context().cert_store_stats()["x509_ca"] >= 0
    os.posix_fallocate(os.open("hole", os.O_CREAT | os.O_RDWR), 0, 100000)
    print("worked")

if __name__ == "__main__":
    main()
END
        [ "$(python3 work.py)" = worked ]
        python3 -m venv --without-pip env; [ "$(env/bin/python -c 'import sys; print(sys.prefix)')" = "$HOME/env" ]"#,
    );
    machine.finish();
}

#[test]
fn node_with_workers() {
    let machine = Machine::start("node", &["node"]);
    machine.run(
        r#"
        cat > work.js <<'END'
const { Worker, isMainThread, workerData } = require("worker_threads");
const { execFileSync, fork } = require("child_process");
const fs = require("fs"), http = require("http");
if (process.argv[2] === "child") { process.send("hello"); process.disconnect(); return; }
if (!isMainThread) {
  const cells = new Int32Array(workerData);
  for (let i = 0; i < 10000; i++) Atomics.add(cells, 0, 1);
  return;
}
(async () => {
  const shared = new SharedArrayBuffer(4);
  await Promise.all([1, 2, 3, 4].map(() => new Promise((done, failed) =>
    new Worker(__filename, { workerData: shared }).on("exit", done).on("error", failed))));
  if (new Int32Array(shared)[0] !== 40000) throw new Error("workers: " + new Int32Array(shared)[0]);
  const said = await new Promise(done => fork(__filename, ["child"]).on("message", done));
  if (said !== "hello") throw new Error("child");
  await fs.promises.writeFile("node.txt", "written");
  if (execFileSync("cat", ["node.txt"]).toString() !== "written") throw new Error("exec");
  const server = http.createServer((request, answer) => answer.end("served " + request.url));
  await new Promise(done => server.listen(0, "127.0.0.1", done));
  const text = await fetch(`http://127.0.0.1:${server.address().port}/x`).then(answer => answer.text());
  if (text !== "served /x") throw new Error(text);
  const hash = require("crypto").scryptSync("a", "b", 32).length;
  server.closeAllConnections?.(); server.close();
  console.log("worked", hash);
})().catch(error => { console.error(error); process.exit(1); });
END
        [ "$(node work.js)" = "worked 32" ]"#,
    );
    machine.finish();
}

#[test]
fn java_compiled_and_run_with_threads() {
    let machine = Machine::start("java", &["java", "javac"]);
    machine.run(
        r#"
        cat > Work.java <<'END'
import java.nio.file.*;
import java.util.concurrent.*;
import java.util.stream.*;
public class Work {
    public static void main(String[] args) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(8);
        long sum = 0;
        var parts = IntStream.range(0, 32).mapToObj(i -> pool.submit(() -> LongStream.range(i * 1000L, (i + 1) * 1000L).sum())).collect(Collectors.toList());
        for (Future<Long> part : parts) sum += part.get();
        pool.shutdown();
        if (sum != LongStream.range(0, 32000).sum()) throw new Error("" + sum);
        byte[][] garbage = new byte[16][];
        for (int i = 0; i < 2000; i++) garbage[i % 16] = new byte[1 << 18];
        System.gc();
        Files.writeString(Path.of("java.txt"), "written");
        var process = new ProcessBuilder("cat", "java.txt").start();
        String read = new String(process.getInputStream().readAllBytes());
        try (var server = new java.net.ServerSocket(0, 1, java.net.InetAddress.getLoopbackAddress()); var client = new java.net.Socket(server.getInetAddress(), server.getLocalPort())) {
            client.getOutputStream().write(7);
            if (server.accept().getInputStream().read() != 7) throw new Error("socket");
        }
        System.out.println(sum + " " + read + " " + (Runtime.getRuntime().maxMemory() <= (96L << 20)));
    }
}
END
        javac -J-Xmx128m Work.java
        [ "$(java -Xmx96m Work)" = "511984000 written true" ]"#,
    );
    machine.finish();
}

const PROGRAM: &str = r#"
cat > program.c <<'END'
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/wait.h>
static volatile int value;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
void *work(void *amount) {
    for (int i = 0; i < 1000; i++) { pthread_mutex_lock(&lock); value += *(int *)amount; pthread_mutex_unlock(&lock); }
    return NULL;
}
int main(int argc, char **argv) {
    if (argc > 1) for (;;) pause();
    pthread_t threads[4];
    int amount = 2, status;
    for (int i = 0; i < 4; i++) if (pthread_create(&threads[i], NULL, work, &amount)) abort();
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    pid_t child = fork();
    if (child == 0) _exit(value == 8000 ? 42 : 1);
    waitpid(child, &status, 0);
    printf("%d %d\n", value, WEXITSTATUS(status));
    return 0;
}
END
gcc -g -O0 -Wall -Werror -pthread -o program program.c
"#;

#[test]
fn gcc() {
    let machine = Machine::start("gcc", &["gcc", "ld", "ar", "make"]);
    machine.run(&format!(
        "{PROGRAM}\n{}",
        r#"
        [ "$(./program)" = "8000 42" ]
        echo 'int twice(int x) { return 2 * x; }' > twice.c
        printf 'int twice(int); int printf(const char *, ...); int main(void) { printf("%%d\\n", twice(21)); }' > main.c
        printf 'all: main\nlibtwice.a: twice.o\n\tar rcs $@ $<\nmain: main.o libtwice.a\n\tgcc -o $@ main.o -L. -ltwice\n' > Makefile
        make -s -j2 CFLAGS="-O2 -flto=auto -ffat-lto-objects"; [ "$(./main)" = 42 ]
        gcc -shared -fPIC -o libtwice.so twice.c; gcc -static -o static program.c -pthread; [ "$(./static)" = "8000 42" ]"#
    ));
    machine.finish();
}

#[test]
fn gdb_on_ones_own_processes() {
    let machine = Machine::start("gdb", &["gdb", "gcc"]);
    let started = "gdb -nx -batch -ex 'break work' -ex run -ex 'print *(int *)amount' -ex 'info threads' -ex 'delete' -ex continue ./program > gdb.txt 2>&1";
    let attached = "./program wait & waiting=$!\ngdb -nx -batch -p $waiting -ex bt -ex 'print value' > attached.txt 2>&1 || true\nkill $waiting\n";
    let output = machine.try_run(
        "default",
        &format!(
            "trap 'cat gdb.txt attached.txt >&2' ERR\n{PROGRAM}\n{started}\ngrep -F '$1 = 2' gdb.txt\ngrep -F 'Thread' gdb.txt\ngrep -F '8000 42' gdb.txt\ngrep -F 'exited normally' gdb.txt\n\
             {attached}\ngrep -F 'pause' attached.txt\ngrep -F '$1 = 0' attached.txt"
        ),
    );
    assert!(output.code == 0 && output.stdout.ends_with("done\n"), "{output:#?}");
    // `strict` has no debuggers.
    let output = machine
        .try_run("strict", &format!("{PROGRAM}\n{started} || true\n{attached}\ncat gdb.txt attached.txt"));
    assert!(
        output.stdout.contains("Operation not permitted") && !output.stdout.contains("$1 = "),
        "{output:#?}"
    );
    machine.finish();
}

#[test]
fn strace_on_ones_own_processes() {
    let machine = Machine::start("strace", &["strace"]);
    let output = machine.try_run(
        "default",
        "strace -f -o trace bash -c 'echo hello > hello; cat hello & wait' > out\n[ \"$(cat out)\" = hello ]\n\
         grep -E 'execve\\(\"/[a-z/]*bin/cat\", \\[\"cat\", \"hello\"\\]' trace\ngrep -F 'write(1, \"hello\\n\", 6)' trace\n\
         [ \"$(cut -d' ' -f1 trace | sort -u | wc -l)\" -ge 2 ]\n\
         sleep 1000 & strace -o attached -p $! & sleep 0.5; kill %1; wait\ngrep -F 'killed by SIGTERM' attached",
    );
    assert!(output.code == 0 && output.stdout.ends_with("done\n"), "{output:#?}");
    let output = machine.try_run("strict", "strace -f true 2>&1 || true");
    assert!(output.stdout.contains("Operation not permitted"), "{output:#?}");
    machine.finish();
}

#[test]
fn nginx() {
    let machine = Machine::start("nginx", &["nginx", "curl"]);
    machine.run(
        r#"
        export PATH=$PATH:/usr/local/sbin:/usr/sbin
        mkdir -p www tmp; head -c 2000000 /dev/urandom > www/data; echo welcome > www/index.html
        cat > nginx.conf <<END
daemon off;
worker_processes 2;
pid $HOME/nginx.pid;
error_log $HOME/error.log info;
events { worker_connections 64; }
http {
    access_log $HOME/access.log;
    client_body_temp_path $HOME/tmp/a; proxy_temp_path $HOME/tmp/b; fastcgi_temp_path $HOME/tmp/c;
    uwsgi_temp_path $HOME/tmp/d; scgi_temp_path $HOME/tmp/e;
    sendfile on; aio threads;
    server { listen 127.0.0.1:$PORT; root $HOME/www; }
}
END
        nginx -p "$HOME" -e "$HOME/error.log" -c "$HOME/nginx.conf" > nginx.txt 2>&1 & server=$!
        soon curl -sf -o got "http://127.0.0.1:$PORT/data"; cmp got www/data
        [ "$(curl -sf "http://127.0.0.1:$PORT/")" = welcome ]
        nginx -p "$HOME" -e "$HOME/error.log" -c "$HOME/nginx.conf" -s reload
        for _ in $(seq 50); do [ "$(curl -sf "http://127.0.0.1:$PORT/")" = welcome ]; done
        # A request is logged after its answer has left.
        logged() { [ "$(wc -l < access.log)" -ge 52 ]; }; soon logged
        kill -QUIT $server; wait $server"#,
    );
    machine.finish();
}

#[test]
fn redis() {
    let machine = Machine::start("redis", &["redis-server", "redis-cli"]);
    machine.run(
        r#"
        mkdir data
        redis-server --port "$PORT" --bind 127.0.0.1 --dir data --appendonly yes --save '' --io-threads 2 --logfile redis.log > redis.txt 2>&1 & server=$!
        cli() { redis-cli -h 127.0.0.1 -p "$PORT" "$@"; }
        up() { [ "$(cli ping 2> /dev/null)" = PONG ]; }
        soon up
        [ "$(cli set key value)" = OK ]; [ "$(cli get key)" = value ]
        for i in $(seq 500); do echo "incr counter"; done | cli > /dev/null; [ "$(cli get counter)" = 500 ]
        [ "$(cli eval 'return redis.call("get", KEYS[1]) + 1' 1 counter)" = 501 ]
        cli bgsave > /dev/null; saved() { cli info persistence | grep -q 'rdb_bgsave_in_progress:0'; }; soon saved
        cli info persistence | grep -q 'rdb_last_bgsave_status:ok'; [ -s data/dump.rdb ]
        cli shutdown; wait $server
        redis-server --port "$PORT" --bind 127.0.0.1 --dir data --appendonly yes --logfile redis.log > redis.txt 2>&1 & server=$!
        soon up; [ "$(cli get counter)" = 500 ]; cli shutdown nosave; wait $server"#,
    );
    machine.finish();
}

#[test]
fn postgres() {
    let machine = Machine::start("postgres", &["pg_config"]);
    machine.run(
        r#"
        bin=$(pg_config --bindir); export LC_ALL=C
        "$bin/initdb" -D base -U me -A trust --no-sync > initdb.log 2>&1 || { cat initdb.log >&2; exit 1; }
        "$bin/postgres" -D base -p "$PORT" -c listen_addresses=127.0.0.1 -c unix_socket_directories="$HOME" -c shared_buffers=16MB > postgres.log 2>&1 & server=$!
        soon "$bin/pg_isready" -q -h 127.0.0.1 -p "$PORT"
        sql() { "$bin/psql" -h "$1" -p "$PORT" -U me -X -v ON_ERROR_STOP=1 -At -d postgres -c "$2"; }
        sql 127.0.0.1 "create table t as select generate_series(1, 200000) as x" > /dev/null
        [ "$(sql 127.0.0.1 "select sum(x) from t")" = 20000100000 ]
        sql "$HOME" "create index on t (x); analyze t" > /dev/null
        parallel="set max_parallel_workers_per_gather = 2; set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0;"
        sql "$HOME" "$parallel explain analyze select count(*) from t where x % 2 = 0" > plan
        grep -q 'Workers Launched: [12]' plan
        sql "$HOME" "checkpoint" > /dev/null; sql "$HOME" "vacuum t" > /dev/null
        kill -INT $server; wait $server
        "$bin/postgres" --single -D base postgres <<< "select count(*) from t" | grep -q 200000"#,
    );
    machine.finish();
}

#[test]
fn iperf3() {
    let machine = Machine::start("iperf3", &["iperf3", "python3"]);
    machine.run(
        r#"
        iperf3 -s -1 --forceflush -B 127.0.0.1 -p "$PORT" > server.txt 2>&1 & server=$!
        soon grep -q 'Server listening' server.txt
        iperf3 -c 127.0.0.1 -p "$PORT" -t 1 -P 2 -J > client.json || { cat client.json server.txt >&2; exit 1; }
        wait $server
        python3 -c 'import json; end = json.load(open("client.json"))["end"]; assert end["sum_received"]["bytes"] > 1_000_000, end'"#,
    );
    machine.finish();
}

//! What the node is compared with: the same command by a bare vfork and exec, by `bwrap`, and by `crun`, each with
//! the peer's own binary.

use std::ffi::CString;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::thread::UnshareFlags;
use serde_json::{Value, json};

use crate::Failure;
use crate::cleanup;

/// What everybody runs. On every Debian system, and nothing is faster.
pub const COMMAND: &str = "/bin/true";

/// Everybody we are compared with.
pub struct Contenders {
    /// vfork+exec+wait, and nothing else.
    pub bare: Program,
    /// Bubblewrap, or why it cannot run here.
    pub bwrap: Result<Program, String>,
    /// crun, or why it cannot run here.
    pub crun: Result<Crun, String>,
    directory: PathBuf,
}

impl Contenders {
    /// Makes everybody ready and tries everybody once.
    pub fn prepare() -> Result<Self, Failure> {
        let directory = std::env::temp_dir().join(format!("plab-bench-peers-{}", std::process::id()));
        std::fs::create_dir(&directory)?;
        cleanup::remember_scratch(&directory);
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755))?;
        let bare = Program::new(&[COMMAND])?;
        bare.run()?;
        let bwrap = bwrap(&directory).and_then(|program| program.run().map(|_| program));
        let crun = Crun::prepare(&directory);
        Ok(Self {
            bare,
            bwrap: bwrap.map_err(|error| hint("bwrap", "bubblewrap", &error.to_string())),
            crun: crun.map_err(|error| hint("crun", "crun", &error.to_string())),
            directory,
        })
    }

    /// What the peers say they are.
    pub fn versions(&self) -> Value {
        json!({ "bwrap": version("bwrap"), "crun": version("crun"), "plabd": version(&plabd()) })
    }
}

impl Drop for Contenders {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.directory).ok();
    }
}

fn plabd() -> String {
    plab_tests::binary("plabd").display().to_string()
}

fn hint(program: &str, package: &str, error: &str) -> String {
    match version(program) {
        Some(_) => format!("{program} cannot run here: {error}"),
        None => format!("{program} is not installed: apt-get install {package}"),
    }
}

fn version(program: &str) -> Option<String> {
    let output = std::process::Command::new(program).arg("--version").output().ok()?;
    String::from_utf8(output.stdout).ok()?.lines().next().map(str::to_owned)
}

fn find(program: &str) -> Result<String, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
        .map(|file| file.display().to_string())
        .ok_or_else(|| format!("there is no {program}").into())
}

/// A capsule's view, mount for mount: the system and the CPUs read-only, own /proc with the same masks, own /dev,
/// three writable directories. Of a capsule's other layers (limits, its own UID, seccomp, Landlock) it has none.
fn bwrap(directory: &Path) -> Result<Program, Failure> {
    let mut words: Vec<String> = vec![find("bwrap")?];
    let mut add = |more: &[&str]| words.extend(more.iter().map(|&word| word.to_owned()));
    add(&["--unshare-pid", "--unshare-ipc", "--unshare-cgroup", "--ro-bind", "/usr", "/usr"]);
    for name in merged() {
        add(&["--symlink", &format!("usr/{name}"), &format!("/{name}")]);
    }
    add(&["--ro-bind", CPUS, CPUS, "--proc", "/proc", "--dev", "/dev"]);
    for file in masked() {
        add(&["--ro-bind", "/dev/null", &file]);
    }
    for (own, at) in OWN {
        let own = directory.join(own);
        std::fs::create_dir(&own)?;
        add(&["--bind", &own.display().to_string(), at]);
    }
    add(&["--new-session", "--die-with-parent", COMMAND]);
    Program::new(&words)
}

/// What a capsule sees of /sys.
const CPUS: &str = "/sys/devices/system/cpu";

/// Directories of its own, and where it sees them.
const OWN: [(&str, &str); 4] =
    [("home", "/home/bench"), ("tmp", "/tmp"), ("var-tmp", "/var/tmp"), ("identity", "/run/planetlab")];

/// What is covered in a capsule's /proc, as far as this kernel has it.
fn masked() -> impl Iterator<Item = String> {
    ["keys", "key-users", "kmsg", "kallsyms", "kpagecount", "kpageflags", "kpagecgroup", "timer_list"]
        .into_iter()
        .map(|name| format!("/proc/{name}"))
        .filter(|file| Path::new(file).exists())
}

/// `/bin` and the like, which are links into `/usr`.
fn merged() -> impl Iterator<Item = &'static str> {
    ["bin", "sbin", "lib", "lib64"].into_iter().filter(|name| Path::new("/usr").join(name).is_dir())
}

/// A program with its arguments, ready to be started many times.
pub struct Program {
    words: Vec<CString>,
}

impl Program {
    fn new(words: &[impl AsRef<str>]) -> Result<Self, Failure> {
        let words = words.iter().map(|word| CString::new(word.as_ref())).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { words })
    }

    /// Starts it and waits for it: posix_spawn(3), which is one vfork and exec and costs the same however large this
    /// process is.
    pub fn run(&self) -> Result<Duration, Failure> {
        let argv: Vec<*mut libc::c_char> =
            self.words.iter().map(|word| word.as_ptr().cast_mut()).chain([std::ptr::null_mut()]).collect();
        let envp = [c"PATH=/usr/bin:/usr/sbin".as_ptr().cast_mut(), std::ptr::null_mut()];
        let mut pid = 0;
        let mut status = 0;
        let begun = Instant::now();
        // SAFETY: the arrays are NULL-terminated and borrow strings that outlive the call.
        let error = unsafe {
            libc::posix_spawn(
                &raw mut pid,
                argv[0],
                std::ptr::null(),
                std::ptr::null(),
                argv.as_ptr(),
                envp.as_ptr(),
            )
        };
        if error != 0 {
            return Err(std::io::Error::from_raw_os_error(error).into());
        }
        // SAFETY: the child is ours and waited for once; the status is ours to write to.
        let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
        let took = begun.elapsed();
        if waited != pid || status != 0 {
            let word = self.words[0].to_string_lossy();
            return Err(format!("{word} ended with wait status {status:#x}").into());
        }
        Ok(took)
    }
}

/// crun with a bundle like a capsule's view. It has a thread of its own, in a mount namespace of its own: on a
/// machine that has both versions of cgroups mounted crun gives up, so there it does not get to see the second.
pub struct Crun {
    turns: mpsc::Sender<()>,
    times: mpsc::Receiver<Result<Duration, String>>,
}

impl Crun {
    fn prepare(directory: &Path) -> Result<Self, Failure> {
        let bundle = directory.join("bundle");
        make_bundle(&bundle)?;
        let state = directory.join("crun").display().to_string();
        let bundle = bundle.display().to_string();
        let program = Program::new(&[
            &find("crun")?,
            "--cgroup-manager=disabled",
            "--root",
            &state,
            "run",
            "--bundle",
            &bundle,
            "plab-bench",
        ])?;
        let (turns, turn) = mpsc::channel();
        let (time, times) = mpsc::channel();
        std::thread::spawn(move || {
            let ready = hide_second_cgroups().map_err(|error| error.to_string());
            while turn.recv().is_ok() {
                let took = ready.clone().and_then(|()| program.run().map_err(|error| error.to_string()));
                if time.send(took).is_err() {
                    break;
                }
            }
        });
        let crun = Self { turns, times };
        crun.run()?;
        Ok(crun)
    }

    /// As [`Program::run`].
    pub fn run(&self) -> Result<Duration, Failure> {
        self.turns.send(())?;
        Ok(self.times.recv()??)
    }
}

/// For the calling thread and its children only.
fn hide_second_cgroups() -> Result<(), Failure> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let cgroups = |kind: &str| -> Vec<String> {
        let kind = format!(" - {kind} ");
        let lines = mounts.lines().filter(|line| line.contains(&kind));
        lines.filter_map(|line| line.split(' ').nth(4).map(str::to_owned)).collect()
    };
    // SAFETY: this thread's working directory, root and mounts are its own from here on; it relies on none of them, and
    // no descriptor table or memory is unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    if !cgroups("cgroup").is_empty() {
        for second in cgroups("cgroup2") {
            unmount(&second, UnmountFlags::DETACH)?;
        }
    }
    Ok(())
}

fn make_bundle(bundle: &Path) -> Result<(), Failure> {
    let root = bundle.join("rootfs");
    for directory in ["usr", "proc", "dev", "sys/devices/system/cpu"] {
        std::fs::create_dir_all(root.join(directory))?;
    }
    let mount = |at: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": at, "type": kind, "source": source, "options": options });
    let mut mounts = vec![
        mount("/usr", "bind", "/usr", &["bind", "ro", "nosuid", "nodev"]),
        mount(CPUS, "bind", CPUS, &["bind", "ro", "nosuid", "nodev", "noexec"]),
        mount("/proc", "proc", "proc", &["nosuid", "nodev", "noexec"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        ),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777"]),
    ];
    for (own, at) in OWN {
        std::fs::create_dir_all(root.join(at.trim_start_matches('/')))?;
        let own = bundle.join(own);
        std::fs::create_dir(&own)?;
        mounts.push(mount(at, "bind", &own.display().to_string(), &["bind", "nosuid", "nodev"]));
    }
    for name in merged() {
        symlink(format!("usr/{name}"), root.join(name))?;
    }
    let config = json!({
        "ociVersion": "1.0.0",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": [COMMAND],
            "env": ["PATH=/usr/bin:/usr/sbin"],
            "cwd": "/",
            "capabilities": { "bounding": [], "effective": [], "permitted": [] },
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "mounts": mounts,
        "linux": {
            "namespaces": [{ "type": "pid" }, { "type": "ipc" }, { "type": "mount" }],
            "maskedPaths": masked().collect::<Vec<_>>(),
            "readonlyPaths": ["/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs"],
        },
    });
    std::fs::write(bundle.join("config.json"), serde_json::to_vec_pretty(&config)?)?;
    Ok(())
}

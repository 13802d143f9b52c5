//! Compiles the BPF object with clang, the one compiler here that knows the target.

use std::path::PathBuf;
use std::process::Command;

const SOURCES: [&str; 11] = [
    "capsule.bpf.c",
    "echo.h",
    "flow.h",
    "held.h",
    "helpers.h",
    "known.h",
    "local.h",
    "options.h",
    "packet.h",
    "raw.h",
    "state.h",
];

fn main() {
    for source in SOURCES {
        println!("cargo::rerun-if-changed=bpf/{source}");
    }
    println!("cargo::rerun-if-env-changed=CLANG");
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let object = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("capsule.bpf.o");
    let mut command = Command::new(&clang);
    command.args([
        "-target",
        "bpf",
        // Atomic instructions that return what was there: kernel 5.12.
        "-mcpu=v3",
        "-O2",
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-c",
        "bpf/capsule.bpf.c",
        "-o",
    ]);
    command.arg(&object);
    // Where Debian has <asm/types.h>, which <linux/bpf.h> wants: clang looks there for the host's own target only.
    let machine = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    command.arg(format!("-I/usr/include/{machine}-linux-gnu"));
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => fail(&format!(
            "could not run {clang}: {error}; it compiles the BPF programs. On Debian: apt-get install clang (or \
             scripts/install-deps demo)"
        )),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        fail(&format!(
            "{clang} could not compile bpf/capsule.bpf.c ({}); it needs the kernel's headers, on Debian in \
             linux-libc-dev:\n{said}",
            output.status
        ));
    }
}

/// Cargo shows these lines above everything else.
fn fail(message: &str) -> ! {
    for line in message.lines() {
        println!("cargo::error={line}");
    }
    std::process::exit(1)
}

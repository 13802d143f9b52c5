//! PID 1 of one capsule. Started by plabd only; see `plab_sandbox::init`.

fn main() -> std::process::ExitCode {
    plab_sandbox::init::main()
}

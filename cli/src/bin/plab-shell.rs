//! The login shell of slices; see [`plab_cli::login`].

fn main() -> std::process::ExitCode {
    plab_cli::login::main()
}

//! What sshd runs to learn who may log in to a slice; see [`plab_cli::login::keys`].

fn main() -> std::process::ExitCode {
    plab_cli::login::keys::main()
}

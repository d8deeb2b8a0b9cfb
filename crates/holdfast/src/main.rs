//! Holdfast: the daemon and its command line, in one program.

mod allocator;
mod cli;
mod daemon;

fn main() -> std::process::ExitCode {
    cli::main()
}

//! Holdfast: the daemon and its command line, in one program.

mod cli;
mod daemon;

/// Blocks are made on one thread and dropped on another, hundreds of thousands a second. The system's
/// allocator keeps what others freed and grows far beyond the budgets; this one gives it back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}

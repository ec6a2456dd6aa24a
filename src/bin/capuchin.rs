//! Borrows what another machine lends; `capuchin lender …` is `capuchind …`.

#![forbid(unsafe_code)]

/// glibc's allocator halves the throughput of many short-lived blocks.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    capuchin::cli::main()
}

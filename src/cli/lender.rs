//! The lender's commands.

use super::report::Failure;

/// What `capuchind` does.
#[derive(clap::Subcommand)]
pub enum Command {}

/// Does it.
///
/// # Errors
/// None: there is no command yet.
pub fn run(command: Command) -> Result<(), Failure> {
    match command {}
}

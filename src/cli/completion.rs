//! Completion for bash, zsh and fish: the shell asks this very command, so that it knows the hosts of now.
//!
//! `source <(COMPLETE=bash capuchin)` teaches a shell to ask.
//!
//! Paths of the lender are not completed, shared session or not: nothing lists its files under the policy yet.

use clap::{Arg, Command, CommandFactory};
use clap_complete::{CompleteEnv, CompletionCandidate, engine::ArgValueCandidates};

use crate::Profiles;

/// Answers a shell that asks, and ends then.
pub fn answer<A: CommandFactory>() {
    CompleteEnv::with_factory(|| with_hosts(A::command())).complete();
}

/// Each command that is about a host, with the hosts that there are. In place: the order of arguments is their meaning.
fn with_hosts(command: Command) -> Command {
    let add = |argument: Arg| if argument.get_id() == "host" { argument.add(hosts()) } else { argument };
    command.mut_subcommands(|command| command.mut_args(add))
}

/// The hosts that this machine has joined.
fn hosts() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        // What cannot be read completes nothing, and says why when it is used.
        let listed = Profiles::from_env().and_then(|profiles| profiles.list()).unwrap_or_default();
        listed.into_iter().map(|(alias, _)| CompletionCandidate::new(alias.as_str())).collect()
    })
}

//! Completion for bash, zsh and fish: the shell asks this very command, so that it knows the hosts of now.
//!
//! `source <(COMPLETE=bash capuchin)` teaches a shell to ask.
//!
//! Paths of the lender are completed where a session is shared.

mod bash;
mod line;
mod program;
mod remote;

use std::{env, ffi::OsStr};

use clap::{Arg, Command, CommandFactory};
use clap_complete::{
    CompleteEnv, CompletionCandidate,
    engine::ArgValueCompleter,
    env::{Fish, Shells, Zsh},
};

use self::{
    bash::Bash,
    line::{Line, Words},
    program::Program,
    remote::RemotePath,
};
use crate::{Profiles, proto::UserName};

/// Answers a shell that asks, and ends then.
pub fn answer<A: CommandFactory>() {
    // clap takes the variable away before it asks for the command.
    let is_bash = env::var_os("COMPLETE").is_some_and(|shell| shell == "bash");
    let command = || {
        let words = Words::asked(is_bash);
        with_remote_paths(with_programs(with_hosts(A::command()), &words), &words)
    };
    CompleteEnv::with_factory(command).shells(Shells(&[&Bash, &Fish, &Zsh])).complete();
}

/// Each command that is about a host, with the hosts that there are. In place: the order of arguments is their meaning.
fn with_hosts(command: Command) -> Command {
    let hosts = ArgValueCompleter::new(hosts);
    let add = |argument: Arg| if argument.get_id() == "host" { argument.add(hosts.clone()) } else { argument };
    command.mut_subcommands(|command| command.mut_args(add))
}

/// What `run` starts is a program of this machine, with its arguments.
fn with_programs(command: Command, words: &Words) -> Command {
    let program = ArgValueCompleter::new(Program { line: Line::new(&command, words), argument: "program" });
    let add = |argument: Arg| if argument.get_id() == "program" { argument.add(program.clone()) } else { argument };
    with_each(command, &["run"], |run| run.mut_args(add))
}

/// What `exec` starts is a program of the lender, with its arguments; what `exec` and `shell` begin in is a folder there.
fn with_remote_paths(command: Command, words: &Words) -> Command {
    let line = Line::new(&command, words);
    let program = ArgValueCompleter::new(RemotePath::program(&line, "argv"));
    let folder = ArgValueCompleter::new(RemotePath::folder(&line));
    let add = |argument: Arg| match argument.get_id().as_str() {
        "argv" => argument.add(program.clone()),
        "folder" => argument.add(folder.clone()),
        _ => argument,
    };
    with_each(command, &["exec", "shell"], |session| session.mut_args(add))
}

/// Changes those subcommands of these names that there are: a lender has none of them.
fn with_each(command: Command, names: &[&str], change: impl Fn(Command) -> Command) -> Command {
    command.mut_subcommands(|command| if names.contains(&command.get_name()) { change(command) } else { command })
}

/// Whether it is nothing but itself to every shell.
fn is_plain(character: char) -> bool {
    character.is_alphanumeric() || "._-+,:@%=/".contains(character)
}

/// Hosts for an argument that takes no user.
pub fn aliases() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| match typed.as_encoded_bytes().contains(&b'@') {
        true => Vec::new(),
        false => hosts(typed),
    })
}

/// The hosts that this machine has joined; behind `USER@`, as that user.
fn hosts(typed: &OsStr) -> Vec<CompletionCandidate> {
    let Some(typed) = typed.to_str() else { return Vec::new() };
    let (user, begun) = match typed.split_once('@') {
        Some((user, begun)) => (Some(user), begun),
        None => (None, typed),
    };
    // What cannot be read completes nothing, and says why when it is used.
    let listed = Profiles::from_env().and_then(|profiles| profiles.list()).unwrap_or_default();
    let joined_as = |users: &[UserName]| user.is_none_or(|user| users.iter().any(|one| one.as_str() == user));
    let fits = listed.into_iter().filter(|(alias, profile)| {
        let is_joined = profile.as_ref().map_or(user.is_none(), |profile| joined_as(&profile.users));
        is_joined && alias.as_str().starts_with(begun)
    });
    fits.map(|(alias, _)| match user {
        Some(user) => CompletionCandidate::new(format!("{user}@{alias}")),
        None => CompletionCandidate::new(alias.as_str()),
    })
    .collect()
}

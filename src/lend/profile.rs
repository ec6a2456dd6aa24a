//! Lends the machine's profile: its routes, resolvers and names, to who may use them, and variables of its environment, each by its own
//! rule.

mod routes;

use std::{collections::BTreeSet, ffi::OsString, os::unix::ffi::OsStringExt};

use super::{blocking::blocking, borrower::Borrower, dispatch::refuse, gate};
use crate::{
    policy::{Granted, Profile, ReadVariable},
    proto::{Answer, Errno, ErrorKind, Machine, Refusal, VARIABLES_BYTES_MAX, Variable},
    session::Stream,
};

/// Answers with the profile and these variables; one that the policy keeps back refuses all of it.
///
/// # Cancellation
/// A handle that is taken back ends its stream without an answer.
pub(super) async fn lend(borrower: &Borrower, variables: &BTreeSet<String>, stream: Stream) {
    let (profile, granted) = match gate::profile(borrower, variables).await {
        Ok(granted) => granted,
        Err(refusal) => return refuse(&stream, refusal).await,
    };
    let judged = profile.clone();
    let still = move |borrower: &Borrower| gate::still_by_rules(borrower, &judged);
    let held = match borrower.hold(&stream, "profile", String::new(), Box::new(still)) {
        Ok(held) => held,
        Err(refusal) => return refuse(&stream, refusal).await,
    };
    let tell = async {
        match read(borrower, &profile, granted).await {
            Ok(machine) => drop(stream.write_message(&Answer::Granted(machine)).await),
            Err(refusal) => refuse(&stream, refusal).await,
        }
    };
    held.serve(&stream, tell).await;
}

async fn read(
    borrower: &Borrower,
    profile: &Granted<Profile>,
    granted: Vec<Granted<ReadVariable>>,
) -> Result<Machine, Refusal> {
    let network = if profile.request().shows_network() { network(borrower).await? } else { Machine::default() };
    let machine = Machine { variables: granted.into_iter().filter_map(value).collect(), ..network };
    if machine.variables.iter().map(Variable::cost).sum::<usize>() > VARIABLES_BYTES_MAX {
        let text = format!("the variables are longer than {VARIABLES_BYTES_MAX} bytes together: ask for fewer at once");
        return Err(Refusal::new(ErrorKind::Target, text).with_errno(Some(Errno::EMSGSIZE)));
    }
    // Kept by every part of it; a borrower would refuse what is longer.
    machine.check().map(|()| machine).map_err(|error| Refusal::new(ErrorKind::Local, error.to_string()))
}

/// How the network looks from here.
async fn network(borrower: &Borrower) -> Result<Machine, Refusal> {
    let names = &borrower.lender.shared.machine;
    let (resolver, hosts) = (names.resolver_file().await, names.hosts_lines().await);
    let routes = blocking(routes::read).await.map_err(|error| {
        let text = format!("the lender cannot read its routes: {error}");
        Refusal::new(ErrorKind::Target, text).with_errno(Errno::of(&error))
    })?;
    Ok(Machine {
        addresses: routes.addresses,
        routes: routes.routes,
        resolvers: resolver.resolvers.clone(),
        search: resolver.search.clone(),
        options: resolver.options.clone(),
        hosts: gate::hosts_shown(borrower, &hosts),
        variables: Vec::new(),
    })
}

/// The variable of this process, if it is set.
fn value(grant: Granted<ReadVariable>) -> Option<Variable> {
    let (variable, _) = grant.into_parts();
    let value = std::env::var_os(variable.name()).map(OsString::into_vec)?;
    Some(Variable { name: variable.name().to_owned(), value })
}

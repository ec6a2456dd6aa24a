//! Names to addresses, once for each request, by the lender's own resolver.

use std::{net::IpAddr, time::Duration};

use tokio::sync::Semaphore;

use crate::{
    policy::{ADDRESSES_MAX, Host},
    proto::{Errno, ErrorKind, Refusal},
};

/// The resolver's own time-outs add up to 30 s and more; nobody waits so long for a name.
const RESOLVE_MAX: Duration = Duration::from_secs(10);
/// Look-ups at once: each holds a thread while it waits.
static PLACES: Semaphore = Semaphore::const_new(64);

/// What the host is; an address is itself. `absolute`: the search list of resolv.conf(5) is left out.
pub(super) async fn resolve(host: &Host, absolute: bool) -> Result<Vec<IpAddr>, Refusal> {
    let name = match host {
        Host::Address(address) => return Ok(vec![*address]),
        Host::Name(name) => name.as_str(),
    };
    let unknown = |why: String| {
        Refusal::new(ErrorKind::Target, format!("the lender cannot resolve {name}: {why}"))
            .with_errno(Some(Errno::EHOSTUNREACH))
    };
    let asked = if absolute { format!("{name}.") } else { name.to_owned() };
    let look_up = async {
        // Never closed.
        let _place = PLACES.acquire().await;
        tokio::net::lookup_host((asked, 0)).await
    };
    let found = match tokio::time::timeout(RESOLVE_MAX, look_up).await {
        Ok(found) => found.map_err(|error| unknown(error.to_string()))?,
        Err(_) => return Err(unknown(format!("no answer within {} s", RESOLVE_MAX.as_secs()))),
    };
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.map(|address| address.ip()).take(ADDRESSES_MAX) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

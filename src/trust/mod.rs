//! Who is who: keys and their files, certificates, TLS, invitations, passwords, tickets, and what the lender remembers.
//!
//! The road of a device through these files: [`join_line`] brings it to the lender, [`proof`] shows both ends that the
//! other knows the line's secret, [`authority`] issues its certificate, [`tls`] demands that certificate ever after,
//! [`identity`] reads user and device out of it, [`password`] or [`ticket`] logs it in, and the store remembers.
//!
//! Nothing here opens a connection. What decides takes the time as an argument.
//!
//! # Security
//! Cryptography is aws-lc-rs's and rustls's; certificates are verified by rustls's stock verifiers, with no switch that
//! turns them off; only the time they are told differs, in [`overdue`]. Secrets are types without `Debug` and `Clone`, wiped when dropped.

#![forbid(unsafe_code)]

pub mod authority;
pub mod identity;
pub mod issued;
pub mod join_line;
pub mod keyfile;
#[cfg(feature = "lend")]
pub mod lockout;
pub mod overdue;
pub mod password;
pub mod pem;
pub mod proof;
mod random;
pub mod request;
pub mod settings_file;
#[cfg(feature = "lend")]
pub mod store;
pub mod ticket;
pub mod tls;
mod unix_time;

pub use random::random;
pub use unix_time::UnixTime;

//! What an admin's command leaves in the log: who gave it, what it was, and what came of it.

use super::Event;
use crate::{
    lend::{AdminRequest, LendError, Revoked},
    proto::Ask,
};

impl Event {
    /// The event of a command, without its result. Each command says itself what of it may be written, so that a new one
    /// cannot bring a secret along unseen.
    pub(in crate::lend) fn of_command(request: &AdminRequest, uid: u32) -> Self {
        let (command, user, target, arguments) = match request {
            AdminRequest::UserAdd { user } => ("user add", Some(user), None, None),
            AdminRequest::UserList => ("user list", None, None, None),
            AdminRequest::UserRemove { user } => ("user remove", Some(user), None, None),
            AdminRequest::Passwd { user, password: _ } => ("passwd", Some(user), None, None),
            AdminRequest::Invite { user, ttl_seconds } => {
                ("invite", Some(user), None, Some(format!("ttl {ttl_seconds} s")))
            }
            AdminRequest::Logout { user } => ("logout", Some(user), None, None),
            AdminRequest::Allow { user, kind, target, seconds } => {
                let ask = Ask { kind: kind.clone(), target: target.clone() };
                ("allow", Some(user), Some(ask.to_string()), Some(format!("for {seconds} s")))
            }
            AdminRequest::Grants => ("grants", None, None, None),
            AdminRequest::GrantRemove { grant } => ("grants remove", None, Some(grant.to_string()), None),
            AdminRequest::Sessions => ("sessions", None, None, None),
            AdminRequest::Cut { what } => ("cut", None, Some(what.clone()), None),
            AdminRequest::Revoke { whom: Revoked::User(user) } => ("revoke --user", Some(user), None, None),
            AdminRequest::Revoke { whom: Revoked::Device(device) } => {
                ("revoke --device", None, Some(device.clone()), None)
            }
            AdminRequest::Revoke { whom: Revoked::Session(session) } => {
                ("revoke --session", None, Some(session.clone()), None)
            }
            AdminRequest::Check { user, kind, target } => {
                let ask = Ask { kind: kind.clone(), target: target.clone() };
                ("check", Some(user), Some(ask.to_string()), None)
            }
        };
        Self {
            event: "admin",
            uid: Some(uid),
            command: Some(command),
            user: user.cloned(),
            target,
            arguments,
            ..Self::default()
        }
    }

    /// With what came of it.
    pub(in crate::lend) fn with_result<T>(self, result: &Result<T, LendError>) -> Self {
        match result {
            Ok(_) => Self { verdict: Some("done"), ..self },
            Err(error) => Self { verdict: Some("failed"), why: Some(error.line()), ..self },
        }
    }
}

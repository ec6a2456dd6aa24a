//! The admin's question to the gate: may this user have that, and by which rule?

use serde::{Deserialize, Serialize};

use super::{AdminReply, LendError, Lender, Refused, gate};
use crate::{
    policy::Principal,
    proto::{Ask, DeviceId, ErrorKind, UserName},
};

/// What the gate says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReply {
    /// Whether it would be granted.
    pub allowed: bool,
    /// The rule that allows it.
    pub rule: Option<String>,
    /// The addresses that would be connected to.
    pub addresses: Vec<String>,
    /// Why not, and how to mend it.
    pub reason: Option<String>,
    /// More of it.
    pub notes: Vec<String>,
    /// That the policy in force is an older one than the file, rules for the user that say less than they seem to, and that
    /// there is no such user.
    pub warnings: Vec<String>,
}

impl Lender {
    /// The gate's own function, for a user who need not be there.
    pub(super) async fn check(&self, user: UserName, ask: &Ask) -> Result<AdminReply, LendError> {
        let mut warnings = self.policy().warnings(&user);
        // What it decides by is no file any more, whose lines it names all the same.
        if let Some(refused) = self.refused_policy() {
            warnings
                .insert(0, format!("policy.toml is broken, and the policy of before stays in force: {}", refused.why));
        }
        if let Err(error) = self.known(&user).await {
            warnings.push(error.to_string());
        }
        // Rules go by user; the device plays no part yet.
        let principal = Principal { user, device: DeviceId::from_bytes([0; 8]) };
        Ok(AdminReply::Check(match gate::decide(self, &principal, None, ask).await {
            Ok(grant) => CheckReply {
                allowed: true,
                rule: Some(grant.rule().to_string()),
                addresses: grant.request().addresses().iter().map(ToString::to_string).collect(),
                reason: None,
                notes: Vec::new(),
                warnings,
            },
            Err(no) if no.kind() == ErrorKind::Policy => CheckReply {
                allowed: false,
                rule: None,
                addresses: Vec::new(),
                reason: Some(no.text().to_owned()),
                notes: no.notes().to_vec(),
                warnings,
            },
            // Neither yes nor no: a name that does not resolve, a target that is none.
            Err(no) => {
                return Err(LendError::Admin(Refused { kind: no.kind().to_string(), text: no.text().to_owned() }));
            }
        }))
    }
}

//! The answer to a borrower who asks what the policy lets him do.

use minicbor::{Decode, Encode};

use super::answer::cut;

/// Most bytes of the rules in one answer: what is left of a message is room for its framing.
pub const OWN_RULES_BYTES_MAX: usize = 48 * 1024;
/// What the framing of each rule costs at most, in bytes.
const FRAMING_BYTES: usize = 5;

/// The rules of a user, as `policy.toml:12 connect = "db.internal:5432"`; a deny beats every allow. Escape them before they
/// reach a terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct OwnRules {
    /// What is allowed.
    #[n(0)]
    pub allows: Vec<String>,
    /// What is denied.
    #[n(1)]
    pub denies: Vec<String>,
    /// How many more there are, for which there was no room.
    #[n(2)]
    pub left_out: u32,
}

impl OwnRules {
    /// As many as there is room for, the denies first: who does not see them would hope for too much.
    ///
    /// ```
    /// use capuchin::proto::{OWN_RULES_BYTES_MAX, OwnRules};
    /// let rules = OwnRules::new(vec!["policy.toml:3 shell = true".to_owned()], Vec::new());
    /// assert_eq!((rules.allows.len(), rules.left_out), (1, 0));
    /// let rules = OwnRules::new(vec!["x".repeat(500); 1000], Vec::new());
    /// assert_eq!(rules.allows.len() + rules.left_out as usize, 1000);
    /// assert!(rules.allows.len() * 500 <= OWN_RULES_BYTES_MAX);
    /// ```
    pub fn new(allows: Vec<String>, denies: Vec<String>) -> Self {
        let (mut room, mut left_out) = (OWN_RULES_BYTES_MAX, 0);
        let mut fit = |rules: Vec<String>| {
            let all = rules.len();
            let fits = |rule: &String| room.checked_sub(rule.len() + FRAMING_BYTES).map(|left| room = left).is_some();
            let kept: Vec<_> = rules.into_iter().map(cut).take_while(fits).collect();
            left_out += u32::try_from(all - kept.len()).unwrap_or(u32::MAX);
            kept
        };
        let denies = fit(denies);
        let allows = fit(allows);
        Self { allows, denies, left_out }
    }
}

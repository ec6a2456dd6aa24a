//! A whole policy file, from text to rules.

use toml::de::DeTable;

use super::{
    covered::{self, Covered},
    expectation,
    kind::Kind,
    path::LenderPath,
    problem::{PolicyError, Problem},
    reader::Reader,
    rule::{Groups, Patterns, Place, Rule, read_groups},
    terms::check_run_as,
};
use crate::proto::UserName;

/// Largest policy file, in bytes: [`PATTERNS_MAX`](super::PATTERNS_MAX) patterns fit easily, and a wrong path given as
/// the policy fills no memory.
pub const POLICY_BYTES_MAX: usize = 1 << 20;

/// The lender's rules. The default has none: it refuses everything.
///
/// ```
/// use capuchin::policy::Policy;
/// let text = r#"
/// [[allow]]
/// who = "alice"
/// connect = ["db.internal:5432"]
/// "#;
/// assert!(Policy::parse(text, "policy.toml").is_ok());
///
/// let error = Policy::parse(&text.replace("connect", "conect"), "policy.toml").unwrap_err();
/// assert_eq!(error.to_string(), "policy.toml:4: unknown key \"conect\" in [[allow]]: did you mean `connect`?");
/// ```
#[derive(Clone, Debug)]
pub struct Policy {
    pub(super) file: String,
    pub(super) allow: Vec<Rule>,
    deny: Vec<Rule>,
    /// Of the file; grants come and go.
    covered: Vec<Covered>,
}

impl Policy {
    /// Reads a policy and runs its `[[test]]` blocks. `file` is how refusals and errors call it.
    ///
    /// # Errors
    /// [`PolicyError`] with the line of a mistake, or of the first test that fails.
    pub fn parse(text: &str, file: &str) -> Result<Self, PolicyError> {
        let (bytes, limit) = (text.len(), POLICY_BYTES_MAX);
        if bytes > limit {
            return Err(PolicyError { file: file.to_owned(), line: 1, problem: Problem::TooLarge { bytes, limit } });
        }
        let mut reader = Reader::new(text, file);
        let document = DeTable::parse(text).map_err(|error| {
            let message = error.message().lines().collect::<Vec<_>>().join(", ");
            reader.error(error.span().unwrap_or_default(), Problem::Syntax { message })
        })?;
        let table = document.get_ref();
        if let Some((key, _)) = table.iter().find(|(key, _)| !KEYS.contains(&key.get_ref().as_ref())) {
            return Err(reader.unknown_key(key, "a policy", KEYS.into_iter()));
        }
        let groups = match table.get("groups") {
            Some(value) => read_groups(&mut reader, value)?,
            None => Groups::new(),
        };
        let allow = read_rules(&mut reader, table, "allow", Place::Allow, &groups)?;
        let deny = read_rules(&mut reader, table, "deny", Place::Deny, &groups)?;
        check_run_as(file, &allow)?;
        let covered = covered::find(&allow, &deny);
        let policy = Self { file: file.to_owned(), allow, deny, covered };
        if let Some(value) = table.get("test") {
            for block in reader.tables(value, "test")? {
                expectation::check(&mut reader, block, &policy)?;
            }
        }
        Ok(policy)
    }

    /// This policy with each `[[deny]]` of Unix sockets and programs holding also where links lead from its path, which is by what a
    /// request is judged. `real` says where that is: of a kind, a path, and whether the rule is for what is directly in it (`/*`).
    ///
    /// ```
    /// use capuchin::{policy::*, proto::DeviceId};
    /// let text = "[[allow]]\nwho = \"ana\"\nunix = \"/run\"\n[[deny]]\nwho = \"ana\"\nunix = \"/var/run/docker.sock\"";
    /// let docker = UnixConnect { path: LenderPath::parse("/run/docker.sock")? };
    /// let policy = Policy::parse(text, "policy.toml")?.with_denies_followed(|_, _, _| docker.path.clone());
    ///
    /// let ana = Principal { user: "ana".parse()?, device: DeviceId::from_digest(&[0; 32]) };
    /// assert!(decide(&policy, &ana, docker, &Facts::default()).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_denies_followed(mut self, real: impl Fn(Kind, &LenderPath, bool) -> LenderPath) -> Self {
        self.deny.iter_mut().for_each(|rule| rule.patterns.follow(&real));
        self.covered = covered::find(&self.allow, &self.deny);
        self
    }

    /// A line about each pattern of an `[[allow]]` that can never take effect, since a `[[deny]]` covers it whole for each of its
    /// users; without a full stop. What only several denies cover together is left out, and of very large files the rest.
    ///
    /// ```
    /// use capuchin::policy::Policy;
    /// let text = "[[allow]]\nwho = \"ana\"\nread = \"/srv/a\"\n[[deny]]\nwho = \"ana\"\nread = \"/srv\"";
    /// let warnings: Vec<_> = Policy::parse(text, "policy.toml")?.covered().collect();
    /// assert_eq!(warnings, ["policy.toml:3 read = \"/srv/a\" allows no read: policy.toml:6 read = \"/srv\" denies all of it"]);
    /// # Ok::<(), capuchin::policy::PolicyError>(())
    /// ```
    pub fn covered(&self) -> impl Iterator<Item = String> {
        self.covered.iter().map(Covered::warning)
    }

    /// The same, of what is allowed to one user.
    pub(super) fn covered_of(&self, user: &UserName) -> impl Iterator<Item = String> {
        self.covered.iter().filter_map(|covered| covered.warning_for(user, &self.allow, &self.deny))
    }

    /// What is allowed to a user, rule by rule.
    pub(super) fn allows<'p>(&'p self, user: &'p UserName) -> impl Iterator<Item = &'p Patterns> {
        self.allow_rules(user).map(|rule| &rule.patterns)
    }

    /// What is denied to a user, rule by rule.
    pub(super) fn denies<'p>(&'p self, user: &'p UserName) -> impl Iterator<Item = &'p Patterns> {
        self.deny.iter().filter(|rule| rule.who.names(user)).map(|rule| &rule.patterns)
    }

    pub(super) fn allow_rules<'p>(&'p self, user: &'p UserName) -> impl Iterator<Item = &'p Rule> {
        self.allow.iter().filter(|rule| rule.who.names(user))
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self { file: "policy.toml".to_owned(), allow: Vec::new(), deny: Vec::new(), covered: Vec::new() }
    }
}

fn read_rules(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    key: &'static str,
    place: Place,
    groups: &Groups,
) -> Result<Vec<Rule>, PolicyError> {
    let Some(value) = table.get(key) else { return Ok(Vec::new()) };
    reader.tables(value, key)?.into_iter().map(|block| Rule::read(reader, block, place, groups)).collect()
}

/// The keys of a policy.
const KEYS: [&str; 4] = ["groups", "allow", "deny", "test"];

#[cfg(test)]
mod tests;

//! `[groups]`, and one `[[allow]]` or `[[deny]]`: whom it names and what it covers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use super::{
    kind::Kind,
    listen::ListenPattern,
    path::{LenderPath, PathPattern},
    pattern::{HostPattern, Target},
    problem::{PolicyError, Problem},
    program::ProgramPattern,
    reader::{Block, Entry, Key, Reader, Value},
    refusal::RuleRef,
    terms::RuleTerms,
    word::{WordError, WordPattern},
};
use crate::proto::UserName;

pub(super) type Groups = BTreeMap<String, Arc<BTreeSet<UserName>>>;

#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub who: Who,
    pub patterns: Patterns,
    pub terms: RuleTerms,
}

/// What one rule covers, by kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Patterns {
    pub connect: Vec<Entry<Target>>,
    pub udp: Vec<Entry<Target>>,
    pub listen: Vec<Entry<ListenPattern>>,
    pub unix: Vec<Entry<PathPattern>>,
    pub unix_listen: Vec<Entry<PathPattern>>,
    pub resolve: Vec<Entry<HostPattern>>,
    /// Whether its `connect` and `udp` bring only the names of its `resolve` along, and not all.
    pub names_narrowed: bool,
    pub read: Vec<Entry<PathPattern>>,
    pub write: Vec<Entry<PathPattern>>,
    pub exec: Vec<Entry<ProgramPattern>>,
    pub shell: Vec<Entry<()>>,
    pub python: Vec<Entry<()>>,
    pub env_send: Vec<Entry<WordPattern>>,
    pub env_read: Vec<Entry<WordPattern>>,
    pub service_offer: Vec<Entry<WordPattern>>,
    pub service_use: Vec<Entry<WordPattern>>,
}

/// The users of a rule; groups are shared, since many rules may name a large one.
#[derive(Clone, Debug, Default)]
pub(super) struct Who {
    users: BTreeSet<UserName>,
    groups: Vec<Arc<BTreeSet<UserName>>>,
}

/// The kind of block that a key stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Allow,
    Deny,
    Test,
}

impl Rule {
    pub fn read(
        reader: &mut Reader<'_>,
        (span, table): Block<'_, '_>,
        place: Place,
        groups: &Groups,
    ) -> Result<Self, PolicyError> {
        let mut rule = Self { who: Who::default(), patterns: Patterns::default(), terms: RuleTerms::default() };
        for (key, value) in table {
            if key.get_ref() == "who" {
                rule.who = Who::read(reader, value, groups)?;
                continue;
            }
            let known = rule.patterns.read(reader, key, value, place)?
                || (place == Place::Allow && rule.terms.read(reader, key, value)?);
            if !known {
                return Err(reader.unknown_key(key, place.name(), place.keys()));
            }
        }
        if !table.contains_key("who") {
            return Err(reader.missing_key(span, "who", place.name()));
        }
        Ok(rule)
    }
}

impl Patterns {
    /// What it says about one kind.
    pub fn refs(&self, kind: Kind) -> Vec<RuleRef> {
        fn refs<T>(kind: Kind, entries: &[Entry<T>]) -> Vec<RuleRef> {
            entries.iter().map(|entry| RuleRef::new(kind, entry)).collect()
        }
        match kind {
            Kind::Connect => refs(kind, &self.connect),
            Kind::Udp => refs(kind, &self.udp),
            Kind::Listen => refs(kind, &self.listen),
            Kind::Unix => refs(kind, &self.unix),
            Kind::UnixListen => refs(kind, &self.unix_listen),
            Kind::Resolve => refs(kind, &self.resolve),
            Kind::Read => refs(kind, &self.read),
            Kind::Write => refs(kind, &self.write),
            Kind::Exec => refs(kind, &self.exec),
            Kind::Shell => refs(kind, &self.shell),
            Kind::Python => refs(kind, &self.python),
            Kind::EnvSend => refs(kind, &self.env_send),
            Kind::EnvRead => refs(kind, &self.env_read),
            Kind::ServiceOffer => refs(kind, &self.service_offer),
            Kind::ServiceUse => refs(kind, &self.service_use),
            // No key of its own.
            Kind::Profile => Vec::new(),
        }
    }

    /// Of a deny: what it says of paths holds also where `real` says that links lead from there.
    pub fn follow(&mut self, real: &impl Fn(Kind, &LenderPath, bool) -> LenderPath) {
        for (kind, entries) in [(Kind::Unix, &mut self.unix), (Kind::UnixListen, &mut self.unix_listen)] {
            entries.iter_mut().for_each(|entry| entry.value.follow(|path, all| real(kind, path, all)));
        }
        self.exec.iter_mut().for_each(|entry| entry.value.follow(|path| real(Kind::Exec, path, false)));
    }

    /// Reads one key; `false` when it is none of a pattern.
    fn read(
        &mut self,
        reader: &mut Reader<'_>,
        key: &Key<'_>,
        value: &Value<'_>,
        place: Place,
    ) -> Result<bool, PolicyError> {
        match key.get_ref().as_ref() {
            "connect" => self.connect = reader.strings(value, "connect", Target::parse)?,
            "udp" => self.udp = reader.strings(value, "udp", Target::parse)?,
            "listen" => self.listen = reader.strings(value, "listen", ListenPattern::parse)?,
            "unix" => self.unix = reader.strings(value, "unix", PathPattern::parse_socket)?,
            "unix_listen" => self.unix_listen = reader.strings(value, "unix_listen", PathPattern::parse_socket)?,
            "resolve" => {
                self.resolve = reader.strings(value, "resolve", HostPattern::parse_name)?;
                self.names_narrowed = true;
            }
            "read" => self.read = reader.strings(value, "read", PathPattern::parse_tree)?,
            "write" => self.write = reader.strings(value, "write", PathPattern::parse_tree)?,
            "exec" => self.exec = ProgramPattern::read_all(reader, value)?,
            "shell" => self.shell = read_switch(reader, value, "shell", place)?,
            "python" => self.python = read_switch(reader, value, "python", place)?,
            "env" => {
                let parse = WordPattern::parse_variable;
                [self.env_send, self.env_read] = read_parts(reader, value, "env", ["send", "read"], parse)?;
            }
            "services" => {
                let parse = WordPattern::parse_service;
                [self.service_offer, self.service_use] =
                    read_parts(reader, value, "services", ["offer", "use"], parse)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl Who {
    /// One user alone.
    pub fn user(user: UserName) -> Self {
        Self { users: BTreeSet::from([user]), groups: Vec::new() }
    }

    pub fn names(&self, user: &UserName) -> bool {
        self.users.contains(user) || self.groups.iter().any(|group| group.contains(user))
    }

    /// Every user it names, some of them twice.
    pub fn all(&self) -> impl Iterator<Item = &UserName> {
        self.users.iter().chain(self.groups.iter().flat_map(|group| group.iter()))
    }

    fn read(reader: &mut Reader<'_>, value: &Value<'_>, groups: &Groups) -> Result<Self, PolicyError> {
        let mut who = Self::default();
        let items = value.get_ref().as_array().map_or(std::slice::from_ref(value), |items| items);
        if items.is_empty() {
            return Err(reader.bad_value(value, "who", "write at least one user or \"group:NAME\""));
        }
        for item in items {
            match item.get_ref().as_str().and_then(|text| text.strip_prefix("group:")) {
                Some(name) => {
                    reader.string(item, "who", |_| name.parse::<UserName>())?;
                    let group = groups.get(name).cloned();
                    let unknown = || reader.error(item.span(), Problem::UnknownGroup { group: name.to_owned() });
                    who.groups.push(group.ok_or_else(unknown)?);
                }
                None => {
                    who.users.insert(reader.string(item, "who", str::parse)?.value);
                }
            }
        }
        Ok(who)
    }
}

impl Place {
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "[[allow]]",
            Self::Deny => "[[deny]]",
            Self::Test => "[[test]]",
        }
    }

    /// Every key that may stand here.
    pub fn keys(self) -> impl Iterator<Item = &'static str> + Clone {
        let own: &[&str] = match self {
            Self::Allow => &RuleTerms::KEYS,
            Self::Deny => &[],
            Self::Test => &["expect", "resolves_to"],
        };
        KEYS.into_iter().chain(own.iter().copied())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Reads `[groups]`: names of groups, each with a list of users, who need not exist.
pub(super) fn read_groups(reader: &mut Reader<'_>, value: &Value<'_>) -> Result<Groups, PolicyError> {
    let mut groups = Groups::new();
    for (key, value) in reader.table(value, "groups")? {
        if key.get_ref().parse::<UserName>().is_err() {
            let message = "a group is named like a user: 1 to 32 of a-z 0-9 _ . -".to_owned();
            return Err(reader.error(key.span(), Problem::BadValue { key: "groups", message }));
        }
        let users = reader.strings(value, "groups", str::parse)?;
        let users: BTreeSet<UserName> = users.into_iter().map(|user| user.value).collect();
        groups.insert(key.get_ref().to_string(), Arc::new(users));
    }
    Ok(groups)
}

/// A switch that is off is as good as absent; in a deny it would read as if it allowed.
fn read_switch(
    reader: &Reader<'_>,
    value: &Value<'_>,
    key: &'static str,
    place: Place,
) -> Result<Vec<Entry<()>>, PolicyError> {
    match reader.flag(value, key)? {
        true => Ok(vec![Entry { value: (), origin: reader.origin(value), text: "true".to_owned() }]),
        false if place == Place::Allow => Ok(Vec::new()),
        false => {
            let message = format!("false says nothing in {place}: write true, or leave the key out");
            Err(reader.bad_value(value, key, message))
        }
    }
}

/// A table with two lists of names.
fn read_parts(
    reader: &mut Reader<'_>,
    value: &Value<'_>,
    place: &'static str,
    parts: [&'static str; 2],
    parse: fn(&str) -> Result<WordPattern, WordError>,
) -> Result<[Vec<Entry<WordPattern>>; 2], PolicyError> {
    let [first, second] = parts;
    let mut lists = [Vec::new(), Vec::new()];
    let [first_list, second_list] = &mut lists;
    for (key, value) in reader.table(value, place)? {
        match key.get_ref().as_ref() {
            part if part == first => *first_list = reader.strings(value, first, parse)?,
            part if part == second => *second_list = reader.strings(value, second, parse)?,
            _ => return Err(reader.unknown_key(key, place, parts.into_iter())),
        }
    }
    Ok(lists)
}

/// The keys of every block.
const KEYS: [&str; 14] = [
    "who",
    "connect",
    "udp",
    "listen",
    "unix",
    "unix_listen",
    "resolve",
    "read",
    "write",
    "exec",
    "shell",
    "python",
    "env",
    "services",
];

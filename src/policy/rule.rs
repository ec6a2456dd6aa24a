//! `[groups]`, and one `[[allow]]` or `[[deny]]`: whom it names and what it covers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use super::{
    pattern::Target,
    problem::{PolicyError, Problem},
    reader::{Block, Entry, Key, Reader, Value},
    undecided::Undecided,
};
use crate::proto::UserName;

pub(super) type Groups = BTreeMap<String, Arc<BTreeSet<UserName>>>;

#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub who: Who,
    pub connect: Vec<Entry<Target>>,
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
        let mut rule = Self { who: Who::default(), connect: Vec::new() };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "who" => rule.who = Who::read(reader, value, groups)?,
                "connect" => rule.connect = reader.strings(value, "connect", Target::parse)?,
                other => match Undecided::with_key(other) {
                    Some(kind) => kind.check(reader, value, place)?,
                    None if place == Place::Allow => check_term(reader, key, value)?,
                    None => return Err(reader.unknown_key(key, place.name(), place.keys())),
                },
            }
        }
        if !table.contains_key("who") {
            return Err(reader.missing_key(span, "who", place.name()));
        }
        Ok(rule)
    }
}

impl Who {
    pub fn names(&self, user: &UserName) -> bool {
        self.users.contains(user) || self.groups.iter().any(|group| group.contains(user))
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
            Self::Allow => &TERMS,
            Self::Deny => &[],
            Self::Test => &["expect", "resolves_to"],
        };
        ["who", "connect"].into_iter().chain(Undecided::ALL.map(Undecided::key)).chain(own.iter().copied())
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

/// The keys of an `[[allow]]` that say how something is lent, and not what.
const TERMS: [&str; 5] = ["limits", "run_as", "allow_root", "setuid", "detach"];
const LIMITS: [&str; 4] = ["streams", "sessions", "mbit", "hours"];

fn check_term(reader: &mut Reader<'_>, key: &Key<'_>, value: &Value<'_>) -> Result<(), PolicyError> {
    match TERMS.into_iter().find(|term| term == key.get_ref()) {
        Some("limits") => {
            for (key, value) in reader.table(value, "limits")? {
                match LIMITS.into_iter().find(|limit| limit == key.get_ref()) {
                    Some(limit) => reader.count(value, limit).map(drop)?,
                    None => return Err(reader.unknown_key(key, "limits", LIMITS.into_iter())),
                }
            }
            Ok(())
        }
        Some("run_as") => reader.string(value, "run_as", str::parse::<UserName>).map(drop),
        Some(flag) => reader.flag(value, flag).map(drop),
        None => Err(reader.unknown_key(key, Place::Allow.name(), Place::Allow.keys())),
    }
}

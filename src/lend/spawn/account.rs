//! The user of this machine whom a borrower's programs run as.

use std::path::PathBuf;

use crate::{
    lend::{
        by_terms,
        os_user::{Account, owner_name},
        own_user::{ALLOW_ROOT, RUN_AS, run_as},
    },
    policy::Terms,
    proto::{Refusal, UserName},
};

/// Whom programs of `user` run as, by the terms of the policy.
///
/// # Errors
/// The refusal: by the terms there is nobody, or the machine does not know him.
pub(in crate::lend) fn account(user: &UserName, terms: &Terms) -> Result<Account, Refusal> {
    let own = rustix::process::geteuid().as_raw();
    let name = terms.run_as.as_ref().map(UserName::as_str);
    let account = match name {
        Some(name) => Account::named(name).ok_or_else(|| {
            let why = format!("run_as = \"{name}\" for {user}: /etc/passwd of the lender has no such user");
            by_terms::refusal(user, why, RUN_AS)
        })?,
        None => Account::of(own).unwrap_or_else(|| Account::unnamed(own)),
    };
    if account.uid == 0 && !terms.allow_root {
        let why = match name {
            Some(name) => format!("run_as = \"{name}\" is root, and no rule for {user} says allow_root = true"),
            None => format!("this lender is root, and no rule for {user} says run_as or allow_root = true"),
        };
        return Err(by_terms::refusal(user, why, if name.is_some() { ALLOW_ROOT } else { RUN_AS }));
    }
    if own != 0 && account.uid != own {
        let why =
            format!("run_as = \"{}\" for {user}: this lender is not root and cannot become another", account.name);
        return Err(by_terms::refusal(user, why, &run_as(owner_name().0.as_str())));
    }
    Ok(account)
}

/// Where programs of an account begin: home, or what every machine has.
pub(super) fn folders(account: &Account) -> [PathBuf; 2] {
    [account.home.clone(), PathBuf::from("/")]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(terms: Terms) -> Result<String, String> {
        account(&"alice".parse().unwrap(), &terms)
            .map(|account| account.name)
            .map_err(|refusal| refusal.text().to_owned())
    }

    fn terms(run_as: Option<&str>, allow_root: bool) -> Terms {
        Terms { run_as: run_as.map(|name| name.parse().unwrap()), allow_root, ..Terms::default() }
    }

    #[test]
    fn root_is_nobody_unless_a_rule_says_so() {
        let error = judge(terms(Some("root"), false)).unwrap_err();
        assert!(error.contains("is root, and no rule for alice says allow_root"), "{error}");
        assert!(judge(terms(Some("nobody-has-this"), true)).unwrap_err().contains("no such user"));
        match rustix::process::geteuid().is_root() {
            true => {
                assert!(judge(terms(None, false)).unwrap_err().contains("run_as or allow_root"));
                assert_eq!(judge(terms(None, true)), Ok("root".to_owned()));
                assert_eq!(judge(terms(Some("daemon"), false)), Ok("daemon".to_owned()));
            }
            false => {
                assert!(judge(terms(None, false)).is_ok());
                assert!(judge(terms(Some("daemon"), false)).unwrap_err().contains("is not root"));
            }
        }
    }
}

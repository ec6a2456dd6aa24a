//! A request for a program, judged: the program, each variable, and the terms that it runs by.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use super::{
    account::{account, folders},
    choose::choose,
    environment,
};
use crate::{
    lend::{
        Lender,
        borrower::Borrower,
        by_terms, gate,
        os_user::Account,
        own_user::{ALLOW_ROOT, run_as},
        worker::Job,
    },
    policy::{self, Exec, Facts, Granted, Policy, Principal, SendVariable, Shell, Terms},
    proto::{ErrorKind, Program, Refusal, Spawn, UserName},
};

/// Proof that the policy allowed a program with its variables and terms; only [`judge`] makes one.
#[derive(Clone)]
pub(in crate::lend) struct SpawnGrant {
    program: GrantedProgram,
    /// The arguments, as the program is to see them.
    arguments: Vec<Vec<u8>>,
    variables: Vec<(Granted<SendVariable>, Vec<u8>)>,
    /// Those that can be left out. Once the program has them nothing takes them from it: they are judged until it starts.
    offered: Vec<(Granted<SendVariable>, Vec<u8>)>,
    account: Account,
    setuid: bool,
    detach: bool,
}

#[derive(Clone)]
enum GrantedProgram {
    Exec(Granted<Exec>),
    Shell(Granted<Shell>),
}

/// Judges everything that a request asks for, and does nothing but look.
pub(in crate::lend) async fn judge(
    borrower: &Borrower,
    wanted: &Spawn,
    arguments: Vec<Vec<u8>>,
    variables: Vec<Vec<u8>>,
) -> Result<SpawnGrant, Refusal> {
    let (lender, who) = (&borrower.lender, &borrower.principal);
    let policy = lender.policy();
    let terms = policy.terms(&who.user);
    let facts = Facts { own_folders: lender.own_folders(), ..Facts::default() };
    let refused = |no: policy::Refusal| gate::refusal(&no);
    let mut granted = Vec::with_capacity(variables.len());
    for variable in variables {
        let name = variable.split(|byte| *byte == b'=').next().unwrap_or_default();
        let usage = |why: String| Refusal::new(ErrorKind::Usage, why);
        let name = std::str::from_utf8(name).map_err(|_| usage("a variable's name is not text".to_owned()))?;
        let request = SendVariable::parse(name).map_err(|error| usage(error.to_string()))?;
        granted.push((policy::decide(&policy, who, request, &facts).map_err(refused)?, variable));
    }
    let account = find_account(lender, &who.user, &terms).await?;
    let program = match wanted.what {
        Program::Shell => GrantedProgram::Shell(policy::decide(&policy, who, Shell, &facts).map_err(refused)?),
        Program::Exec => {
            // Whoever it would run as, the policy judges the program first.
            let home = account.as_ref().map_or_else(|_| Path::new("/").to_owned(), |account| account.home.clone());
            GrantedProgram::Exec(choose(borrower, &policy, &arguments, &start_folder(wanted, &home)).await?)
        }
    };
    allow_detach(&terms, &who.user, wanted.detach)?;
    let (account, setuid, detach) = (account?, terms.setuid, wanted.detach);
    let offered = offered(&policy, who, &facts, &wanted.offered);
    Ok(SpawnGrant { program, arguments, variables: granted, offered, account, setuid, detach })
}

/// Of the variables that may be left out, those that the policy lets through.
fn offered(
    policy: &Policy,
    who: &Principal,
    facts: &Facts<'_>,
    variables: &[Vec<u8>],
) -> Vec<(Granted<SendVariable>, Vec<u8>)> {
    let allowed = |variable: &Vec<u8>| {
        let name = std::str::from_utf8(variable.split(|byte| *byte == b'=').next()?).ok()?;
        let grant = policy::decide(policy, who, SendVariable::parse(name).ok()?, facts).ok()?;
        Some((grant, variable.clone()))
    };
    variables.iter().filter_map(allowed).collect()
}

/// Judges a program that runs by the policy of now. What was only offered to it is no reason to end it: nobody asked for that.
pub(in crate::lend) fn still(borrower: &Borrower, grant: &SpawnGrant) -> Result<(), Refusal> {
    let (lender, who) = (&borrower.lender, &borrower.principal);
    let policy = lender.policy();
    let terms = policy.terms(&who.user);
    let facts = Facts { own_folders: lender.own_folders(), ..Facts::default() };
    let program = match &grant.program {
        GrantedProgram::Exec(exec) => exec.again(&policy, who, &facts),
        GrantedProgram::Shell(shell) => shell.again(&policy, who, &facts),
    };
    program.map_err(|no| gate::refusal(&no))?;
    for (variable, _) in &grant.variables {
        variable.again(&policy, who, &facts).map_err(|no| gate::refusal(&no))?;
    }
    allow_detach(&terms, &who.user, grant.detach)?;
    let line = match grant.is_still_of(terms.run_as.as_ref(), terms.allow_root) {
        true if grant.setuid && !terms.setuid => "setuid = true".to_owned(),
        true => return Ok(()),
        false if grant.account.uid == 0 && !terms.allow_root => ALLOW_ROOT.to_owned(),
        false => run_as(&grant.account.name),
    };
    Err(by_terms::refusal(&who.user, "the user that programs run as, or what they may gain, has changed", &line))
}

impl SpawnGrant {
    /// Leaves out what was offered and may not be sent by the policy of now, which the program is about to have.
    pub(super) fn judge_offered_again(&mut self, borrower: &Borrower) {
        let (lender, who) = (&borrower.lender, &borrower.principal);
        let policy = lender.policy();
        let facts = Facts { own_folders: lender.own_folders(), ..Facts::default() };
        self.offered.retain(|(variable, _)| variable.again(&policy, who, &facts).is_ok());
    }

    /// The rule that allowed the program.
    pub(in crate::lend) fn rule(&self) -> String {
        match &self.program {
            GrantedProgram::Exec(exec) => exec.rule().to_string(),
            GrantedProgram::Shell(shell) => shell.rule().to_string(),
        }
    }

    /// Whether programs still run as its user, by the terms of now; what the machine calls him is not asked again.
    fn is_still_of(&self, run_as: Option<&UserName>, allow_root: bool) -> bool {
        let same = match run_as {
            Some(name) => self.account.name == name.as_str(),
            None => self.account.uid == rustix::process::geteuid().as_raw(),
        };
        same && (self.account.uid != 0 || allow_root)
    }

    /// The program with its arguments, as the audit has it.
    pub(in crate::lend) fn target(&self) -> String {
        match &self.program {
            GrantedProgram::Exec(exec) => exec.request().command_line(),
            GrantedProgram::Shell(_) => format!("shell of {}", self.account.name),
        }
    }

    /// The program, in errors.
    pub(super) fn name(&self) -> String {
        match &self.program {
            GrantedProgram::Exec(exec) => exec.request().path.to_string(),
            GrantedProgram::Shell(_) => self.account.shell.display().to_string(),
        }
    }

    /// What the worker is to do.
    pub(super) fn into_job(self, wanted: &Spawn) -> Job {
        let Self { program, mut arguments, variables, offered, account, setuid, detach: _ } = self;
        let file = match program {
            GrantedProgram::Shell(_) => {
                // A login shell is one whose name begins so.
                let name = account.shell.file_name().unwrap_or_default().as_bytes();
                arguments = vec![[b"-", name].concat()];
                account.shell.as_os_str().as_bytes().to_vec()
            }
            GrantedProgram::Exec(exec) => {
                let (Exec { path, .. }, _) = exec.into_parts();
                let file = path.as_bytes().to_vec();
                // A program that does several things goes by what it is called: the name of a link that no rule has must not
                // choose for one that a rule has.
                let name = |path: &[u8]| path.rsplit(|byte| *byte == b'/').next().map(<[u8]>::to_vec);
                if let Some(called) = arguments.first_mut().filter(|called| name(called) != name(&file)) {
                    called.clone_from(&file);
                }
                file
            }
        };
        let own = rustix::process::geteuid().is_root();
        let folders = match &wanted.folder {
            Some(folder) => vec![account.home.join(OsStr::from_bytes(folder))],
            None => folders(&account).to_vec(),
        };
        let term = wanted.terminal.as_ref().map(|terminal| terminal.term.as_str()).filter(|term| !term.is_empty());
        // First: of two of a name the one counts that was asked for in earnest.
        let sent = offered.into_iter().chain(variables).map(|(_, variable)| variable).collect();
        Job {
            file,
            arguments: arguments.into_iter().map(Into::into).collect(),
            variables: environment::variables(&account, term, sent).into_iter().map(Into::into).collect(),
            folders: folders.iter().map(|folder| folder.as_os_str().as_bytes().to_vec().into()).collect(),
            terminal: wanted.terminal.clone(),
            piped: wanted.piped.to_vec(),
            who: own.then(|| (account.uid, account.gid, account.name.clone())),
            setuid,
        }
    }
}

/// Whom programs of `user` run as, for who asks about one and runs nothing.
///
/// # Errors
/// As [`account`], or the lender cannot look.
pub(in crate::lend) async fn runs_as(lender: &Lender, user: &UserName) -> Result<Account, Refusal> {
    find_account(lender, user, &lender.policy().terms(user)).await?
}

/// Whom the program would run as, by the system's list of users, which is a file.
async fn find_account(lender: &Lender, user: &UserName, terms: &Terms) -> Result<Result<Account, Refusal>, Refusal> {
    let asked = (user.clone(), terms.clone());
    let found = lender.shared.look_ups.run(user, move || account(&asked.0, &asked.1)).await;
    found.map_err(|why| why.refusal("the lender cannot look up the user that programs run as"))
}

fn start_folder(wanted: &Spawn, home: &Path) -> std::path::PathBuf {
    wanted.folder.as_ref().map_or_else(|| home.to_owned(), |folder| home.join(OsStr::from_bytes(folder)))
}

fn allow_detach(terms: &Terms, user: &UserName, detach: bool) -> Result<(), Refusal> {
    if terms.detach || !detach {
        return Ok(());
    }
    let why = "a program that outlives its session is refused: no rule says detach = true";
    Err(by_terms::refusal(user, why, "detach = true"))
}

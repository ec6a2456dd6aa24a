//! The lender's machine as its programs see it: routes, resolvers, names, and variables of its environment.

use super::{BorrowError, Borrower};
use crate::proto::{Answer, Machine, ProtocolError, Request};

impl Borrower {
    /// Asks what the network of the lender's machine looks like, and for these variables of its environment.
    ///
    /// Whoever may connect, send or look up anything may know it; each variable needs a rule `env = { read = [...] }`. A
    /// variable that is not set there is not in the answer.
    ///
    #[cfg_attr(feature = "lend", doc = "```")]
    #[cfg_attr(not(feature = "lend"), doc = "```text")]
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/doc_lab.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let (profiles, _web, _folder) = lab().await?;
    /// # let lab = capuchin::Borrower::connect_with(&profiles, "lab").await?;
    /// let machine = lab.profile(&[]).await?;
    /// for route in &machine.routes {
    ///     println!("{} from {:?}", route.prefix, route.source);
    /// }
    /// assert!(!machine.resolvers.is_empty());
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// The policy refuses the profile or one of the variables; more variables than 64, or names that are too long; the
    /// session is over.
    ///
    /// # Security
    /// Who may only listen is told nothing but variables. What is answered are the lender's words: values of variables can be any bytes.
    ///
    /// # Cancellation
    /// Nothing is left behind.
    pub async fn profile(&self, variables: &[&str]) -> Result<Machine, BorrowError> {
        let stream = self.open(&Request::Profile(variables.iter().map(|name| (*name).to_owned()).collect()))?;
        stream.finish();
        let answer = stream.read_message("answer").await;
        let machine: Machine = match answer.map_err(|error| BorrowError::answer(self.host(), "its profile", error))? {
            Answer::Granted(machine) => machine,
            Answer::Refused(refusal) => return Err(BorrowError::refused(self.host(), "its profile", &refusal)),
        };
        let broken = |error| BorrowError::protocol(self.host(), error);
        machine.check().map_err(broken)?;
        match stray(&machine, variables) {
            None => Ok(machine),
            Some(name) => {
                let got = format!("{name:?}");
                Err(broken(ProtocolError::Unexpected { expected: "the variables that were asked for", got }))
            }
        }
    }
}

/// A variable that nobody asked for: it must not find its way into an environment.
fn stray<'a>(machine: &'a Machine, asked: &[&str]) -> Option<&'a str> {
    let mut names = machine.variables.iter().map(|variable| variable.name.as_str());
    names.find(|name| !asked.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Variable;

    #[test]
    fn a_variable_that_nobody_asked_for_is_noticed() {
        let variable = |name: &str| Variable { name: name.to_owned(), value: Vec::new() };
        let machine = Machine { variables: vec![variable("LANG"), variable("LD_PRELOAD")], ..Machine::default() };
        assert_eq!(stray(&machine, &["LANG"]), Some("LD_PRELOAD"));
        assert_eq!(stray(&machine, &["LD_PRELOAD", "LANG"]), None);
    }
}

//! What a line says: one event with its fields, each bounded.

use serde::Serialize;

use super::AuditError;

/// Longest text in one field, in bytes as they stand in the file: a line stays readable, and a peer that writes long names
/// fills no disk.
pub(in crate::lend) const FIELD_BYTES_MAX: usize = 4096;

/// One event; fields that do not apply are left out. docs/AUDIT.md lists events and fields.
#[derive(Clone, Debug, Default, Serialize)]
pub(in crate::lend) struct Event {
    pub(in crate::lend) event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::lend) session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::lend) user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::lend) device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::lend) serial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::lend) peer: Option<String>,
    /// The OS user who gave an admin's command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::lend) uid: Option<u32>,
    /// An admin's command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::lend) command: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::lend) target: Option<String>,
    /// What else a command was given; never a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::lend) arguments: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::lend) verdict: Option<&'static str>,
    /// How a user logged in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::lend) method: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::lend) rule: Option<String>,
    /// Why not, or why it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::lend) why: Option<String>,
    /// How many times, where one line stands for many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::lend) count: Option<u64>,
    /// From the borrower, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::lend) bytes_in: Option<u64>,
    /// To the borrower, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::lend) bytes_out: Option<u64>,
}

impl Event {
    /// An event of the log itself.
    pub(super) fn of_log(event: &'static str, why: String) -> Self {
        Self { event, why: Some(why), ..Self::default() }
    }

    /// The line up to its hash, as printable ASCII.
    pub(super) fn body(&self, seq: u64, time: &str) -> Result<String, AuditError> {
        let mut event = self.clone();
        let texts = [
            &mut event.session,
            &mut event.user,
            &mut event.device,
            &mut event.serial,
            &mut event.peer,
            &mut event.target,
            &mut event.arguments,
            &mut event.rule,
            &mut event.why,
        ];
        texts.into_iter().flatten().for_each(shorten);
        let text = serde_json::to_string(&Line { seq, time, event: &event })
            .map_err(|error| AuditError::Event { event: self.event, why: error.to_string() })?;
        Ok(super::ascii_json(text.strip_suffix('}').unwrap_or(&text)))
    }
}

#[derive(Serialize)]
struct Line<'a> {
    seq: u64,
    time: &'a str,
    #[serde(flatten)]
    event: &'a Event,
}

/// Cuts a text so that it fits its field once it is escaped; one that was cut ends in dots.
fn shorten(text: &mut String) {
    const CUT: &str = "...";
    let (mut width, mut cut_at) = (0, 0);
    for (at, c) in text.char_indices() {
        width += match c {
            '"' | '\\' => 2,
            ' '..='~' => 1,
            c => 6 * c.len_utf16(),
        };
        if width > FIELD_BYTES_MAX {
            text.truncate(cut_at);
            text.push_str(CUT);
            return;
        }
        if width <= FIELD_BYTES_MAX - CUT.len() {
            cut_at = at + c.len_utf8();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body_with(target: &str) -> String {
        Event { event: "request", target: Some(target.to_owned()), ..Event::default() }.body(1, "now").unwrap()
    }

    fn field_of(body: &str) -> serde_json::Value {
        serde_json::from_str::<serde_json::Value>(&format!("{body}}}")).unwrap()["target"].clone()
    }

    #[test]
    fn a_long_text_is_cut_and_says_so() {
        for long in ["x", "\"", "\n", "é", "\u{1f412}"] {
            let body = body_with(&long.repeat(10_000));
            assert!(body.len() <= FIELD_BYTES_MAX + 60, "{} bytes", body.len());
            assert!(field_of(&body).as_str().unwrap().ends_with("..."));
        }
        assert_eq!(field_of(&body_with(&"x".repeat(FIELD_BYTES_MAX))).as_str().unwrap().len(), FIELD_BYTES_MAX);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_one_line_of_ascii_that_reads_back(target in "\\PC{0,40}|(?s).{0,40}") {
            let body = body_with(&target);
            proptest::prop_assert!(body.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
            proptest::prop_assert_eq!(field_of(&body), target);
        }
    }
}

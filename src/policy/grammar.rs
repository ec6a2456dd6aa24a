//! The shapes of single texts in a policy: paths, and names of variables and services.

/// Longest name of a variable or a service, in bytes.
const NAME_MAX: usize = 255;

/// Why a text does not have the shape that its key needs.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum ShapeError {
    #[error("{0:?} is not an absolute path: begin with `/`, without `.`, `..` or `//`")]
    Path(String),
    #[error("{0:?}: a folder covers everything below it, write it without `*`")]
    PathStar(String),
    #[error("{0:?}: a `*` is the whole last component of a path, as in /run/user/1000/*")]
    SocketStar(String),
    #[error("{0:?} is not a variable: use letters, digits and _, not a digit first, and `*` only at the end")]
    Variable(String),
    #[error("{0:?} is not a service: use letters, digits, _ . and -, and `*` only at the end")]
    Service(String),
    #[error("an argument has no NUL byte")]
    Argument,
}

/// Whole components and everything below; `/` is all.
pub(super) fn path(text: &str) -> Result<(), ShapeError> {
    if text.contains('*') {
        return Err(ShapeError::PathStar(text.to_owned()));
    }
    absolute(text)
}

/// A path, or a folder and `/*` for the sockets directly in it.
pub(super) fn socket_path(text: &str) -> Result<(), ShapeError> {
    let path = text.strip_suffix("/*").unwrap_or(text);
    if path.contains('*') {
        return Err(ShapeError::SocketStar(text.to_owned()));
    }
    if path.is_empty() && !text.is_empty() { Ok(()) } else { absolute(path) }
}

/// The path of a program, or `*` for any.
pub(super) fn program(text: &str) -> Result<(), ShapeError> {
    if text == "*" { Ok(()) } else { path(text) }
}

pub(super) fn argument(text: &str) -> Result<(), ShapeError> {
    if text.contains('\0') { Err(ShapeError::Argument) } else { Ok(()) }
}

pub(super) fn variable(text: &str) -> Result<(), ShapeError> {
    let fits = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    if is_name(text, fits) && !text.starts_with(|c: char| c.is_ascii_digit()) {
        Ok(())
    } else {
        Err(ShapeError::Variable(text.to_owned()))
    }
}

pub(super) fn service(text: &str) -> Result<(), ShapeError> {
    let fits = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-');
    if is_name(text, fits) { Ok(()) } else { Err(ShapeError::Service(text.to_owned())) }
}

fn absolute(text: &str) -> Result<(), ShapeError> {
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    let fits = match text.strip_prefix('/') {
        Some("") => true,
        Some(rest) => rest.split('/').all(plain),
        None => false,
    };
    if fits { Ok(()) } else { Err(ShapeError::Path(text.to_owned())) }
}

/// A name, or the beginning of one and `*`; `*` alone is every name.
fn is_name(text: &str, fits: impl Fn(u8) -> bool) -> bool {
    (1..=NAME_MAX).contains(&text.len()) && text.strip_suffix('*').unwrap_or(text).bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute_and_plain() {
        for good in ["/", "/srv", "/srv/data/out", "/srv/with space"] {
            assert_eq!(path(good), Ok(()), "{good}");
        }
        for bad in ["", "srv", "/srv/", "/srv//x", "/srv/../etc", "/./x", "/a\0b", "/srv/*", "~/x"] {
            assert!(path(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_star_ends_a_path_only_where_sockets_are_named() {
        for good in ["/run/app.sock", "/run/user/1000/*", "/*", "/"] {
            assert_eq!(socket_path(good), Ok(()), "{good}");
        }
        for bad in ["", "*", "/run/*/x", "/run/a*", "run/*", "/run/../*"] {
            assert!(socket_path(bad).is_err(), "{bad:?}");
        }
        assert_eq!((program("*"), program("/usr/bin/git")), (Ok(()), Ok(())));
        assert!(program("git").is_err() && program("/usr/bin/*").is_err());
    }

    #[test]
    fn a_star_ends_a_name_and_stands_nowhere_else() {
        for good in ["LANG", "LC_*", "*", "_x1"] {
            assert_eq!((variable(good), service(good)), (Ok(()), Ok(())), "{good}");
        }
        for bad in ["", "L*G", "**", "*X", "A=B", "A B", "A\0"] {
            assert!(variable(bad).is_err() && service(bad).is_err(), "{bad:?}");
        }
        assert!(variable("1X").is_err() && variable("a-b").is_err() && service("pay-roll.v1").is_ok());
    }
}

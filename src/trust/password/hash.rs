//! argon2id, with parameters that no setting weakens.

use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::phc::{Output, ParamsString, PasswordHash, Salt},
};
use aws_lc_rs::constant_time;
use zeroize::Zeroizing;

use super::{PASSWORD_MIN, Password, PasswordError};
use crate::trust::random::random;

/// Memory that hashes need, kept from one to the next so that the kernel need not find and clear 64 MiB each time.
#[derive(Default)]
pub(super) struct Blocks(Vec<Block>);

/// Hashes a password that is being set, as a PHC string. Takes about 0.1 s and 64 MiB: see [`PasswordQueue`].
///
/// # Errors
/// If it is too short to be set.
///
/// [`PasswordQueue`]: super::PasswordQueue
pub fn hash(password: &Password) -> Result<String, PasswordError> {
    hash_with(&mut Blocks::default(), password)
}

/// Whether this is the password of the hash.
///
/// # Errors
/// If the hash is not of our kind, or its parameters are outside what we accept.
pub fn verify(password: &Password, phc: &str) -> Result<bool, PasswordError> {
    verify_with(&mut Blocks::default(), password, phc)
}

pub(super) fn hash_with(blocks: &mut Blocks, password: &Password) -> Result<String, PasswordError> {
    if password.chars() < PASSWORD_MIN {
        return Err(PasswordError::TooShort);
    }
    let salt = random::<SALT_LEN>();
    let output = compute(blocks, params(), password, &salt, OUTPUT_LEN)?;
    let phc = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&params()).map_err(|_| WRONG)?,
        salt: Some(Salt::new(&salt).map_err(|_| WRONG)?),
        hash: Some(Output::new(&output).map_err(|_| WRONG)?),
    };
    Ok(phc.to_string())
}

pub(super) fn verify_with(blocks: &mut Blocks, password: &Password, phc: &str) -> Result<bool, PasswordError> {
    let phc = PasswordHash::new(phc).map_err(|_| WRONG)?;
    if phc.algorithm != Algorithm::Argon2id.ident() || phc.version != Some(Version::V0x13.into()) {
        return Err(PasswordError::Hash("it is not argon2id, version 19"));
    }
    let (Some(salt), Some(expected)) = (&phc.salt, &phc.hash) else { return Err(WRONG) };
    let params = Params::try_from(&phc).map_err(|_| WRONG)?;
    let output = compute(blocks, accepted(params)?, password, salt, expected.len())?;
    Ok(constant_time::verify_slices_are_equal(&output, expected.as_bytes()).is_ok())
}

/// As long as a real check, for a user who has no password: how long we take must not tell who exists.
pub(super) fn verify_nobody(blocks: &mut Blocks, password: &Password) -> Result<(), PasswordError> {
    compute(blocks, params(), password, &[0; SALT_LEN], OUTPUT_LEN).map(drop)
}

/// The parameters of a stored hash, unless they are weak or costly enough to be an attack on the lender.
fn accepted(params: Params) -> Result<Params, PasswordError> {
    match (params.m_cost(), params.t_cost(), params.p_cost()) {
        (m, ..) if !(MEMORY_KIB_MIN..=MEMORY_KIB_MAX).contains(&m) => {
            Err(PasswordError::Hash("its memory is not within 19 to 256 MiB"))
        }
        (_, t, _) if t > PASSES_MAX => Err(PasswordError::Hash("it takes more than 10 passes")),
        (.., p) if p > LANES_MAX => Err(PasswordError::Hash("it has more than 4 lanes")),
        _ => Ok(params),
    }
}

fn compute(
    blocks: &mut Blocks,
    params: Params,
    password: &Password,
    salt: &[u8],
    length: usize,
) -> Result<Zeroizing<Vec<u8>>, PasswordError> {
    // The first pass overwrites what an earlier hash left here.
    blocks.0.resize(params.block_count(), Block::new());
    let mut output = Zeroizing::new(vec![0; length]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(password.as_bytes(), salt, &mut output, &mut blocks.0)
        .map_err(|_| WRONG)?;
    Ok(output)
}

fn params() -> Params {
    Params::new(MEMORY_KIB, PASSES, LANES, Some(OUTPUT_LEN)).expect("within what argon2 takes, see the test")
}

const WRONG: PasswordError = PasswordError::Hash("it cannot be read");
/// 64 MiB, three passes, one lane: 112 ms on the machine this was measured on.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 1;
/// What a stored hash may ask for.
const MEMORY_KIB_MIN: u32 = 19 * 1024;
const MEMORY_KIB_MAX: u32 = 256 * 1024;
const PASSES_MAX: u32 = 10;
const LANES_MAX: u32 = 4;
/// In bytes.
const SALT_LEN: usize = 16;
const OUTPUT_LEN: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn the_right_password_is_right_and_no_other() {
        let phc = hash(&password("correct horse")).unwrap();
        assert!(phc.starts_with("$argon2id$v=19$m=65536,t=3,p=1$"), "{phc}");
        assert!(verify(&password("correct horse"), &phc).unwrap());
        assert!(!verify(&password("correct horsf"), &phc).unwrap());
        assert!(!verify(&password(""), &phc).unwrap());
    }

    #[test]
    fn a_password_to_be_set_has_eight_characters() {
        assert!(matches!(hash(&password("1234567")), Err(PasswordError::TooShort)));
        assert!(matches!(hash(&password("ééééééé")), Err(PasswordError::TooShort)));
        assert!(hash(&password("éééééééé")).is_ok());
    }

    #[test]
    fn hashes_that_are_too_weak_or_too_costly_are_refused_unhashed() {
        let tail = "$c29tZXNhbHRzb21lc2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        for head in [
            "$argon2id$v=19$m=4194304,t=3,p=1",
            "$argon2id$v=19$m=262145,t=3,p=1",
            "$argon2id$v=19$m=8,t=3,p=1",
            "$argon2id$v=19$m=65536,t=11,p=1",
            "$argon2id$v=19$m=65536,t=4294967295,p=1",
            "$argon2id$v=19$m=65536,t=3,p=5",
            "$argon2id$v=16$m=65536,t=3,p=1",
            "$argon2id$m=65536,t=3,p=1",
            "$argon2i$v=19$m=65536,t=3,p=1",
            "$2b$10",
            "$argon2id$v=19$m=65536,t=3,p=1,m=8",
        ] {
            assert!(matches!(verify(&password("x"), &format!("{head}{tail}")), Err(PasswordError::Hash(_))), "{head}");
        }
        for text in ["", "$", "x", "$argon2id$v=19$m=65536,t=3,p=1", "$argon2id$v=19$m=65536,t=3,p=1$c29tZXNhbHQ"] {
            assert!(matches!(verify(&password("x"), text), Err(PasswordError::Hash(_))), "{text}");
        }
    }

    #[test]
    fn memory_used_before_gives_the_same_answer() {
        let mut blocks = Blocks::default();
        let first = hash_with(&mut blocks, &password("correct horse")).unwrap();
        verify_nobody(&mut blocks, &password("somebody else")).unwrap();
        assert!(verify_with(&mut blocks, &password("correct horse"), &first).unwrap());
    }
}

//! Random bytes, from the same library as the rest of the cryptography.

/// `N` bytes nobody can foresee.
///
/// # Panics
/// If the kernel gives no randomness. Nothing in this module may go on without it.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the kernel gives randomness");
    bytes
}

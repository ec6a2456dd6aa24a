//! A queue of bytes that holds little more memory than it has bytes, however small the pieces were.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::proto::{COPY_BYTES_MAX, with_lead};

/// Small pieces are gathered up to this size, in bytes.
const GATHER_BYTES: usize = 16 * 1024;

#[derive(Default)]
pub(super) struct Chunks {
    chunks: VecDeque<Bytes>,
    /// Small pieces that came behind `chunks`.
    tail: BytesMut,
    bytes: usize,
}

impl Chunks {
    pub(super) fn push(&mut self, bytes: Bytes) {
        // The first piece is read as it is; only behind others does a small one cost more than its bytes.
        if self.bytes > 0 && bytes.len() <= COPY_BYTES_MAX {
            return self.push_copy(&bytes);
        }
        self.seal();
        self.bytes += bytes.len();
        if !bytes.is_empty() {
            self.chunks.push_back(bytes);
        }
    }

    pub(super) fn push_copy(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        if bytes.len() > COPY_BYTES_MAX {
            self.seal();
            let mut chunk = with_lead(bytes.len());
            chunk.extend_from_slice(bytes);
            self.chunks.push_back(chunk.freeze());
            return;
        }
        if self.tail.len() + bytes.len() > GATHER_BYTES {
            self.seal();
        }
        self.tail.extend_from_slice(bytes);
    }

    /// The next bytes, at most `most`; `None` when there are none.
    pub(super) fn pop(&mut self, most: usize) -> Option<Bytes> {
        let chunk = match self.chunks.front_mut() {
            Some(first) if first.len() > most => first.split_to(most),
            Some(_) => self.chunks.pop_front()?,
            None if self.tail.is_empty() => return None,
            None if self.tail.len() > most => self.tail.split_to(most).freeze(),
            // Taken whole, so that an idle stream keeps no buffer.
            None => std::mem::take(&mut self.tail).freeze(),
        };
        self.bytes -= chunk.len();
        if self.bytes == 0 {
            // An idle stream keeps no list either.
            self.chunks = VecDeque::new();
        }
        Some(chunk)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(std::mem::take(&mut self.tail).freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_single_bytes_are_one_piece() {
        let mut chunks = Chunks::default();
        for _ in 0..1000 {
            chunks.push(Bytes::from_static(b"x"));
        }
        assert_eq!(chunks.bytes(), 1000);
        assert!(chunks.chunks.len() <= 1, "the first alone, the rest gathered");
        let pieces: Vec<_> = std::iter::from_fn(|| chunks.pop(usize::MAX)).collect();
        assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [1, 999]);
    }

    #[test]
    fn order_is_kept_whatever_the_sizes_and_cuts() {
        let (mut chunks, mut expected) = (Chunks::default(), Vec::new());
        for (index, size) in [1, 5000, 3, 2048, 2049, 16_000, 700, 1].into_iter().enumerate() {
            let piece = vec![index as u8; size];
            expected.extend_from_slice(&piece);
            if index % 2 == 0 { chunks.push(piece.into()) } else { chunks.push_copy(&piece) }
        }
        let mut got = Vec::new();
        while let Some(piece) = chunks.pop(777) {
            assert!(!piece.is_empty() && piece.len() <= 777);
            got.extend_from_slice(&piece);
        }
        assert_eq!((got, chunks.bytes()), (expected, 0));
    }
}

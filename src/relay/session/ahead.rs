//! Bytes of a client that are kept: what its upstream has not heard yet, and what it has not answered. They may hold a
//! password, so they leave no copy behind.

use std::cell::RefCell;
use std::ops::Deref;

use zeroize::Zeroize;

/// How much is taken in while nothing may pass. It has to be read to see that a client has left.
pub(super) const MOST: usize = 16 * 1024;

/// A buffer of this size serves most commands, and is used again; so many of them wait for that on each thread.
const SMALL: usize = 256;
const SPARE: usize = 64;

thread_local! {
    static SPARES: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug, Default)]
pub(super) struct Ahead(Vec<u8>);

impl Ahead {
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        // An empty one may still hold memory.
        Self(if bytes.is_empty() { Vec::new() } else { bytes })
    }

    /// Takes in more behind it.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    /// Makes room for so many bytes. A buffer that grew by itself would leave a copy behind.
    fn reserve(&mut self, more: usize) {
        if self.0.capacity() - self.0.len() >= more {
            return;
        }
        let size = (self.0.len() + more).max(2 * self.0.len());
        let spare = if size <= SMALL { SPARES.with_borrow_mut(Vec::pop) } else { None };
        let mut larger = spare.unwrap_or_else(|| Vec::with_capacity(size.max(SMALL)));
        larger.extend_from_slice(&self.0);
        *self = Self(larger);
    }

    /// For who reads on while the session does not: there is room for [`MOST`] bytes.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        self.reserve(MOST.saturating_sub(self.0.len()) + 4096);
        &mut self.0
    }

    /// So many of the first bytes have gone where they belong.
    pub(super) fn took(&mut self, length: usize) {
        if length == self.0.len() {
            // Its memory too.
            *self = Self::default();
        } else if length > 0 {
            let left = self.0.len() - length;
            self.0.copy_within(length.., 0);
            self.0[left..].zeroize();
            self.0.truncate(left);
        }
    }

    /// Puts bytes in front of it.
    pub(super) fn prepend(&mut self, bytes: &[u8]) {
        let mut all = Self::default();
        all.reserve(bytes.len() + self.0.len());
        all.0.extend_from_slice(bytes);
        all.0.extend_from_slice(&self.0);
        *self = all;
    }

    /// For what is no secret: gives the memory back as it is.
    pub(super) fn release(&mut self) {
        let mut buffer = std::mem::take(&mut self.0);
        if buffer.capacity() == SMALL {
            buffer.clear();
            // Behind the thread's end there is nobody to use it again.
            let _ = SPARES.try_with(|spares| {
                let mut spares = spares.borrow_mut();
                if spares.len() < SPARE {
                    spares.push(buffer);
                }
            });
        }
    }
}

impl Deref for Ahead {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // Most hold no memory.
        if self.0.capacity() > 0 {
            self.0.as_mut_slice().zeroize();
            self.release();
        }
    }
}

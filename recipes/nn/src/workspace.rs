//! Memory that a network computes in, kept from one pass to the next.
//!
//! A pass of a known shape finds all that it needs: fresh pages from the operating system cost more than a pass over
//! them does. What is kept is as large as the largest pass needed, once for each that ran at the same time.

use std::{
    cell::RefCell,
    fmt,
    sync::{Mutex, PoisonError},
};

use crate::aligned::Aligned;

/// The workspaces of a network: one for each pass that runs at the same time.
pub(crate) struct Workspaces<T>(Mutex<Vec<T>>);

impl<T> Workspaces<T> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }
}

impl<T: Default> Workspaces<T> {
    /// Calls `f` with a workspace that nobody else uses meanwhile, one used before if there is one.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        let kept = self.free().pop();
        let mut workspace = kept.unwrap_or_default();
        let result = f(&mut workspace);
        self.free().push(workspace);
        result
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<T>> {
        // A list of workspaces is whole whatever happened to those that held its lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for Workspaces<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Workspaces<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Workspaces")
    }
}

/// Calls `f` with `len` values of this thread's own, of any content, that begin on a cache line.
///
/// For the innermost tasks: `f` must not wait for other tasks, one of which might run here and want the same memory.
///
/// # Panics
/// It is called again from within `f`.
pub(crate) fn with_thread_memory<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local!(static MEMORY: RefCell<Aligned> = RefCell::default());
    MEMORY.with_borrow_mut(|memory| f(memory.at_least(len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_is_kept_and_never_shared() {
        let workspaces = Workspaces::<Vec<u8>>::default();
        workspaces.with(|outer| {
            outer.push(1);
            workspaces.with(|inner| {
                assert!(inner.is_empty());
                inner.extend([2, 3]);
            });
        });
        workspaces.with(|last| assert_eq!(*last, [1]));
        assert_eq!(workspaces.free().len(), 2);
    }

    #[test]
    fn memory_of_a_thread_starts_on_a_line_and_grows() {
        let address = with_thread_memory(100, |values| {
            values.fill(1.0);
            values.as_ptr() as usize
        });
        assert_eq!(address % 64, 0);
        with_thread_memory(50, |values| assert_eq!(values.len(), 50));
        with_thread_memory(5000, |values| assert_eq!(values.len(), 5000));
    }
}

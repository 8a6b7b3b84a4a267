//! Where a forward pass runs on the CPU.

/// Runs a forward pass on a thread of the CPU pool (rayon's global one).
///
/// `prepare` of other requests runs on the same pool. From inside it, a parallel step splits into tasks of the own
/// thread, which idle threads take over; from outside, each of the many steps of a network would line up behind all the
/// images that wait to be decoded.
pub fn run<R: Send>(forward: impl FnOnce() -> R + Send) -> R {
    // `scope` enters the pool, and so does nothing more when already there.
    rayon::scope(|_| forward())
}

//! Whether the engine takes requests: warming up, ready, failed or draining.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::watch;

use super::InferError;

/// What the engine is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Devices are being measured.
    WarmingUp,
    /// Requests are taken.
    Ready,
    /// A device cannot run anything; the reason is for operators.
    Failed(String),
    /// No new requests are taken; those accepted are answered.
    Draining,
}

impl State {
    /// Whether new requests are taken.
    ///
    /// # Errors
    /// They are not; the message says why.
    pub fn accepts(&self) -> Result<(), InferError> {
        match self {
            Self::Ready => Ok(()),
            Self::WarmingUp => Err(InferError::Unavailable("the server is warming up".into())),
            Self::Draining => Err(InferError::Unavailable(
                "the server is shutting down".into(),
            )),
            Self::Failed(_) => Err(InferError::Unavailable(
                "the device is out of service".into(),
            )),
        }
    }
}

/// The devices' hold on the state. Draining is final; a failure ends when a probe succeeds again.
#[derive(Clone)]
pub(super) struct StateSender {
    sender: watch::Sender<State>,
    warming: Arc<AtomicUsize>,
}

impl StateSender {
    pub(super) fn new(devices: usize) -> Self {
        Self {
            sender: watch::Sender::new(State::WarmingUp),
            warming: Arc::new(AtomicUsize::new(devices)),
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<State> {
        self.sender.subscribe()
    }

    pub(super) fn now(&self) -> State {
        self.sender.borrow().clone()
    }

    pub(super) fn device_ready(&self) {
        if self.warming.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.change(|state| (*state == State::WarmingUp).then_some(State::Ready));
        }
    }

    pub(super) fn fail(&self, reason: String) {
        self.change(|state| (*state != State::Draining).then_some(State::Failed(reason)));
    }

    pub(super) fn recover(&self) {
        self.change(|state| matches!(state, State::Failed(_)).then_some(State::Ready));
    }

    pub(super) fn drain(&self) {
        self.change(|_| Some(State::Draining));
    }

    fn change(&self, next: impl FnOnce(&State) -> Option<State>) {
        self.sender.send_if_modified(|state| match next(state) {
            Some(next) => {
                *state = next;
                true
            }
            None => false,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_once_every_device_is_and_draining_for_good() {
        let sender = StateSender::new(2);
        let state = sender.subscribe();
        sender.device_ready();
        assert!(state.borrow().accepts().is_err());
        sender.device_ready();
        assert!(state.borrow().accepts().is_ok());
        sender.fail("gone".into());
        assert!(state.borrow().accepts().is_err());
        sender.recover();
        assert!(state.borrow().accepts().is_ok());
        sender.drain();
        sender.recover();
        sender.fail("too late".into());
        assert_eq!(*state.borrow(), State::Draining);
    }

    #[test]
    fn a_device_that_failed_to_warm_up_keeps_the_engine_from_being_ready() {
        let sender = StateSender::new(2);
        sender.fail("broken".into());
        sender.device_ready();
        sender.device_ready();
        assert!(matches!(*sender.subscribe().borrow(), State::Failed(_)));
    }
}

//! Who goes next, with whom, and who is refused: decided by what a device is predicted to take.
//!
//! What is shared is a device's time. [`Queue`] shares a recipe's part among the requests that wait for it and forms
//! batches, [`Policy`] shares the device among the recipes and gives up what can no longer be answered in time, and
//! [`Pace`] says before a request is taken whether it can be. These are pure; [`Dispatcher`] is the thin shell that puts
//! a lock and a clock around the policy.

mod curve;
mod driver;
mod pace;
mod policy;
mod queue;
mod speed;
#[cfg(test)]
mod tests;

pub use curve::Curve;
pub use driver::{Dispatcher, Due, Next};
pub use pace::{Ahead, Pace, longest_batch};
pub use policy::{Lost, Policy, QueueId, Run, Seat, Step};
pub use queue::{Limits, Queue, Queued, RequestId, Wanted};
pub use speed::Speed;

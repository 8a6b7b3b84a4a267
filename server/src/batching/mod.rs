//! The queues in front of the devices: the policy that forms batches (pure), and the driver that holds the queues of all
//! recipes and hands batches to whichever device asks.

mod driver;
mod policy;

pub use driver::{Dispatcher, QueueId};
pub use policy::{Policy, Queue, Queued, Step};

//! `galley stream`: messages from a source, each answered by a recipe, the answers in a table.
//!
//! Delivery is at least once. A message is acknowledged only after its row is committed, and a row's key is the message's
//! id with the recipe and its revision: so no message is without a row and none has two. That is the effect of each once,
//! whatever dies in between; work may be done twice.
//!
//! - [`message`] is what a [`source`] delivers, [`row`] what a [`table`] keeps.
//! - [`ledger`] says what may be acknowledged and [`window`] how much may be in hand. They are pure: no I/O, no clock.
//! - [`broker`] is NATS JetStream: where it is, setting it up, and feeding it.
//! - [`guard`] says what may be fetched, and [`fetch`] does it.
//! - [`worker`] has messages in hand: `work` is one message's way, `writer` the rows' and `keeper` what is to be done every
//!   so often.
//!
//! No other folder knows a broker.

mod args;
pub mod broker;
pub mod config;
pub mod fetch;
pub mod guard;
pub mod ledger;
pub mod message;
pub mod outcome;
pub mod revision;
pub mod row;
mod run;
pub mod source;
pub mod table;
pub mod tally;
pub mod window;
pub mod worker;

pub use args::{StreamArgs, StreamCommand};
pub use config::StreamConfig;
pub use run::{open, run};

//! What a body may hold, and where its items are gathered. A byte of the body can cost tens of bytes as a value, so
//! that values are counted while they are built.

use std::cell::{Cell, RefCell};

use galley_core::{Input, InputError, InputKind};
use serde::de::Error;

use super::items::Items;
use crate::http::error::ApiError;

/// What a body may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The most items: no more could ever be queued.
    pub(super) items: usize,
    /// The most JSON values, at any depth.
    pub(super) values: usize,
    /// What the recipe takes.
    pub(super) kind: InputKind,
}

/// Where the visitors put items, and what counts them.
pub(super) struct Sink {
    bounds: Bounds,
    items: RefCell<Items>,
    values: Cell<usize>,
    exceeded: Cell<Option<ApiError>>,
}

impl Sink {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            items: RefCell::default(),
            values: Cell::new(0),
            exceeded: Cell::new(None),
        }
    }

    /// Whether items are files.
    pub(super) fn takes_files(&self) -> bool {
        self.bounds.kind == InputKind::File
    }

    /// Adds an item.
    pub(super) fn push(&self, item: Result<Input, InputError>) -> Result<(), ApiError> {
        let mut items = self.items.borrow_mut();
        let limit = self.bounds.items;
        if items.len() >= limit {
            return Err(ApiError::TooLarge {
                what: "the number of inputs".into(),
                limit: format!("{limit} items"),
                option: "--max-queue-size",
            });
        }
        items.push(item);
        Ok(())
    }

    pub(super) fn into_items(self) -> Items {
        self.items.into_inner()
    }

    /// The limit that was met, if one was.
    pub(super) fn exceeded(&self) -> Option<ApiError> {
        self.exceeded.take()
    }

    /// For visitors, which have to speak in their deserialiser's errors.
    pub(super) fn push_or<E: Error>(&self, item: Result<Input, InputError>) -> Result<(), E> {
        self.push(item).map_err(|error| self.exceed(error))
    }

    fn exceed<E: Error>(&self, error: ApiError) -> E {
        let text = E::custom(&error);
        self.exceeded.set(Some(error));
        text
    }

    pub(super) fn count<E: Error>(&self) -> Result<(), E> {
        let limit = self.bounds.values;
        if self.values.get() >= limit {
            return Err(self.exceed(ApiError::TooLarge {
                what: "the number of values in the body".into(),
                limit: format!("{limit} values, one for each 32 bytes of the largest body"),
                option: "--max-body",
            }));
        }
        self.values.set(self.values.get() + 1);
        Ok(())
    }
}

//! How a device resizes pictures of the sizes that came last.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use galley_nn::picture::Resize;

use crate::{View, orientation::Orientation};

/// Of so many sizes, of some 20 kB each. Most callers send pictures of few.
const MOST: usize = 256;

/// Pictures that are resized in one way: their pixels across and down as they are stored, and how they are turned.
type Alike = ([usize; 2], Orientation);

/// What a view makes of pictures.
#[derive(Debug)]
pub(crate) struct Resizes {
    view: View,
    made: Mutex<HashMap<Alike, Arc<Resize>>>,
}

impl Resizes {
    pub(crate) fn new(view: View) -> Self {
        Self {
            view,
            made: Mutex::default(),
        }
    }

    /// As [`View::on_device`], and the same one for pictures that are alike.
    pub(crate) fn of(&self, size: [usize; 2], orientation: Orientation) -> Option<Arc<Resize>> {
        let key = (size, orientation);
        // Each entry is whole whatever happened to those that held the lock.
        let made = || self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resize) = made().get(&key) {
            return Some(Arc::clone(resize));
        }
        let resize = Arc::new(self.view.on_device(size, orientation)?);
        let mut made = made();
        if made.len() >= MOST {
            made.clear();
        }
        Some(Arc::clone(made.entry(key).or_insert(resize)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_that_are_alike_share_one_and_others_have_their_own() {
        let view = View {
            resize: 40,
            crop: 36,
        };
        let resizes = Resizes::new(view);
        let upright = Orientation::default();
        let first = resizes.of([100, 50], upright).unwrap();
        assert!(Arc::ptr_eq(
            &first,
            &resizes.of([100, 50], upright).unwrap()
        ));
        for (size, number) in [([50, 100], 1), ([100, 50], 6)] {
            let orientation = Orientation::new(number);
            let other = resizes.of(size, orientation).unwrap();
            assert_eq!(Some(&*other), view.on_device(size, orientation).as_ref());
            assert_ne!(other, first);
        }
        for width in 0..2 * MOST {
            resizes.of([100 + width, 50], upright);
            assert!(resizes.made.lock().unwrap().len() <= MOST);
        }
    }
}

//! What commands print.

use std::io;

/// A command whose reader has gone (`galley predict ... | head`) has nobody left to print for, and ends without a word.
///
/// # Errors
/// Those of `result`, but for this one.
pub(crate) fn until_reader_goes(result: anyhow::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if has_no_reader(&error) => Ok(()),
        result => result,
    }
}

fn has_no_reader(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reader_that_has_gone_is_no_failure() {
        let result = |kind| until_reader_goes(Err(io::Error::from(kind).into()));
        assert!(result(io::ErrorKind::BrokenPipe).is_ok());
        assert!(result(io::ErrorKind::StorageFull).is_err());
        assert!(until_reader_goes(Err(anyhow::anyhow!("other"))).is_err());
    }
}

//! Work shared out: each pair of connections does one piece at a time, so that no server ever has more to do than it
//! has connections of ours.

use std::cell::RefCell;
use std::collections::VecDeque;

use super::session::Both;
use crate::ops::OpsError;

/// Does every piece; ends at the first error.
///
/// # Errors
/// Those of `work`.
pub(super) async fn each<T>(
    both: &[Both<'_>],
    pieces: VecDeque<T>,
    work: impl AsyncFn(&Both<'_>, T) -> Result<(), OpsError>,
) -> Result<(), OpsError> {
    let pieces = RefCell::new(pieces);
    let workers = both.iter().map(async |both| {
        loop {
            let piece = pieces.borrow_mut().pop_front();
            match piece {
                Some(piece) => work(both, piece).await?,
                None => return Ok(()),
            }
        }
    });
    futures_util::future::try_join_all(workers).await.map(|_: Vec<()>| ())
}

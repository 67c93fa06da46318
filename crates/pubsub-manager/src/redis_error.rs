//! The link's errors in this crate's words: what counts is whether it may have happened.

use crate::Error;
use redis_link::Error as LinkError;

pub(crate) fn translate(operation: &'static str, error: LinkError) -> Error {
    match error {
        error if error.outcome_unknown() => Error::Unknown { operation },
        LinkError::Timeout { after, .. } => Error::Timeout { operation, after },
        LinkError::Shutdown => Error::Shutdown { operation },
        LinkError::Unavailable { .. }
        | LinkError::Overloaded
        | LinkError::Epoch { .. }
        | LinkError::Epochs(_) => Error::Unavailable { operation, reason: error.to_string() },
        LinkError::TooLarge { size, limit, .. } => Error::TooLarge { limit, actual: size },
        LinkError::Unsupported { .. } => Error::Unsupported { operation, reason: error.to_string() },
        error => Error::backend(operation, error),
    }
}

//! The pool suite: reading a row, near and far; taking a connection and giving it back; many callers at once.

pub(crate) mod checkout;
pub(crate) mod far;
pub(crate) mod peers;
pub(crate) mod point_read;
pub(crate) mod spike;
